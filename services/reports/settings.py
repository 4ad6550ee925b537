"""The settings of the reports service."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field, HttpUrl, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from shared.config.settings import ServiceSettings


class ReportsSettings(ServiceSettings):
    """`REPORTS_*`."""

    model_config = SettingsConfigDict(env_prefix="REPORTS_")
    name: ClassVar[str] = "reports"

    storage_url: str = Field(
        default="",
        description="Where files are kept: a folder, or s3://bucket/prefix with AWS_ACCESS_KEY_ID, "
        "AWS_SECRET_ACCESS_KEY, AWS_REGION and, for another store than Amazon's, AWS_ENDPOINT_URL. Empty: "
        ".data/reports",
    )
    chunk_rows: int = Field(
        default=200_000,
        ge=1,
        le=1_000_000,
        description="Rows in one part of a csv; a part of jsonl or parquet has a quarter, of xlsx a twentieth. More "
        "is faster, but a message then takes longer, and so does a cancellation.",
    )
    row_limit: int = Field(default=10_000_000, ge=1, description="The most rows of one report.")
    storage_limit_mb: int = Field(
        default=2_000, ge=1, description="10^6 bytes in all the reports that one caller has, at the most."
    )
    keep_days: float = Field(default=7.0, gt=0, le=3650, description="How many days a finished report is kept.")
    public_url: HttpUrl = Field(
        default=HttpUrl("http://127.0.0.1:8000"),
        description="The address at which customers reach the gateway. Links in mails begin with it.",
    )
    orders_url: HttpUrl = Field(default=HttpUrl("http://127.0.0.1:8001"), description="Where orders answers HTTP.")
    stock_url: HttpUrl = Field(default=HttpUrl("http://127.0.0.1:8002"), description="Where stock answers HTTP.")
    token: SecretStr | None = Field(
        default=None,
        description="An operator's token that may read from orders and stock, for `malote reports rebuild`: one that "
        "may only read (its claim `access` is `read`) is enough. Empty: made from MALOTE_JWT_SECRET.",
    )

    @field_validator("token")
    @classmethod
    def _is_a_token(cls, value: SecretStr | None) -> SecretStr | None:
        if value and value.get_secret_value().count(".") != 2:
            raise ValueError("this is no token: it has three parts with dots between them")
        return value

    @field_validator("storage_url")
    @classmethod
    def _is_known(cls, value: str) -> str:
        scheme, _, rest = value.rpartition("://")
        if scheme not in ("", "file", "s3") or (scheme == "s3" and not rest.strip("/")):
            raise ValueError(f"{value!r} is neither a folder nor a bucket, such as s3://exports/malote")
        return value

    @property
    def storage(self) -> str:
        """The storage's URL, with the default filled in."""
        if "://" in self.storage_url:
            return self.storage_url
        return Path(self.storage_url or ".data/reports").resolve().as_uri()
