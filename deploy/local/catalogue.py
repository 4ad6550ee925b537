"""The first products of a new shop, which are set over the gateway as an operator would do."""

import asyncio
from typing import NamedTuple

import httpx


class Product(NamedTuple):
    """A product with its price in minor units of BRL, and its first pieces."""

    sku: str
    name: str
    price: int
    low_threshold: int = 50
    pieces: int = 1000


PRODUCTS = (
    Product("COFFEE-1KG", "Café em grãos 1 kg", 6990),
    Product("COFFEE-250G", "Café em grãos 250 g", 2190),
    Product("COFFEE-DECAF", "Café descafeinado 250 g", 2590),
    Product("FILTER-103", "Filtro de papel 103, 30 unidades", 690),
    Product("FRENCH-PRESS", "Prensa francesa 600 ml", 12900),
    Product("DRIPPER-V60", "Coador V60 cerâmica", 9900),
    Product("GRINDER-HAND", "Moedor manual", 18900),
    Product("KETTLE-1L", "Chaleira bico de ganso 1 l", 21900),
    Product("MUG-BLUE", "Caneca esmaltada azul", 3990),
    Product("MUG-RARE", "Caneca de edição limitada", 8990, low_threshold=2, pieces=3),
    Product("BRIGADEIRO-12", "Brigadeiros, caixa com 12", 3600),
    Product("PAO-DE-QUEIJO", "Pão de queijo congelado 1 kg", 2990),
)


async def seed(gateway_url: str, orders_url: str, token: str) -> int:
    """Fill an empty catalogue, and wait until orders knows every price. Return the number of new products."""
    login = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(headers=login, timeout=30, trust_env=False) as http:
        known = await http.get(f"{gateway_url}/v1/products", params={"limit": 1})
        if known.raise_for_status().json()["data"]:
            return 0
        for product in PRODUCTS:
            await _put(http, gateway_url, product)
        await asyncio.wait_for(_priced(http, orders_url), 60)
    return len(PRODUCTS)


async def _put(http: httpx.AsyncClient, gateway_url: str, product: Product) -> None:
    url = f"{gateway_url}/v1/products/{product.sku}"
    price = {"amount": product.price, "currency": "BRL"}
    body = {"name": product.name, "price": price, "low_threshold": product.low_threshold}
    (await http.put(url, json=body)).raise_for_status()
    stocked = {"delta": product.pieces, "reason": "first delivery"}
    (await http.post(f"{url}/adjustments", json=stocked)).raise_for_status()


async def _priced(http: httpx.AsyncClient, orders_url: str) -> None:
    wanted = {product.sku for product in PRODUCTS}
    while True:
        prices = (await http.get(f"{orders_url}/v1/prices", params={"limit": 100})).raise_for_status().json()
        if wanted <= {price["sku"] for price in prices["data"]}:
            return
        await asyncio.sleep(0.1)
