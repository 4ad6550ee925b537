"""A made-up year of a shop, as the rows that orders, stock and reports would hold if it had happened. Pure.

Every order is decided as the services decide it: reserved where there is enough of everything, rejected where there is
not, with the level that it met. So the tables agree with each other, and levels never fall below zero.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from heapq import heappop, heappush
from itertools import accumulate
from random import Random
from typing import Any, NamedTuple

from contracts.base import Money, minor_digits
from contracts.orders import OrderedLine, PricedLine, RejectedLine
from deploy.local import catalogue

HOUR = 3_600_000
CURRENCY, FOREIGN = "BRL", "USD"
OPERATOR = "operator"
_RETIRED = "COFFEE-OLD"
_ZONE = -3 * HOUR  # the shop's customers sleep at night
# How an order ends, of a thousand; all others are confirmed, if there is enough of everything.
_UNPRICED, _CANCELLED, _WAITING = 4, 50, 4
_DELIVERY_AFTER = 0.2  # of the orders that met an empty shelf
_PIECES = (1, 1, 1, 2, 2, 3, 4, 6)
_LINES = (1, 1, 1, 2, 2, 3, 4)
_CUSTOMERS_A_THOUSAND = 80
_MOST_CUSTOMERS = 50_000

_FIRST = (
    "Ana", "Antônio", "Beatriz", "Caio", "Cecília", "Conceição", "Diego", "Érica", "Estêvão", "Fábio", "Flávia",
    "Gabriel", "Helena", "Inês", "Ítalo", "João", "José", "Júlia", "Larissa", "Luís", "Márcia", "Mônica", "Nathália",
    "Otávio", "Patrícia", "Raí", "Sebastião", "Tainá", "Úrsula", "Vinícius", "Yasmin", "Zoé",
)  # fmt: skip
_LAST = (
    "Alcântara", "Araújo", "Assunção", "Barão", "Brandão", "Câmara", "Conceição", "Corrêa", "D'Ávila", "Estevão",
    "Falcão", "Gonçalves", "Guimarães", "Inácio", "Lemos", "Magalhães", "Mendonça", "Nóbrega", "Oliveira", "Paixão",
    "Quintão", "Ribeiro", "Sant'Ana", "Simões", "Souza", "Teixeira", "Uchôa", "Vasconcelos", "Ximenes", "Zarattini",
)  # fmt: skip
_AWKWARD = (
    "=SUM(A1)", '=HYPERLINK("http://example.com";"x")', "+55 11 91234-5678", "-2+3", "@ana", "＝1＋1",  # noqa: RUF001
    'Ana "Aninha" Souza', "Souza, Ana; Filhos", "'Ana", "Zoë 🦜☕", "👩‍👩‍👧 Família Reis", "<b>Ana</b> & Cia.", "NULL",
    "\\N", "\\.", "عائشة", "李小龍", "A" * 200,
)  # fmt: skip
_ORIGINS = ("Cerrado", "Sul de Minas", "Mogiana", "Chapada", "Caparaó", "Matas de Minas", "Bahia", "Paraná")
_SIZES = (("250G", "250 g", 3290), ("500G", "500 g", 5990), ("1KG", "1 kg", 10990))


class Product(NamedTuple):
    """A product with its price in minor units; `demand` is how often it is asked for beside the others."""

    sku: str
    name: str
    price: int
    low_threshold: int
    demand: float
    delivery: int


class Customer(NamedTuple):
    id: str
    name: str
    email: str
    json: str


def products() -> tuple[Product, ...]:
    """What the shop sells: the catalogue of `malote up`, and coffees of eight regions."""
    known = [Product(p.sku, p.name, p.price, p.low_threshold, 3.0, 600) for p in catalogue.PRODUCTS]
    rare = [p._replace(demand=0.02, delivery=12) if p.sku == "MUG-RARE" else p for p in known]
    coffees = [
        Product(f"{_ascii(origin)}-{size}", f"Café {origin} {words}", price + 150 * n, 50, 1.0 + n / 4, 240)
        for n, origin in enumerate(_ORIGINS)
        for size, words, price in _SIZES
    ]
    return (*rare, *coffees)


def customers(number: int, random: Random) -> list[Customer]:
    """So many people, one in a hundred with a name that is hard on whoever writes it into a file."""
    return [_customer(n, random) for n in range(number)]


def _customer(number: int, random: Random) -> Customer:
    name = f"{random.choice(_FIRST)} {random.choice(_LAST)}"
    if number % 100 == 7:
        name = _AWKWARD[number // 100 % len(_AWKWARD)]
    own = f"c{number:06}"
    fields = {"id": own, "name": name, "email": f"{own}@example.com", "locale": "en" if number % 9 == 0 else "pt-BR"}
    return Customer(own, name, fields["email"], json.dumps(fields))


def _ascii(words: str) -> str:
    return words.upper().replace(" ", "-").translate(str.maketrans("ÓÁ", "OA"))


def uuid7(at: int, random: Random) -> str:
    """An id for something that happened `at` (epoch milliseconds), as 32 hexadecimal digits (RFC 9562, 5.7)."""
    noise = random.getrandbits(74)
    return f"{at << 80 | 0x7 << 76 | (noise >> 62) << 64 | 0x2 << 62 | noise & 0x3FFFFFFFFFFFFFFF:032x}"


def dashed(id_: str) -> str:
    """The same as it is written for people."""
    return f"{id_[:8]}-{id_[8:12]}-{id_[12:16]}-{id_[16:20]}-{id_[20:]}"


@cache
def decimal(amount: int) -> str:
    """Minor units as a decimal in major ones."""
    digits = minor_digits(CURRENCY)
    return f"{amount // 10**digits}.{amount % 10**digits:0{digits}}"


@dataclass(slots=True)
class Rows:
    """Rows of some orders by table, in the order of `COLUMNS`, and what they do to the levels by SKU (on hand,
    reserved). Those of the read model lack their revisions: they are given when they are written."""

    orders: list[tuple[Any, ...]] = field(default_factory=list)
    reservations: list[tuple[Any, ...]] = field(default_factory=list)
    adjustments: list[tuple[Any, ...]] = field(default_factory=list)
    read_orders: list[tuple[Any, ...]] = field(default_factory=list)
    read_lines: list[tuple[Any, ...]] = field(default_factory=list)
    read_movements: list[tuple[Any, ...]] = field(default_factory=list)
    levels: dict[str, tuple[int, int]] = field(default_factory=dict)


COLUMNS = {
    "orders": (
        "id", "state", "job_id", "customer_id", "customer", "currency", "lines", "total", "reason", "rejected_lines",
        "placed_at", "confirmed_at", "rejected_at", "cancelled_at",
    ),
    "reservations": ("order_id", "state", "lines", "reserved_at", "taken_at", "released_at"),
    "adjustments": ("id", "sku", "delta", "reason", "adjusted_by", "adjusted_at"),
    "read_orders": (
        "id", "placed_at", "customer_id", "customer_name", "customer_email", "currency", "total", "amount", "lines",
        "pieces", "reason", "confirmed_at", "rejected_at", "cancelled_at",
    ),
    "read_lines": ("order_id", "sku", "placed_at", "name", "quantity", "unit_price", "price", "total", "amount"),
    "read_movements": (
        "id", "moved_at", "sku", "kind", "on_hand", "reserved", "order_id", "reason", "adjusted_by",
    ),
}  # fmt: skip


class History:
    """`number` orders of the `days` before `until`. The same arguments give the same rows."""

    def __init__(self, number: int, days: int, seed: int, until: datetime, sold: Sequence[Product]) -> None:
        self._number, self._random = number, Random(seed)  # noqa: S311 - no secret
        self._until = round(until.timestamp() * 1000)
        self._since = self._until - days * 24 * HOUR
        self._products = {product.sku: product for product in sold}
        self._skus = [*self._products]
        self._demand = [*accumulate(product.demand for product in sold)]
        size = min(max(number * _CUSTOMERS_A_THOUSAND // 1000, 20), _MOST_CUSTOMERS)
        self._customers = customers(size, self._random)
        self._available: dict[str, int] = dict.fromkeys(self._products, 0)
        self._coming_back: list[tuple[int, dict[str, int]]] = []
        self._rows = Rows()
        self._levels: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        self._wishes: dict[tuple[str, int], tuple[str, int, tuple[Any, ...]]] = {}

    def chunks(self, size: int) -> Iterator[Rows]:
        """The rows of `size` orders after the other, in the order in which they were placed."""
        for sku in self._skus:
            self._deliver(sku, self._since, "first delivery")
        for count, at in enumerate(self._times(), 1):
            self._order(at)
            if count % size == 0 or count == self._number:
                yield self._cut()

    def _cut(self) -> Rows:
        rows, self._rows = self._rows, Rows()
        rows.levels = {sku: (on_hand, reserved) for sku, (on_hand, reserved) in sorted(self._levels.items())}
        self._levels.clear()
        return rows

    def _times(self) -> Iterator[int]:
        """When orders are placed: more by day than at night, more at the week's end, and more and more."""
        hours = range(self._since, self._until, HOUR)
        weights = [*accumulate(_busy(hour) * (1 + n / len(hours)) for n, hour in enumerate(hours))]
        done = 0
        for hour, weight in zip(hours, weights, strict=True):
            here = round(self._number * weight / weights[-1]) - done
            for n in range(here):
                yield hour + int((n + self._random.random()) * HOUR / here)
            done += here

    def _order(self, at: int) -> None:
        """Decide one order, as the services would."""
        random = self._random
        while self._coming_back and self._coming_back[0][0] < at:
            for sku, pieces in heappop(self._coming_back)[1].items():
                self._available[sku] += pieces
        id_ = uuid7(at, random)
        who = self._customers[int(random.random() ** 2 * len(self._customers))]  # some buy often
        skus = random.choices(self._skus, cum_weights=self._demand, k=random.choice(_LINES))
        wanted = {sku: random.choice(_PIECES) for sku in skus}
        fate = random.random() * 1000
        if fate < _UNPRICED:
            self._unpriced(at, id_, who, wanted, fate < _UNPRICED / 2)
        elif short := [sku for sku, pieces in wanted.items() if self._available[sku] < pieces]:
            self._refused(at, id_, who, wanted, short)
        else:
            self._reserved(at, id_, who, wanted, fate - _UNPRICED)

    def _reserved(self, at: int, id_: str, who: Customer, wanted: dict[str, int], fate: float) -> None:
        """All of it was there: confirmed; or cancelled, now or later; or on its way between stock and orders."""
        reserved_at = at + 10 + int(self._random.random() * 90)
        confirmed_at: int | None = reserved_at + 15
        taken_at: int | None = reserved_at + 30
        cancelled_at = released_at = None
        state, holds = "CONFIRMED", "TAKEN"
        if fate < _WAITING:
            state, holds, confirmed_at, taken_at = "PLACED", "RESERVED", None, None
        elif fate < _WAITING + _CANCELLED:
            if fate < _WAITING + _CANCELLED / 10:  # before orders knew that it was reserved
                cancelled_at, confirmed_at, taken_at = reserved_at + 5, None, None
            else:
                cancelled_at = reserved_at + 60_000 + int(self._random.expovariate(1 / (6 * HOUR)))
            if cancelled_at < self._until - 1000:
                state, holds, released_at = "CANCELLED", "RELEASED", cancelled_at + 15
                heappush(self._coming_back, (released_at, wanted))
            else:
                cancelled_at, confirmed_at, taken_at = None, reserved_at + 15, reserved_at + 30
        lines, total = self._priced(wanted)
        self._put_order(
            at, id_, who, CURRENCY, lines, total, state, None, "[]", wanted, (confirmed_at, None, cancelled_at)
        )
        held = (id_, holds, json.dumps(wanted), reserved_at, taken_at, released_at)
        self._rows.reservations.append(held)
        self._move(id_, wanted, reserved_at, taken_at, released_at)

    def _move(
        self, id_: str, wanted: dict[str, int], reserved_at: int, taken_at: int | None, released_at: int | None
    ) -> None:
        """What an order does to the levels."""
        movements, own = self._rows.read_movements, dashed(id_)
        for sku, pieces in wanted.items():
            self._available[sku] -= pieces
            level = self._levels[sku]
            movements.append((f"{own}.reserved.{sku}", reserved_at, sku, "reserved", 0, pieces, id_, None, None))
            if taken_at is not None:
                movements.append((f"{own}.taken.{sku}", taken_at, sku, "taken", -pieces, -pieces, id_, None, None))
            if released_at is None:
                level[0 if taken_at is not None else 1] += -pieces if taken_at is not None else pieces
            else:
                back = (pieces, 0) if taken_at is not None else (0, -pieces)
                movements.append((f"{own}.released.{sku}", released_at, sku, "released", *back, id_, None, None))

    def _refused(self, at: int, id_: str, who: Customer, wanted: dict[str, int], short: list[str]) -> None:
        """Something of it was not there; now and then that leads to a delivery."""
        blamed = [RejectedLine(sku=sku, quantity=wanted[sku], available=self._available[sku]) for sku in short]
        lines, total = self._priced(wanted)
        self._put_order(
            at, id_, who, CURRENCY, lines, total, "REJECTED", "out_of_stock", _dumped(blamed), wanted,
            (None, at + 40, None),
        )  # fmt: skip
        self._rows.reservations.append((id_, "REFUSED", "{}", None, None, None))
        for sku in short:
            if self._random.random() < _DELIVERY_AFTER:
                self._deliver(sku, at + 50, "delivery")

    def _unpriced(self, at: int, id_: str, who: Customer, wanted: dict[str, int], is_foreign: bool) -> None:
        """Rejected before stock heard of it: in another currency, or for what is not sold (any more)."""
        if not is_foreign:
            wanted = {**wanted, _RETIRED: 1}
        blame = wanted if is_foreign else [_RETIRED]
        blamed = [RejectedLine(sku=sku, quantity=wanted[sku]) for sku in blame]
        asked = [{"sku": sku, "quantity": pieces} for sku, pieces in wanted.items()]
        reason, currency = ("currency_mismatch", FOREIGN) if is_foreign else ("unknown_sku", CURRENCY)
        self._put_order(
            at, id_, who, currency, json.dumps(asked), None, "REJECTED", reason, _dumped(blamed), wanted,
            (None, at, None),
        )  # fmt: skip
        self._rows.reservations.append((id_, "RELEASED", "{}", None, None, None))

    def _put_order(
        self,
        at: int,
        id_: str,
        who: Customer,
        currency: str,
        lines: str,
        total: int | None,
        state: str,
        reason: str | None,
        blamed: str,
        wanted: dict[str, int],
        times: tuple[int | None, int | None, int | None],
    ) -> None:
        rows, job_id = self._rows, dashed(uuid7(at, self._random))
        rows.orders.append(
            (id_, state, job_id, who.id, who.json, currency, lines, total, reason, blamed, at, *times)
        )  # fmt: skip
        amount = None if total is None else decimal(total)
        rows.read_orders.append(
            (id_, at, who.id, who.name, who.email, currency, total, amount, len(wanted), sum(wanted.values()), reason,
             *times)
        )  # fmt: skip
        for sku, pieces in wanted.items():
            priced = (None, pieces, None, None, None, None) if total is None else self._wish(sku, pieces)[2]
            rows.read_lines.append((id_, sku, at, *priced))

    def _priced(self, wanted: dict[str, int]) -> tuple[str, int]:
        """An order's lines as orders keeps them, and what they cost."""
        wishes = [self._wish(sku, pieces) for sku, pieces in wanted.items()]
        return f"[{', '.join(wish[0] for wish in wishes)}]", sum(wish[1] for wish in wishes)

    def _wish(self, sku: str, pieces: int) -> tuple[str, int, tuple[Any, ...]]:
        """A line: as orders keeps it, what it costs, and as the read model has it. Each is made once."""
        if (sku, pieces) not in self._wishes:
            product = self._products[sku]
            price = Money(amount=product.price, currency=CURRENCY)
            total = price * pieces
            line = PricedLine(sku=sku, name=product.name, quantity=pieces, unit_price=price, total=total)
            read = (product.name, pieces, price.amount, decimal(price.amount), total.amount, decimal(total.amount))
            self._wishes[sku, pieces] = (json.dumps(line.model_dump(mode="json")), total.amount, read)
        return self._wishes[sku, pieces]

    def _deliver(self, sku: str, at: int, reason: str) -> None:
        id_, pieces = uuid7(at, self._random), self._products[sku].delivery
        self._available[sku] += pieces
        self._levels[sku][0] += pieces
        self._rows.adjustments.append((id_, sku, pieces, reason, OPERATOR, at))
        self._rows.read_movements.append((dashed(id_), at, sku, "adjusted", pieces, 0, None, reason, OPERATOR))


def _dumped(lines: Sequence[RejectedLine | OrderedLine]) -> str:
    return json.dumps([line.model_dump(mode="json") for line in lines])


def _busy(hour: int) -> float:
    """How busy the shop is in an hour of the day and of the week."""
    local = datetime.fromtimestamp((hour + _ZONE) / 1000, UTC)
    return (1.1 + math.sin((local.hour - 9) / 24 * 2 * math.pi)) * (1.5 if local.weekday() >= 4 else 1.0)
