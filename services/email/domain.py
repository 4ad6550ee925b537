"""What email decides: names for its mails, and what a server's answer means."""

import hashlib
import re

ANSWER_LENGTH = 500
_ATOM = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_MAKES_A_LINK = re.compile(r"[/:@]|\.\w")


def mail_id(message_id: str, domain: str, copy: int = 1) -> str:
    """The Message-ID of the mail that a message causes, always the same; `copy` counts its recipients from 1.

    A `message_id` from outside can be any text: what is not fit for a header is replaced by its digest.
    """
    is_fit = len(message_id) <= 128 and _ATOM.fullmatch(message_id)
    left = message_id if is_fit else hashlib.sha256(message_id.encode()).hexdigest()
    return f"<{left}{f'.{copy}' if copy > 1 else ''}@{domain}>"


def order_number(order_id: object) -> str:
    """How people call an order: the end of its id, for the beginning of a UUIDv7 is only the time."""
    return str(order_id)[-8:].upper()


def greeted(name: str) -> str:
    """The customer's name, or nothing where a mail program would make a link of it.

    Whoever places an order chooses name and address: our mail must not carry a stranger's advertisement.
    """
    return "" if _MAKES_A_LINK.search(name) else name


def one_line(text: str) -> str:
    """Text for a header. Any Unicode line break would end it; `=?` would begin an encoded word, which may hide one."""
    return " ".join(text.split()).replace("=?", "= ?")


def is_final(code: int) -> bool:
    """Whether an SMTP answer says that a repeat is of no use (RFC 5321, 4.2.1)."""
    return 500 <= code < 600


def answer(code: int, text: str) -> str:
    """A server's answer as it is recorded: one line of what can be printed and stored."""
    line = " ".join(f"{code} {text}".split())
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)[:ANSWER_LENGTH]
