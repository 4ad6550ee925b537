"""Orders as orders itself lists them: those placed last first, whatever ids shops give."""

from itertools import chain
from uuid import UUID

from services.orders.store import Order
from tests.serving import NO_BROKER, Served, serving

ANA = {"id": "ana", "name": "Ana Souza", "email": "ana@example.com", "locale": "pt-BR"}


def an_order(number: int, placed_at: int, owner: str = "ana", state: str = "CONFIRMED") -> Order:
    """Its id grows against time: the larger, the earlier it was placed."""
    lines = [{"sku": "A", "quantity": 1}]
    return Order(
        id=UUID(int=(100 - number) << 100), state=state, job_id="x", customer_id=owner, customer=ANA | {"id": owner},
        currency="BRL", lines=lines, placed_at=placed_at,
    )  # fmt: skip


async def listed(orders: Served, subject: str, role: str = "customer", **params: object) -> list[list[str]]:
    """All pages."""
    pages: list[list[str]] = []
    async with orders.client(subject, role) as client:
        while True:
            answer = (await client.get("/v1/orders", params=params)).raise_for_status().json()
            pages.append([order["id"] for order in answer["data"]])
            if not answer["has_more"]:
                return pages
            side = "ending_before" if "ending_before" in params else "starting_after"
            params[side] = pages[-1][0 if side == "ending_before" else -1]


def flat(pages: list[list[str]]) -> list[str]:
    """What is on all pages."""
    return [*chain.from_iterable(pages)]


async def test_those_placed_last_come_first_whatever_ids_they_have(database_url: str) -> None:
    async with serving("orders", NO_BROKER, database_url) as orders:
        hers = [an_order(number, placed_at=1_000 + number // 2) for number in range(7)]  # two in each millisecond
        his = [an_order(10 + number, 1_000 + number, "bo", "PLACED") for number in range(3)]
        async with orders.service.database.transaction() as session:
            session.add_all([*hers, *his])
        expected = [
            str(order.id) for order in sorted(hers, key=lambda order: (order.placed_at, order.id), reverse=True)
        ]
        assert flat(await listed(orders, "ana", limit=100)) == expected
        pages = await listed(orders, "ana", limit=2)
        assert [len(page) for page in pages] == [2, 2, 2, 1]
        assert flat(pages) == expected
        newer = await listed(orders, "ana", limit=3, ending_before=expected[4])
        assert newer == [expected[1:4], expected[:1]]
        every = flat(await listed(orders, "olga", "operator", limit=4))
        assert len(every) == 10
        assert every[0] == str(max([*hers, *his], key=lambda order: (order.placed_at, order.id)).id)
        assert flat(await listed(orders, "olga", "operator", status="PLACED")) == [str(o.id) for o in his[::-1]]
        assert await listed(orders, "ana", starting_after=str(his[2].id)) == [[]], "another's order begins no page"
