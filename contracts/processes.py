"""The status messages of processes, and the commands to them: exchanges `processes` and `control`."""

from typing import Annotated, ClassVar, Literal

from pydantic import AwareDatetime, Field, model_validator

from contracts.base import Contract, Event, text


class LaneSeen(Contract):
    """A lane in one process; numbers are counted since the process started."""

    name: Annotated[str, text(64)] = Field(examples=["orders"])
    in_hand: int = Field(ge=0, description="Messages delivered to the process that have no outcome yet.")
    done: int = Field(ge=0)
    failed: int = Field(ge=0, description="Attempts that failed, and messages that were dead-lettered.")
    busy_seconds: float = Field(ge=0, description="Time in handlers; several can run at a time.")
    mean_seconds: float | None = Field(default=None, ge=0, description="Recent mean time in the handler per message.")
    rate: float | None = Field(default=None, gt=0, description="Messages a second at the most; None without a limit.")
    paused: Annotated[str, text(500)] | None = Field(default=None, description="Why the lane takes nothing new.")


class ProcessSeen(Event):
    """A process of a service lives. Sent every 5 seconds and in answer to a ping. Transient: the latest is enough."""

    exchange: ClassVar[str] = "processes"
    key: ClassVar[str] = "process.seen.v1"
    transient: ClassVar[bool] = True

    process_id: Annotated[str, text(200)] = Field(
        examples=["shop-1-5f3a9c21-4711-88213"],
        description="Host name, its boot id, process id and start time.",
    )
    service: Annotated[str, text(64)] = Field(examples=["orders"])
    version: Annotated[str, text(64)] = Field(examples=["0.1.0"])
    host: Annotated[str, text(255)] = Field(examples=["shop-1"])
    started_at: AwareDatetime
    cpu_seconds: float = Field(ge=0, description="CPU time of the whole process since it started.")
    memory_bytes: int = Field(ge=0, description="Resident memory of the whole process.")
    lanes: tuple[LaneSeen, ...] = ()


class Control(Contract):
    """A command to processes, on the exchange `control`: its routing key is `all`, a service's name or a process's id.
    Its effect lasts until the process ends."""

    do: Literal["ping", "quiet", "stop", "pause", "resume", "rate"] = Field(
        description="`quiet` finishes what was taken and takes nothing new; `pause`, `resume` and `rate` are about one "
        "lane, or without `lane`, about all lanes of the process."
    )
    lane: Annotated[str, text(64)] | None = Field(default=None, examples=["email.outgoing"])
    rate: float | None = Field(default=None, gt=0, description="Messages a second; None ends the limit.")
    ping_id: Annotated[str, text(64)] | None = Field(default=None, description="Comes back as `correlation_id`.")

    @model_validator(mode="after")
    def _fits(self) -> "Control":
        if self.rate is not None and self.do != "rate":
            raise ValueError("give `rate` only with `do` = `rate`")
        return self
