"""What email decides: names for its mails, and what a server's answer means."""

import hashlib
import re
import unicodedata
from typing import Literal

ANSWER_LENGTH = 500
_ATOM = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_MAKES_A_LINK = re.compile(r"\.(?!\s|$)(?!\w\.(?:\s|\w\.|$))")  # a dot within a word, unless between initials
_IN_NAMES = " .-&'\N{RIGHT SINGLE QUOTATION MARK}\N{HYPHEN}\N{MIDDLE DOT}\N{KATAKANA MIDDLE DOT}\u200c\u200d"
_PARTICLES = {"da", "das", "de", "del", "der", "di", "do", "dos", "e", "la", "van", "von", "y"}
NAME_LENGTH, NAME_WORDS, NAME_DIGITS = 60, 5, 4


def mail_id(message_id: str, domain: str, copy: int = 1) -> str:
    """The Message-ID of the mail that a message causes, always the same; `copy` counts its recipients from 1.

    A `message_id` from outside can be any text: what is not fit for a header is replaced by its digest.
    """
    is_fit = len(message_id) <= 128 and _ATOM.fullmatch(message_id)
    left = message_id if is_fit else hashlib.sha256(message_id.encode()).hexdigest()
    return f"<{left}{f'.{copy}' if copy > 1 else ''}@{domain}>"


def order_number(order_id: object) -> str:
    """The number of an order for people: the end of its id. The beginning of a UUIDv7 is only the time."""
    return str(order_id)[-8:].upper()


def greeted(name: str) -> str:
    """The customer's name, or nothing where it is no name but a message or an address.

    Whoever places an order chooses name and address: our mail must not carry a stranger's advertisement. So what is not
    sure to be a name is left out: letters of any script, few words, few digits, and no dot that a mail program would
    make a link of, in any of the forms that a dot has (NFKC).
    """
    plain = unicodedata.normalize("NFKC", name)
    words = [word for word in plain.split(" ") if word.lower() not in _PARTICLES]
    digits = sum(char.isdigit() for char in plain)
    is_name = all(map(_is_in_names, plain)) and not _MAKES_A_LINK.search(plain)
    return name if is_name and len(plain) <= NAME_LENGTH and len(words) <= NAME_WORDS and digits <= NAME_DIGITS else ""


def _is_in_names(char: str) -> bool:
    return char in _IN_NAMES or unicodedata.category(char)[0] in "LM" or char.isdecimal()


def one_line(text: str) -> str:
    """Text for a header. Any Unicode line break would end it; `=?` would begin an encoded word, which may hide one."""
    return " ".join(text.split()).replace("=?", "= ?")


Stage = Literal["MAIL", "RCPT", "DATA"]
"""The answered SMTP command. Answers before MAIL, from the greeting to AUTH, are never about a mail."""

# A 5xx that is about us, our session or the server itself, and so about no mail: once somebody has mended a setting, or
# on a fresh connection, it may be another one. docs/adr/0020 has the table.
_SESSION_CODES = {
    500, 502, 503, 504,  # what we said is not known, or not now: the server has lost the session's state
    521,  # it takes no mail at all (RFC 7504)
    530, 534, 535, 538,  # it wants a login, another kind of login, or TLS (RFC 4954, RFC 3207)
}  # fmt: skip
_SESSION_STATUSES = {  # RFC 3463's x.y.z, where it says more than the code
    "5.3.1", "5.3.2", "5.3.5",  # the server is full, closed, or wrongly set up
    "5.4.5",  # we have sent too much for today
    "5.5.1", "5.5.5",  # not now, or another protocol
    "5.7.3", "5.7.4", "5.7.8", "5.7.9", "5.7.10", "5.7.11", "5.7.14",  # login and encryption
    "5.7.20", "5.7.21", "5.7.22", "5.7.23", "5.7.24", "5.7.25", "5.7.26", "5.7.27",  # DKIM, SPF, DMARC, reverse DNS
    "5.7.57", "5.7.60", "5.7.64",  # Exchange: not logged in, not our sender, no relaying for us
}  # fmt: skip
_RELAYING = {"5.7.0", "5.7.1"}
_STATUS = re.compile(r"5\.\d{1,3}\.\d{1,3}(?!\d)")


def is_about_us(code: int, said: str) -> bool:
    """Whether an SMTP answer says that the server takes no mail from us, whichever it is."""
    return code in _SESSION_CODES or (500 <= code < 600 and _status(said) in _SESSION_STATUSES)


def is_final(code: int, said: str, stage: Stage) -> bool:
    """Whether an SMTP answer says that this mail will never be taken. What is about us or passes later is not final.

    At MAIL the server knows nothing but who we are. At RCPT, 5.7.0 and 5.7.1 are what a relay says to somebody whom it
    does not know; after DATA they are said of a text.
    """
    if not 500 <= code < 600 or is_about_us(code, said) or stage == "MAIL":
        return False
    return not (stage == "RCPT" and _status(said) in _RELAYING)


def _status(said: str) -> str:
    found = _STATUS.match(said.lstrip())
    return found[0] if found else ""


def answer(code: int, text: str) -> str:
    """A server's answer as it is recorded: one line of what can be printed and stored."""
    line = " ".join(f"{code} {text}".split())
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)[:ANSWER_LENGTH]
