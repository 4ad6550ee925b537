"""The one composition root: settings, database, broker, lanes, HTTP and health become a runnable service."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import partial
from types import ModuleType
from typing import Any

import structlog
import uvicorn
from aio_pika import Connection
from fastapi import APIRouter, FastAPI
from faststream.rabbit import RabbitBroker
from prometheus_client import REGISTRY
from prometheus_client.registry import Collector as Metrics

from contracts.broker import queue_of
from contracts.flow import FLOW
from shared.config.settings import ServiceSettings
from shared.config.version import VERSION
from shared.docs import asyncapi
from shared.http.ports import Ports
from shared.http.protection import Identities
from shared.http.stopping import Stopping
from shared.messaging import membership, scheduled, topology
from shared.messaging.amqp.connections import KeptConnection
from shared.messaging.causes import cause_of
from shared.messaging.control import SEEN_SECONDS, Controlled, listen
from shared.messaging.outbox import Outbox
from shared.messaging.periodic import Periodic, again_and_again, periodic_of
from shared.messaging.publisher import Publisher
from shared.messaging.purge import EVERY_SECONDS, purge
from shared.messaging.relay import Relay
from shared.messaging.resources import Resources, Watched
from shared.messaging.subscription import Subscription
from shared.messaging.watchdog import Watchdog
from shared.observability.metrics import TASK_ENDED
from shared.observability.metrics import of as metric
from shared.observability.tracing import Tracing
from shared.outages import Trouble
from shared.persistence.database import Database
from shared.service import http
from shared.service.lanes import consumers_of

log = structlog.get_logger(__name__)

CHECK_SECONDS = 2.0
LOOK_SECONDS = 1.0
STILL_SECONDS = 60.0
"""A process whose event loop stands still for so long ends itself, to be started again."""
ENDED = "has ended: this process has to be started again"


class Service:
    """A service: its lanes run, and its routes are served, from `run()` until SIGTERM.

    `handlers` is the module with its `@on` functions; `router` has its HTTP routes, if it has more than health;
    `periodic` is the module with its `@every` functions.
    A handler names further objects by their types, such as the settings, the database, or a `Mailer`: `resources` are
    those that exist already, and the others are made, see `Resources`.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        handlers: ModuleType,
        router: APIRouter | None = None,
        periodic: ModuleType | None = None,
        resources: Sequence[object] = (),
    ) -> None:
        self.settings, self.name = settings, settings.name
        self.tracing = Tracing(settings, VERSION)
        self.database = Database(settings.database, settings.tls)
        self.tracing.watch(self.database.engines)
        self.publisher = Publisher(settings.amqp_url.get_secret_value(), self.name, settings.tls)
        self.outbox = Outbox(self.name, self.database, settings.outbox_limit)
        self.relay = Relay(self.outbox, self.database, self.publisher)
        self.resources = Resources(*resources, settings, self.database, self.outbox, self)
        self.lanes = consumers_of(self, handlers)
        self._subscriptions = [Subscription(lane) for lane in self.lanes]
        self.controlled = Controlled(self.name, VERSION, self._subscriptions, self.publisher)
        own = periodic_of(periodic) if periodic else []
        self._periodic = [*self._kernels(), *(one.with_resources(self.resources) for one in own)]
        self.broker = self._declared_broker()
        self.stopping = Stopping()
        self.ports = Ports(settings)
        self.identities = Identities(settings)
        self.watchdog = Watchdog(STILL_SECONDS)
        self.concerns: dict[str, Callable[[], str | None]] = {
            one.name: one.concern for one in self.resources if isinstance(one, Watched)
        }
        """What parts of a service's own say in `warnings`, by their names; None while all is well."""
        self.metrics: Metrics = REGISTRY
        """What `/metrics` tells."""
        self._parts: dict[str, asyncio.Task[None]] = {}
        url, tls = settings.amqp_url.get_secret_value(), settings.tls
        self.consuming = KeptConnection(url, tls, f"{self.name} consuming", self._consume)
        listening = partial(listen, self.name, self.controlled)
        self._controlling = KeptConnection(url, tls, f"{self.name} control", listening)
        self.app = http.application(self, router or APIRouter())

    # -- the broker ---------------------------------------------------------------------------------------------

    def _declared_broker(self) -> RabbitBroker:
        """Say to FastStream what this service consumes and publishes: it documents just that, and never connects.

        Deliveries go to the lane by aio-pika: FastStream's path per message is three times slower and knows neither
        batches nor an inbox.
        """
        broker = RabbitBroker(app_id=self.name, logger=None, specification_url="amqp://localhost:5672")
        for lane in self.lanes:
            if lane.handlers:
                broker.subscriber(topology.lane_queue(lane.name), title=lane.name)(consume)
        for message, route in FLOW.items():
            if self.name in route.senders:
                broker.publisher(
                    exchange=topology.message_exchange(message),
                    routing_key=message.key,
                    persist=True,
                    schema=message,
                    title=message.key,
                )
        return broker

    def asyncapi(self) -> dict[str, Any]:
        """The AsyncAPI 3.0 document of this service."""
        return asyncapi.document(self.name, self.broker, [lane for lane in self.lanes if lane.handlers])

    async def _consume(self, connection: Connection) -> None:
        """Consume on a new connection. A lane that fails is tried again every second.

        Raises TimeoutError where no lane had an answer in time: another node of the broker may give one.
        """
        starts = (subscription.start(connection) for subscription in self._subscriptions)
        results = dict(zip(self.lanes, await asyncio.gather(*starts, return_exceptions=True), strict=True))
        failed = {lane.name: error for lane, error in results.items() if error}
        if failed and all(isinstance(error, TimeoutError) for error in results.values()):
            raise TimeoutError
        for lane, error in failed.items():
            log.warning("lane: its queue is not consumed", lane=lane, why=cause_of(error))
        log.info("consuming", lanes=[lane.name for lane in self.lanes if lane.name not in failed])

    def nodes(self) -> dict[str, str]:
        """The broker's node, as host and port, that each connection is to, or that it tries."""
        found = {"consuming": self.consuming.node, "publishing": self.publisher.connection.node}
        return {name: node for name, node in found.items() if node}

    # -- life ---------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def running(self, _: FastAPI | None = None) -> AsyncIterator[None]:
        """Everything but HTTP: lanes and outbox work inside the block, and are drained at its end."""
        lanes = [self._task(lane.run(), f"lane {lane.name}") for lane in self.lanes]
        publishing = self.watch("publish", self.relay.publish())
        watching = [self.watch(one.name, again_and_again(one)) for one in self._periodic]
        kept = {"publishing": self.publisher.connection, "consuming": self.consuming, "control": self._controlling}
        watching += [self.watch(name, one.run()) for name, one in kept.items()]
        try:
            yield
        finally:
            await self._drain(lanes, publishing)
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)
            await self.relay.close()
            await self.database.dispose()
            await self.tracing.stop()
            log.info("stopped")

    def _kernels(self) -> list[Periodic]:
        """What every service does by itself."""
        return [
            Periodic("tidy", self.relay.tidy, membership.HEARTBEAT_SECONDS),
            Periodic("purge", partial(purge, self.outbox, self.settings.inbox_keep_days), EVERY_SECONDS),
            Periodic("scheduled", self.outbox.send_due, scheduled.LOOK_SECONDS),
            Periodic("look after lanes", self._look_after_lanes, LOOK_SECONDS),
            Periodic("subscriptions", self._reconcile, LOOK_SECONDS),
            Periodic("process seen", self.controlled.say_seen, SEEN_SECONDS),
        ]

    async def _look_after_lanes(self) -> None:
        self.watchdog.tick()
        for lane in self.lanes:
            lane.look_after()

    async def _reconcile(self) -> None:
        await asyncio.gather(*(one.reconcile() for one in self._subscriptions), return_exceptions=True)

    def watch(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a part that runs as long as the process. If it ends all the same, readiness and a metric say so.

        Raises ValueError if a part of that name runs.
        """
        if name in self._parts and not self._parts[name].done():
            raise ValueError(f"{self.name} has two parts called {name!r}: rename one")
        task = self._parts[name] = self._task(work, name)
        task.add_done_callback(_say_why)
        metric(TASK_ENDED, self.name, name).set_function(lambda: float(task.done()))
        return task

    def _task(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        return asyncio.create_task(work, name=name, context=self.tracing.context())

    async def _drain(self, lanes: list[asyncio.Task[None]], publishing: asyncio.Task[None]) -> None:
        """Stop taking, finish what was taken, publish it. What is not finished in the grace time goes back."""
        deadline = time.monotonic() + self.settings.grace_seconds
        log.info("stopping", grace_seconds=self.settings.grace_seconds)
        await asyncio.gather(*(subscription.stop() for subscription in self._subscriptions), return_exceptions=True)
        for lane in self.lanes:
            lane.stop()
        await _finish(lanes, deadline)
        self.relay.stop()
        await _finish([publishing], deadline)

    def server(self) -> uvicorn.Server:
        """The server of all ports of this service: their connections share its limits, and end together."""
        return uvicorn.Server(uvicorn.Config(self.app, **http.listening(self)))

    # -- health -------------------------------------------------------------------------------------------------

    async def checks(self) -> dict[str, str | None]:
        """What this service needs, and what is wrong with each part; None where all is well."""
        found: dict[str, str | None] = {"database": None, "broker": None}
        # All at once: while the broker hangs each takes its whole time, and whoever asks does not wait that long.
        found["database"], consumed = await asyncio.gather(
            self._missing_database(),
            asyncio.gather(*(subscription.is_active() for subscription in self._subscriptions)),
        )
        found["broker"] = self.publisher.connection.missed or self.consuming.missed or self.relay.paused
        for lane, consuming in zip(self.lanes, consumed, strict=True):
            missed = None if consuming else f"queue {queue_of(lane.name)!r} is not consumed"
            found[f"lane {lane.name}"] = lane.paused or missed
        found |= {name: ENDED for name, task in self._parts.items() if task.done()}
        return found

    async def _missing_database(self) -> str | None:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await self.database.check(self.name)
            return self.database.noted(*(kind for kind in Trouble if kind.is_total))
        except Exception as error:
            return str(error).partition("\n")[0] or f"{self.database.place}: no answer"

    def warnings(self) -> dict[str, str]:
        """What works and should be looked at all the same, by the names of `checks` or `concerns`: they do not
        decide readiness."""
        found = {f"lane {lane.name}": lane.warning for lane in self.lanes if lane.warning}
        damage = self.database.noted(Trouble.FULL, Trouble.DAMAGED)
        found |= {name: said for name, concern in self.concerns.items() if (said := concern())}
        return found | ({"database": damage} if damage else {})


def _say_why(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("a part of the service has ended", part=task.get_name(), exc_info=error)


async def consume() -> None:
    """What FastStream takes for a subscriber's function. Nothing calls it."""


async def _finish(tasks: list[asyncio.Task[None]], deadline: float) -> None:
    """Let tasks come to their end until `deadline` (monotonic), then cancel them."""
    if tasks:
        _, unfinished = await asyncio.wait(tasks, timeout=max(0.0, deadline - time.monotonic()))
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
