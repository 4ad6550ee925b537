"""What a new shop sells fits the contracts that the gateway holds everybody to."""

import json

from pydantic import TypeAdapter

from contracts.base import Sku
from contracts.http.stock import AdjustmentIn, ProductIn
from deploy.local.catalogue import PRODUCTS, Product

sku: TypeAdapter[str] = TypeAdapter(Sku)


def test_every_product_can_be_put_in_over_the_gateway() -> None:
    for product in PRODUCTS:
        sku.validate_python(product.sku)
        price = {"amount": product.price, "currency": "BRL"}
        body = {"name": product.name, "price": price, "low_threshold": product.low_threshold}
        ProductIn.model_validate_json(json.dumps(body))
        AdjustmentIn(delta=product.pieces, reason="first delivery")


def test_no_product_is_named_twice() -> None:
    for names in zip(*((product.sku, product.name) for product in PRODUCTS), strict=True):
        assert len({*names}) == len(PRODUCTS)


def test_one_product_is_so_rare_that_the_demo_can_ask_for_too_many() -> None:
    assert [product for product in PRODUCTS if product.pieces < 10] == [
        Product("MUG-RARE", "Caneca de edição limitada", 8990, low_threshold=2, pieces=3)
    ]


def test_nothing_is_low_from_the_start() -> None:
    assert all(product.pieces >= product.low_threshold for product in PRODUCTS)
