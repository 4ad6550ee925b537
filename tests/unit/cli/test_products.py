"""A catalogue to begin with."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

from deploy.cli.client.gateway import Gateway
from deploy.cli.products import _fill
from deploy.local.catalogue import PRODUCTS


class _Shop:
    """What the gateway would keep."""

    def __init__(self, *skus: str) -> None:
        self.pieces = dict.fromkeys(skus, 0)

    async def products(self) -> AsyncIterator[dict[str, Any]]:
        for sku in self.pieces:
            yield {"sku": sku}

    async def set_product(self, sku: str, product: dict[str, Any]) -> None:
        assert product["price"]["amount"] > 0
        self.pieces[sku] = 0

    async def adjust(self, sku: str, delta: int, reason: str) -> None:
        self.pieces[sku] += delta


def test_an_empty_catalogue_is_filled() -> None:
    shop = _Shop()
    assert asyncio.run(_fill(cast(Gateway, shop))) == len(PRODUCTS)
    assert shop.pieces == {product.sku: product.pieces for product in PRODUCTS}


def test_one_that_is_not_empty_is_left_as_it_is() -> None:
    shop = _Shop("MINE")
    assert asyncio.run(_fill(cast(Gateway, shop))) == 0
    assert shop.pieces == {"MINE": 0}
