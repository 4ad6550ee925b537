"""What the orders service can be told."""

from typing import ClassVar

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from shared.config.settings import ServiceSettings


class OrdersSettings(ServiceSettings):
    """`ORDERS_*`."""

    model_config = SettingsConfigDict(env_prefix="ORDERS_")
    name: ClassVar[str] = "orders"

    port: int = Field(default=8001, ge=0, le=65535, description="The port that HTTP listens on; 0 takes a free one.")
