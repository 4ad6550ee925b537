"""The settings of the gateway."""

from typing import ClassVar
from urllib.parse import urlsplit

from pydantic import Field, HttpUrl, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from shared.config.settings import ServiceSettings
from shared.config.urls import port_in


class GatewaySettings(ServiceSettings):
    """`GATEWAY_*`."""

    model_config = SettingsConfigDict(env_prefix="GATEWAY_")
    name: ClassVar[str] = "gateway"

    orders_url: HttpUrl = Field(default=HttpUrl("http://127.0.0.1:8001"), description="Where orders answers HTTP.")
    stock_url: HttpUrl = Field(default=HttpUrl("http://127.0.0.1:8002"), description="Where stock answers HTTP.")
    reports_url: HttpUrl = Field(default=HttpUrl("http://127.0.0.1:8004"), description="Where reports answers HTTP.")
    deadletters_url: HttpUrl = Field(
        default=HttpUrl("http://127.0.0.1:8005"), description="Where deadletters answers HTTP."
    )
    email_url: HttpUrl = Field(default=HttpUrl("http://127.0.0.1:8003"), description="Where email answers HTTP.")
    running_reports: int = Field(
        default=5,
        ge=1,
        description="The most reports that one caller may have in the making; the next request is a 429.",
    )
    customer_limit: str = Field(
        default="100/second",
        description="The most requests of one customer; more are a 429. A number and a time: 100/second, 5000/minute.",
    )
    operator_limit: str = Field(
        default="1000/second", description="The most requests of one operator; a shop's own system is one."
    )
    failure_limit: str = Field(
        default="100/minute",
        description="The most requests without a good token from one address; more are a 429 in place of a 401.",
    )
    recipient_limit: str = Field(
        default="20/hour",
        description="The most orders and reports of customers whose mail goes to one address that no token says to "
        "be its customer's (`email_verified`).",
    )
    stream_limit: int = Field(
        default=1_000, ge=1, description="The most event streams that one caller may have open at one process."
    )
    redis_url: SecretStr | None = Field(
        default=None,
        description="Redis, in which several gateways count together: redis://:password@host:6379/0, or rediss:// "
        "for TLS. Empty: each process counts alone.",
    )

    @field_validator("customer_limit", "operator_limit", "failure_limit", "recipient_limit")
    @classmethod
    def _is_a_limit(cls, value: str) -> str:
        from limits import parse  # not at the top: whoever only reads settings has no use for it

        try:
            amount = parse(value).amount
        except ValueError:
            amount = 0
        if amount < 1:
            raise ValueError(f"{value!r} is not a limit: write a number and a time, such as 100/second")
        return value

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, value: SecretStr | None) -> SecretStr | None:
        url = urlsplit(value.get_secret_value()) if value else None
        if url and (url.scheme not in ("redis", "rediss") or not url.hostname):
            raise ValueError("write redis://:password@host:6379/0, or rediss:// for TLS")
        port_in(value.get_secret_value() if value else "")
        return value
