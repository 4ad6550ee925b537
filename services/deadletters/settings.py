"""The settings of the deadletters service."""

from typing import ClassVar

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from shared.config.settings import ServiceSettings


class DeadlettersSettings(ServiceSettings):
    """`DEADLETTERS_*`."""

    model_config = SettingsConfigDict(env_prefix="DEADLETTERS_")
    name: ClassVar[str] = "deadletters"

    keep_days: float = Field(
        default=30.0,
        gt=0,
        le=3650,
        description="How many days a dead letter is kept that was done after all, or replaced by an edited one. What "
        "waits is kept for ever.",
    )
