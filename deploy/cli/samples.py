"""Invented customers and orders, to try the shop. Nobody can own their addresses (RFC 2606)."""

import random
from collections.abc import Sequence
from typing import Any

PEOPLE = (
    ("ana", "Ana Souza", "pt-BR"),
    ("bruno", "Bruno Carvalho", "pt-BR"),
    ("camila", "Camila Nogueira", "pt-BR"),
    ("diego", "Diego Araújo", "pt-BR"),
    ("emily", "Emily Parker", "en"),
    ("fernanda", "Fernanda Gonçalves", "pt-BR"),
    ("george", "George Osei", "en"),
    ("helena", "Helena Brandão", "pt-BR"),
    ("ines", "Inês Teixeira", "pt-BR"),
    ("joao", "João Batista", "pt-BR"),
)


def customer(number: int, mark: str = "") -> dict[str, str]:
    """A customer; `mark` makes id and address unique to one run."""
    name, full_name, locale = PEOPLE[number % len(PEOPLE)]
    own = f"{name}-{mark}" if mark else name
    return {"id": own, "name": full_name, "email": f"{own}@example.com", "locale": locale}


def order(buyer: dict[str, str], skus: Sequence[str], currency: str) -> dict[str, Any]:
    """One to three products of `skus`, one to three pieces each."""
    chosen = random.sample(skus, k=min(len(skus), random.randint(1, 3)))  # noqa: S311 - no secret
    lines = [{"sku": sku, "quantity": random.randint(1, 3)} for sku in chosen]  # noqa: S311
    return {"customer": buyer, "currency": currency, "lines": lines}
