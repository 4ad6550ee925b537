"""What the stock service can be told."""

from typing import ClassVar

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from shared.config.settings import ServiceSettings


class StockSettings(ServiceSettings):
    """`STOCK_*`."""

    model_config = SettingsConfigDict(env_prefix="STOCK_")
    name: ClassVar[str] = "stock"

    port: int = Field(default=8002, ge=0, le=65535, description="The port that HTTP listens on; 0 takes a free one.")
