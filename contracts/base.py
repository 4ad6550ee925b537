"""The types that contracts share: messages, money, identifiers and the envelope.

A contract is frozen. Its constructor refuses unknown fields (`OrderPlaced(colour="red")` fails before it is sent), and
`Message.read` ignores them, so a publisher can add a field before its readers know it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints


def text(longest: int) -> Any:
    """A line of printable text, 1 to `longest` characters. Control characters are refused: PostgreSQL cannot store
    NUL, and a line break in a name would end an e-mail header."""
    return StringConstraints(min_length=1, max_length=longest, pattern=r"^[^\x00-\x1f\x7f]+$")


def _integral(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


Integral = BeforeValidator(_integral)
"""Accepts `2.0` as an integer, as JSON Schema does, because some languages have one kind of number. In an annotation it
stands after the bounds of a strict field, so that it runs before them."""
Sku = Annotated[str, StringConstraints(pattern=r"^[A-Z0-9][A-Z0-9._-]{0,39}$"), Field(examples=["COFFEE-1KG"])]
Quantity = Annotated[int, Field(strict=True, ge=1, le=10_000, examples=[2]), Integral]
Currency = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$"), Field(examples=["BRL"])]
Locale = Literal["pt-BR", "en"]
# The pattern by which browsers check <input type=email> (WHATWG HTML, "valid e-mail address").
EMAIL_PATTERN = (
    r"^[a-zA-Z0-9.!#$%&'*+/=?^_`{|}~-]+@[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
    r"(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)+$"
)
Email = Annotated[str, StringConstraints(max_length=254, pattern=EMAIL_PATTERN), Field(examples=["ana@example.com"])]
# 2**53 - 1: the largest integer that a double holds exactly.
MinorUnits = Annotated[int, Field(strict=True, ge=0, le=9_007_199_254_740_991), Integral]


def complaint(problem: Mapping[str, Any]) -> str:
    """One of pydantic's errors in words for people, without a regular expression."""
    if problem["type"] != "string_pattern_mismatch":
        return str(problem["msg"]).removeprefix("Value error, ")
    is_email = problem["ctx"]["pattern"] == EMAIL_PATTERN
    return "is not a mail address" if is_email else "is not in the form that is wanted"


class Contract(BaseModel):
    """A frozen value: the base of all messages and HTTP bodies."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Money(Contract):
    """An amount in the currency's minor units (centavos, cents) and its ISO 4217 code."""

    amount: MinorUnits = Field(examples=[6990])
    currency: Currency

    def __mul__(self, quantity: int) -> Money:
        return Money(amount=self.amount * quantity, currency=self.currency)


# The codes of ISO 4217, except those without a minor unit (metals, bond-market units, XTS, XXX).
_CODES = """
AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF
CHE CHF CHW CLF CLP CNY COP COU CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD
GNF GTQ GYD HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP
LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB
PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB
TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD USN UYI UYU UYW UZS VED VES VND VUV WST XAF XCD XCG XOF XPF YER
ZAR ZMW ZWG
"""
CURRENCIES = frozenset(_CODES.split())


def _is_listed(code: str) -> str:
    if code not in CURRENCIES:
        raise ValueError(f"{code} is not a currency of ISO 4217")
    return code


IsoCurrency = Annotated[Currency, AfterValidator(_is_listed), Field(json_schema_extra={"enum": sorted(CURRENCIES)})]
"""A listed currency, in requests. `Currency` also reads values that were stored before this check, and codes that a
later edition of ISO 4217 no longer lists."""

# ISO 4217's minor units where they are not two. CLDR, which is about display, differs for some.
_DIGITS = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}


def minor_digits(currency: str) -> int:
    """The number of decimal places of a currency."""
    return next((digits for digits, currencies in _DIGITS.items() if currency in currencies), 2)


class JobState(StrEnum):
    """The state of a job, and the state into which a message moves its job."""

    PENDING = "PENDING"
    STARTED = "STARTED"
    RETRY = "RETRY"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    CANCELLED = "CANCELLED"

    @property
    def is_final(self) -> bool:
        return self in (JobState.SUCCESS, JobState.FAILURE, JobState.CANCELLED)


class Message(Contract):
    """A message on the broker. Its name on the wire is data, so renaming a class changes nothing for others.

    It is published to `exchange` under `key`. `job` is the state into which it moves the job in its `correlation_id`. A
    `transient` message skips the outbox and is lost with its process: only the latest one matters. A message with
    `carries_job` is a link of a chain: if it is dead-lettered, its job fails, because nothing else would end the job.
    """

    exchange: ClassVar[str]
    key: ClassVar[str]
    job: ClassVar[JobState | None] = None
    transient: ClassVar[bool] = False
    carries_job: ClassVar[bool] = False

    @classmethod
    def read(cls, body: bytes) -> Self:
        """Read a body from the wire. Raises `pydantic.ValidationError`."""
        return cls.model_validate_json(body, extra="ignore")

    def identity(self) -> str | None:
        """The id of a message that arrived without a `message_id`, derived from its content; None if it has none."""
        return None

    def job_states(self, correlation_id: str) -> dict[str, JobState]:
        """The jobs that this message moves, and their new states."""
        return {correlation_id: self.job} if self.job else {}


class Event(Message):
    """A fact, published by its owner to the exchange of the owner's name."""


class Command(Message):
    """A request to another service, sent to the exchange `commands`. Its one consumer may refuse it. A command with a
    `job_kind` starts a job over HTTP, and its consumer works on the job."""

    exchange: ClassVar[str] = "commands"
    job_kind: ClassVar[JobKind | None] = None


@dataclass(frozen=True, slots=True)
class JobKind:
    """A kind of job, which a client starts by a POST to `path`. `name` is the kind's name.

    `resource` is what the job is about, such as `order`; messages have its id as `order_id`. With `is_creation`, the
    job creates the resource. `cancelled_by` is the command that cancels the job; its first field is the id of the
    resource, or of the job if there is no resource.
    """

    name: str
    path: str
    resource: str | None = None
    is_creation: bool = False
    cancelled_by: type[Command] | None = None


@dataclass(frozen=True, slots=True)
class Envelope:
    """The metadata of a message. `attempt` counts from 1; `correlation_id` is the job's id.

    `sender` is the name that the sender gave. `user` is the sender's broker user, verified by the broker: empty if the
    sender named none, None if it is unknown, as for messages that an administrator or an older version sent on.
    """

    message_id: str
    correlation_id: str
    key: str
    sender: str
    sent_at: datetime
    causation_id: str | None = None
    traceparent: str | None = None
    attempt: int = 1
    user: str | None = None


__all__ = [
    "CURRENCIES",
    "UUID",
    "AwareDatetime",
    "Command",
    "Contract",
    "Currency",
    "Email",
    "Envelope",
    "Event",
    "IsoCurrency",
    "JobKind",
    "JobState",
    "Locale",
    "Message",
    "MinorUnits",
    "Money",
    "Quantity",
    "Sku",
    "complaint",
    "minor_digits",
    "text",
]  # fmt: skip
