"""What the gateway can be told."""

from typing import ClassVar

from pydantic import Field, HttpUrl
from pydantic_settings import SettingsConfigDict

from shared.settings import ServiceSettings


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
    running_reports: int = Field(default=5, ge=1, description="Reports that one caller may have in the making.")
