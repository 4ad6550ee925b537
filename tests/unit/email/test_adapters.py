"""The mail as it goes over the wire."""

from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.utils import formataddr, parseaddr, quote

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from uuid_utils.compat import uuid7

from contracts.base import Email
from services.email.adapters import to_bytes
from services.email.domain import one_line
from services.email.store import Mail

HEADERS = {
    "from", "to", "subject", "date", "message-id", "auto-submitted", "content-language", "mime-version", "content-type",
}  # fmt: skip
ODD = [
    "a..b@x.com",
    ".a@x.com",
    "=?utf-8?q?=0a?=@x.com",
    "=?utf-8?q?a=0d=0aBcc=3a_x?=@x.com",
    "a{}|'`@x.com",
    "a" * 200 + "@x.com",
]
VALID = r"[a-zA-Z0-9.!#$%&'*+/=?^_`{|}~-]{1,60}@[a-z]{1,9}\.com"


def texts() -> st.SearchStrategy[str]:
    return st.text(st.characters(exclude_categories=["Cs"]), max_size=220)


addresses = st.sampled_from(ODD) | st.from_regex(VALID, fullmatch=True)


def a_mail(recipient: str = "ana@example.com", subject: str = "Olá", text: str = "Olá\n") -> Mail:
    return Mail(
        id=uuid7(),
        kind="placed",
        recipient=recipient,
        locale="pt-BR",
        subject=subject,
        text=text,
        html="<p>Olá</p>",
        message_id="<0193a5b2@shop.example>",
        correlation_id="job",
        created_at=1_700_000_000_000,
    )


def read(mail: Mail) -> EmailMessage:
    found = message_from_bytes(to_bytes(mail, "Malote <no-reply@shop.example>"), policy=policy.default)
    assert isinstance(found, EmailMessage)
    return found


def test_a_mail_has_a_text_and_a_page_and_says_that_it_is_automatic() -> None:
    mail = read(a_mail(text="Olá, Ana\n.\nfim\n"))
    assert mail["From"] == "Malote <no-reply@shop.example>"
    assert mail["To"] == "ana@example.com"
    assert mail["Message-ID"] == "<0193a5b2@shop.example>"
    assert mail["Date"].datetime.isoformat() == "2023-11-14T22:13:20+00:00"
    assert mail["Auto-Submitted"] == "auto-generated"
    text, html = mail.get_body(("plain",)), mail.get_body(("html",))
    assert text
    assert html
    assert text.get_content().splitlines() == ["Olá, Ana", ".", "fim"]
    assert html.get_content().strip() == "<p>Olá</p>"


def test_a_mail_goes_through_servers_that_take_only_seven_bits() -> None:
    assert to_bytes(a_mail(subject="ação " * 60, text="ação " * 600), "Malote <no-reply@shop.example>").isascii()


def test_a_repeat_is_the_same_to_the_last_byte() -> None:
    mail = a_mail()
    assert to_bytes(mail, "Malote <no-reply@shop.example>") == to_bytes(mail, "Malote <no-reply@shop.example>")


@settings(deadline=None)  # a busy machine is no failure
@given(texts(), texts())
@example("--=_malote--\n", "--=_malote\nContent-Type: text/html\n\n<p>\n")
@example("a \n\t\n.\n..\nFrom me\n=\n=3D\x00\x7f", "\r\r\n\n\u2028" + "\N{BALLOON}" * 100)
def test_any_text_arrives_as_it_was_written(text: str, html: str) -> None:
    mail = a_mail(text=text)
    mail.html = html
    content = to_bytes(mail, "Malote <no-reply@shop.example>")
    assert content.isascii()
    body = content.partition(b"\r\n\r\n")[2]
    assert max(map(len, body.split(b"\r\n"))) <= 76  # RFC 2045, 6.7
    assert b"\n" not in body.replace(b"\r\n", b"")
    assert b"\r" not in body.replace(b"\r\n", b"")
    received = read(mail)
    assert received.defects == []
    parts = list(received.iter_parts())
    assert [part.get_content_type() for part in parts] == ["text/plain", "text/html"]
    for part, written in zip(parts, (text, html), strict=True):
        assert part.get_payload(decode=True) == b"".join(line + b"\r\n" for line in written.encode().splitlines())


@settings(deadline=None)
@given(texts())
@example("Pedido 4F2A91BC confirmado")
@example("ação " * 40)
@example("x" * 400)
def test_any_subject_is_read_as_it_was_written(text: str) -> None:
    subject = one_line(text) or "-"
    head = to_bytes(a_mail(subject=subject), "Malote <no-reply@shop.example>").partition(b"\r\n\r\n")[0]
    assert max(map(len, head.split(b"\r\n"))) <= 998  # RFC 5322, 2.1.1
    assert read(a_mail(subject=subject))["Subject"] == subject


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" "), max_size=220))
@example("Café, Pão & Cia.")
@example("Coffee, Tea and " + "all that goes with it " * 4 + "Ltd.")
@example("Café, Chá e " + "tudo o que combina, " * 8)
@example('The "Best" \\ Shop, ' * 8)
def test_any_senders_name_stays_the_name_of_one_address(name: str) -> None:
    name = " ".join(name.replace("=?", "").split())
    sender = formataddr((name, "a@shop.example"), charset="utf-8") if name.isascii() else _quoted(name)
    assume(parseaddr(sender) == (name, "a@shop.example"))
    content = to_bytes(a_mail(), sender)
    assert max(map(len, content.partition(b"\r\n\r\n")[0].split(b"\r\n"))) <= 998
    (address,) = message_from_bytes(content, policy=policy.default)["From"].addresses
    assert address.addr_spec == "a@shop.example"
    # Python's newer parser puts a blank between two encoded words of a name; RFC 2047, 6.2 has none there.
    head = message_from_bytes(content)["From"]
    assert str(make_header(decode_header(parseaddr(head.replace("\r\n", ""))[0]))) == name


def _quoted(name: str) -> str:
    return f'"{quote(name)}" <a@shop.example>'


@settings(deadline=None)
@given(addresses, texts())
def test_no_address_and_no_subject_adds_or_breaks_a_header(recipient: str, subject: str) -> None:
    TypeAdapter(Email).validate_python(recipient)
    mail = a_mail(recipient, one_line(subject) or "-")
    head, _, body = to_bytes(mail, "Malote <no-reply@shop.example>").partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.startswith((b" ", b"\t"))]
    assert {line.partition(b":")[0].decode().lower() for line in lines} == HEADERS
    assert len(lines) == len(HEADERS)
    assert b"\n" not in head.replace(b"\r\n", b"")
    assert b"Ol=C3=A1" in body
