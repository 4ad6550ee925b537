"""How a command ends badly: one line that says what to do next, and a status that a script can tell apart."""


class Failed(Exception):
    """It did not work; the text is for the person at the terminal."""

    status = 1


class NotRunning(Failed):
    """Nobody answers at the address."""

    status = 3


class Refused(Failed):
    """The gateway understood and said no."""

    status = 4
