"""The consumers of a service: one for each of its lanes, with the processor that its handlers ask for."""

from types import ModuleType
from typing import TYPE_CHECKING

from contracts.flow import LANES
from shared.config.version import VERSION
from shared.messaging.batch import Batch
from shared.messaging.collect import Collect, Keep
from shared.messaging.concurrent import Concurrent
from shared.messaging.consumer import Consumer, Processor
from shared.messaging.handler import Handler, collector_of, lanes_of
from shared.messaging.intake import Intake
from shared.messaging.lane import Lane
from shared.messaging.pause import Pause
from shared.messaging.retry import Failures

if TYPE_CHECKING:
    from shared.service import Service


def consumers_of(service: "Service", handlers: ModuleType) -> list[Consumer]:
    """A consumer for each lane of the module's handlers, and for each dead-letter queue if it collects dead letters."""
    consumers = [_lane(service, lane, found) for lane, found in lanes_of(service.name, handlers).items()]
    if keep := collector_of(handlers):
        consumers += [_collector(service, f"{lane}.dlq", keep) for lane in LANES]
    return consumers


def _lane(service: "Service", name: str, found: dict[str, Handler]) -> Consumer:
    handlers = {key: handler.with_resources(service.resources) for key, handler in found.items()}
    concurrency = next(iter(handlers.values())).concurrency
    at_once = concurrency or service.settings.batch_limit
    failures = Failures(name, service.settings.retry_ladder, VERSION)
    seconds = service.settings.handler_seconds(name, outside=bool(concurrency))
    lane = Lane(name, handlers, service.outbox, service.publisher, failures, seconds)
    processor: Processor = Concurrent(lane, at_once) if concurrency else Batch(lane, at_once)
    return Consumer(name, handlers, processor, lane.intake, lane.pause, 2 * at_once, seconds, lane.tally)


def _collector(service: "Service", name: str, keep: Keep) -> Consumer:
    intake, pause, at_once = Intake(), Pause(name), service.settings.batch_limit
    processor = Collect(name, keep, service.outbox, intake, pause, at_once)
    seconds = service.settings.handler_seconds(name, outside=False)
    return Consumer(name, {}, processor, intake, pause, 2 * at_once, seconds)
