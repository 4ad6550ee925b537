"""Ids as people have them, and hints for those of another kind."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import typer

from deploy.cli import ids
from deploy.cli.errors import Failed, Refused

ONE, OTHER = "01890000-0000-7000-8000-0000a1b2c3d4", "01890000-0000-7000-8000-0000ffffffff"


class Fake:
    """A gateway with some orders, and what is at some paths."""

    def __init__(self, orders: list[str], *paths: str) -> None:
        self._orders, self._paths = orders, paths

    async def each_order(self) -> AsyncIterator[dict[str, Any]]:
        for order in self._orders:
            yield {"id": order}

    async def ask(self, method: str, path: str) -> dict[str, Any]:
        if path not in self._paths:
            raise Refused("not found (404 not_found)")
        return {}


def test_an_order_is_named_by_its_id_or_by_its_number_from_a_mail() -> None:
    assert ids.order(ONE) == ids.order(ONE.upper()) == ONE
    assert ids.order("A1B2C3D4") == "a1b2c3d4"
    for text in ("12", "A1B2C3D", "no-such-id", ""):
        with pytest.raises(typer.BadParameter, match="number of eight characters"):
            ids.order(text)


async def test_a_number_is_looked_up_among_the_newest_orders() -> None:
    gateway: Any = Fake([OTHER, ONE])
    assert await ids.whole(gateway, ONE) == ONE
    assert await ids.whole(gateway, "a1b2c3d4") == ONE
    with pytest.raises(Failed, match="malote logs 00000000"):
        await ids.whole(gateway, "00000000")
    twice: Any = Fake([ONE, ONE.replace("01890000", "01890001")])
    with pytest.raises(Failed, match="several orders"):
        await ids.whole(twice, "a1b2c3d4")


async def test_an_id_of_another_kind_is_named_with_the_command_that_shows_it() -> None:
    async def missing(_: Any) -> dict[str, Any]:
        raise Refused(f"There is no order {ONE}. (404 order_not_found)")

    job: Any = Fake([], f"/v1/jobs/{ONE}")
    with pytest.raises(Refused, match=f"the id of a job: `malote jobs show {ONE}`"):
        await ids.hinted(job, "order", ONE, missing)
    nothing: Any = Fake([])
    with pytest.raises(Refused, match=r"\(404 order_not_found\)$"):
        await ids.hinted(nothing, "order", ONE, missing)
