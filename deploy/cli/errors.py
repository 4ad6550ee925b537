"""Errors that end a command: one line with the next step, and an exit status for scripts."""


class Failed(Exception):
    """The command failed; the text is for the person at the terminal."""

    status = 1


class NotRunning(Failed):
    """No program answers at the address."""

    status = 3


class Refused(Failed):
    """The gateway understood the request and refused it."""

    status = 4
