"""The decisions of email: Message-IDs, greetings, and what an SMTP answer means."""

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

    A `message_id` from outside can be any text. A text that a header cannot have is replaced by its digest.
    """
    is_fit = len(message_id) <= 128 and _ATOM.fullmatch(message_id)
    left = message_id if is_fit else hashlib.sha256(message_id.encode()).hexdigest()
    return f"<{left}{f'.{copy}' if copy > 1 else ''}@{domain}>"


def order_number(order_id: object) -> str:
    """The number of an order for people: the end of its id. The beginning of a UUIDv7 is only the time."""
    return str(order_id)[-8:].upper()


def greeted(name: str) -> str:
    """The customer's name, or an empty text if it may be a message or an address.

    A customer chooses name and address freely, and mail must not carry advertisements to strangers. A name has letters
    of any script, few words, few digits, and no dot within a word (also in other forms of a dot, by NFKC), which a mail
    program would turn into a link.
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

# A 5xx about this client, its session or the server, and not about the mail. The same mail may be accepted after a
# setting was corrected, or on a new connection. docs/adr/0020 has the table.
_SESSION_CODES = {
    500, 502, 503, 504,  # unknown command, or bad sequence: the server has lost the state of the session
    521,  # the server accepts no mail at all (RFC 7504)
    530, 534, 535, 538,  # the server demands a login, another kind of login, or TLS (RFC 4954, RFC 3207)
}  # fmt: skip
_SESSION_STATUSES = {  # RFC 3463's x.y.z, which says more than the code
    "5.3.1", "5.3.2", "5.3.5",  # the server is full, closed, or wrongly set up
    "5.4.5",  # the quota of this client is used up
    "5.5.1", "5.5.5",  # not now, or another protocol
    "5.7.3", "5.7.4", "5.7.8", "5.7.9", "5.7.10", "5.7.11", "5.7.14",  # login and encryption
    "5.7.20", "5.7.21", "5.7.22", "5.7.23", "5.7.24", "5.7.25", "5.7.26", "5.7.27",  # DKIM, SPF, DMARC, reverse DNS
    "5.7.57", "5.7.60", "5.7.64",  # Exchange: not logged in, not our sender, no relaying for us
}  # fmt: skip
_RELAYING = {"5.7.0", "5.7.1"}
_STATUS = re.compile(r"5\.\d{1,3}\.\d{1,3}(?!\d)")


def is_about_us(code: int, said: str) -> bool:
    """Whether an SMTP answer says that the server accepts no mail at all from this client."""
    return code in _SESSION_CODES or (500 <= code < 600 and _status(said) in _SESSION_STATUSES)


def is_final(code: int, said: str, stage: Stage) -> bool:
    """Whether an SMTP answer refuses this mail for good. Temporary errors and answers about this client are not final.

    At MAIL the server knows only the sender. At RCPT, a relay answers 5.7.0 and 5.7.1 to an unknown client; after DATA
    the same codes are about the text.
    """
    if not 500 <= code < 600 or is_about_us(code, said) or stage == "MAIL":
        return False
    return not (stage == "RCPT" and _status(said) in _RELAYING)


def _status(said: str) -> str:
    found = _STATUS.match(said.lstrip())
    return found[0] if found else ""


def answer(code: int, text: str) -> str:
    """A server's answer as it is stored: one line of printable text."""
    line = " ".join(f"{code} {text}".split())
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)[:ANSWER_LENGTH]
