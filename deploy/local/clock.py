"""Times for operators, in mails and on the command line: each with its zone."""

from datetime import datetime


def zoned(moment: datetime, form: str) -> str:
    """A time in the format `form` (of strftime), followed by its offset from UTC: `14:30:05-03:00`."""
    ahead = moment.strftime("%z")
    return f"{moment.strftime(form)}{ahead[:3]}:{ahead[3:5]}"
