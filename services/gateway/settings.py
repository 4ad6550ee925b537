"""The settings of the gateway."""

from typing import Any, ClassVar
from urllib.parse import urlsplit

from pydantic import Field, HttpUrl, SecretStr, create_model, field_validator
from pydantic_settings import SettingsConfigDict

from contracts.published import owners
from shared.config.settings import ServiceSettings, default_port
from shared.config.urls import port_in


def _with_owners() -> Any:
    """The settings with `<service>_url` for each service that has public paths: a new one edits nothing here."""
    fields: dict[str, Any] = {}
    for owner in owners():
        address = HttpUrl(f"http://127.0.0.1:{default_port(owner)}")
        fields[f"{owner}_url"] = HttpUrl, Field(default=address, description=f"Where {owner} answers HTTP.")
    return create_model("WithOwners", __base__=ServiceSettings, **fields)


class GatewaySettings(_with_owners()):  # type: ignore[misc]
    """`GATEWAY_*`."""

    model_config = SettingsConfigDict(env_prefix="GATEWAY_")
    name: ClassVar[str] = "gateway"

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
