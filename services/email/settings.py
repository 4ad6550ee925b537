"""The settings of the email service."""

from email.utils import parseaddr
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal
from zoneinfo import ZoneInfo

from pydantic import Field, SecretStr, TypeAdapter, ValidationInfo, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from contracts.base import Email, Locale
from shared.config.settings import Host, ServiceSettings

_address: TypeAdapter[str] = TypeAdapter(Email)


class EmailSettings(ServiceSettings):
    """`EMAIL_*`."""

    model_config = SettingsConfigDict(env_prefix="EMAIL_")
    name: ClassVar[str] = "email"

    smtp_host: Host = Field(default="127.0.0.1", description="The SMTP server that mail is sent to.")
    smtp_port: int = Field(default=25, ge=1, le=65535, description="Its port: mostly 25, 587 (starttls) or 465 (tls).")
    smtp_username: str | None = Field(default=None, description="Name for the login. Empty: no login.")
    smtp_password: SecretStr | None = Field(
        default=None, validate_default=True, description="The password to SMTP_USERNAME."
    )
    smtp_tls: Literal["none", "starttls", "tls"] = Field(
        default="none", description="none: in the clear; starttls: encrypted from STARTTLS on; tls: from the start."
    )
    smtp_timeout: float = Field(
        default=30.0, gt=0, le=3600, description="Seconds to wait for a connection or an answer."
    )
    sender: str = Field(
        default="Malote <no-reply@malote.example>",
        max_length=500,
        description="The sender of mail. Each mail is headed by its name; Message-IDs and EHLO have its domain.",
    )
    operators: Annotated[tuple[Email, ...], NoDecode] = Field(
        default=(),
        description="Addresses, separated by commas, that get mail about low stock, dead letters and faults of Malote "
        "itself. Empty: nobody gets it, but `make up` with its own mailbox uses operators@malote.example.",
    )
    operators_locale: Locale = Field(default="pt-BR", description="The language of the operators' mail.")
    timezone: str = Field(default="America/Sao_Paulo", description="The zone of the times in mails, as IANA names it.")

    @field_validator("smtp_password")
    @classmethod
    def _goes_with_username(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if (value is None) != (info.data.get("smtp_username") is None):
            raise ValueError("set SMTP_USERNAME and SMTP_PASSWORD both, or none")
        return value

    @field_validator("operators", mode="before")
    @classmethod
    def _split_operators(cls, value: Any) -> Any:
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    @field_validator("sender")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        if not value.isprintable() or "=?" in value:
            raise ValueError("write it plainly: Name <address>, without line breaks or encoded words")
        _address.validate_python(parseaddr(value)[1])
        return value

    @field_validator("timezone")
    @classmethod
    def _is_a_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (LookupError, OSError, ValueError) as error:
            raise ValueError(f"{value!r} is no time zone: write one such as America/Sao_Paulo or UTC") from error
        return value

    @cached_property
    def sender_address(self) -> str:
        """The address in MAIL FROM."""
        return parseaddr(self.sender)[1]

    @cached_property
    def domain(self) -> str:
        """The domain of the sender."""
        return self.sender_address.rpartition("@")[2]

    @cached_property
    def shop(self) -> str:
        """The name in the header of each mail."""
        return parseaddr(self.sender)[0] or self.domain
