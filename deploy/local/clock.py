"""How operators read times, in mails and at the command line alike: each with its zone."""

from datetime import datetime


def zoned(moment: datetime, form: str) -> str:
    """A time as `form` (of strftime) has it, then how far its zone is from UTC: `14:30:05-03:00`."""
    ahead = moment.strftime("%z")
    return f"{moment.strftime(form)}{ahead[:3]}:{ahead[3:5]}"
