"""Who names a type is given the one object of it."""

from abc import ABC, abstractmethod

import pytest

from contracts.orders import OrderPlaced
from shared.messaging.handler import on
from shared.messaging.resources import Resources, Watched
from shared.messaging.unit import UnitOfWork


class Settings:
    host = "localhost"


class Server:
    name = "mail server"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def concern(self) -> str | None:
        return "it is slow"


class Port(ABC):
    @abstractmethod
    def send(self) -> None: ...


def test_what_is_not_handed_in_is_made_once_with_resources_of_its_own() -> None:
    settings = Settings()
    resources = Resources(settings)
    server = resources.get(Server)
    assert server.settings is settings
    assert resources.get(Server) is server
    assert [one for one in resources if isinstance(one, Watched)] == [server]


def test_a_test_hands_in_its_own() -> None:
    class Fake(Server):
        pass

    fake = Fake(Settings())
    assert Resources(fake).get(Server) is fake


def test_a_handler_is_given_what_it_names_after_its_message_and_its_unit() -> None:
    @on(OrderPlaced)
    async def on_order_placed(order: OrderPlaced, unit: UnitOfWork, server: Server) -> None:
        """What it does."""

    resources = Resources(Settings())
    [handler] = on_order_placed.handlers  # type: ignore[attr-defined]
    call = handler.with_resources(resources).call
    assert call.keywords == {"server": resources.get(Server)}
    assert call.__doc__ == "What it does."


@pytest.mark.parametrize("kind", [str, int, Port])
def test_what_cannot_be_made_is_an_error_that_says_where_to_hand_it_in(kind: type) -> None:
    with pytest.raises(LookupError, match=r"Service\(resources=…\)"):
        Resources().get(kind)


def test_a_parameter_without_a_type_is_named() -> None:
    def handle(message, unit, mailer) -> None:  # type: ignore[no-untyped-def]
        pass

    with pytest.raises(LookupError, match="'mailer' names no type"):
        Resources().bind(handle, skip=2)
