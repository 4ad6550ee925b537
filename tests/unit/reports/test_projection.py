"""The read model: given what orders and stock say, in any order and twice, then what is known."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from contracts.base import Message, Money
from contracts.orders import (
    Customer,
    OrderCancelled,
    OrderConfirmed,
    OrderedLine,
    OrderPlaced,
    OrderRejected,
    PricedLine,
    RejectedLine,
)
from contracts.reports import FetchPage, ProjectPage, ReadModelRebuilt, RebuildReadModel
from contracts.stock import ReservedLine, StockAdjusted, StockReleased, StockReserved, StockTaken
from services.reports import domain, handlers
from services.reports.domain import OrderFact
from services.reports.store.read_model import Line, Movement, Order, ReadModel
from shared.testing import Harness
from tests.running import an_order

AT = datetime(2026, 11, 2, 14, 30, tzinfo=UTC)
FATES = ("placed", "unpriced", "out_of_stock", "reserved", "confirmed", "cancelled", "given_back")
Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture
async def reports() -> AsyncIterator[Harness]:
    async with Harness(handlers, Order) as harness:
        await harness.given(ReadModel())
        yield harness


async def known(reports: Harness, *, revisions: bool = False) -> Rows:
    """All rows of the read model; without what says when it came to be known."""
    found: Rows = {}
    for table in (Order, Line, Movement):
        rows = [row.model_dump() for row in await reports.rows(table)]
        plain = [{k: v for k, v in row.items() if revisions or not k.endswith("revision")} for row in rows]
        found[table.__name__] = sorted(plain, key=lambda row: str([row.get(key) for key in ("id", "order_id", "sku")]))
    return found


def sku() -> st.SearchStrategy[str]:
    return st.from_regex(r"[A-Z0-9][A-Z0-9._-]{0,39}", fullmatch=True)


def line_of_text(longest: int) -> st.SearchStrategy[str]:
    """Whatever `contracts.base.text` takes."""
    visible = st.characters(exclude_categories=["Cs"], exclude_characters=[*map(chr, range(32)), "\x7f"])
    return st.text(visible, min_size=1, max_size=longest)


@st.composite
def lives(draw: st.DrawFn) -> list[Message]:
    """All that orders and stock say of one order, in the order in which it happens."""
    fate, currency = draw(st.sampled_from(FATES)), draw(st.sampled_from(["BRL", "JPY", "KWD"]))
    order_id = UUID(int=draw(st.integers(0, 2**128 - 1)))
    pieces = draw(st.dictionaries(sku(), st.integers(1, 2_000_000), min_size=1, max_size=3))
    one = Money(amount=draw(st.integers(0, 1_000_000_000)), currency=currency)
    priced = tuple(
        PricedLine(sku=sku, name=draw(line_of_text(20)), quantity=number, unit_price=one, total=one * number)
        for sku, number in pieces.items()
    )
    who = Customer(id=draw(line_of_text(64)), name=draw(line_of_text(200)), email="ana@example.com")
    total = Money(amount=sum(line.total.amount for line in priced), currency=currency)
    core: dict[str, Any] = {"order_id": order_id, "customer": who, "lines": priced, "total": total, "placed_at": AT}
    held = {"order_id": order_id, "lines": tuple(ReservedLine(sku=sku, quantity=n) for sku, n in pieces.items())}
    at = [AT + timedelta(milliseconds=draw(st.integers(0, 10_000))) for _ in range(4)]
    blame = {"rejected_lines": (RejectedLine(sku=priced[0].sku, quantity=1),), "rejected_at": at[0]}
    if fate == "unpriced":
        core |= {"lines": tuple(OrderedLine(sku=sku, quantity=n) for sku, n in pieces.items()), "total": None}
        return [OrderRejected(**core, currency=currency, reason="unknown_sku", **blame)]
    lines = {"lines": tuple(OrderedLine(**line.model_dump()) for line in priced)}
    rejected = OrderRejected(**core | lines, currency=currency, reason="out_of_stock", **blame)
    placed, reserved = OrderPlaced(**core), StockReserved(**held, reserved_at=at[0])
    confirmed, taken = OrderConfirmed(**core, confirmed_at=at[1]), StockTaken(**held, taken_at=at[2])
    cancelled = OrderCancelled(**core, cancelled_at=at[3], order_job_id="job")
    life: dict[str, list[Message]] = {
        "placed": [placed],
        "out_of_stock": [placed, rejected],
        "reserved": [placed, reserved],
        "confirmed": [placed, reserved, confirmed, taken],
        "cancelled": [placed, reserved, cancelled, StockReleased(**held, was_taken=False, released_at=at[3])],
        "given_back": [
            *(placed, reserved, confirmed, taken, cancelled),
            StockReleased(**held, was_taken=True, released_at=at[3]),
        ],
    }
    return life[fate]


@st.composite
def adjustments(draw: st.DrawFn) -> StockAdjusted:
    return StockAdjusted(
        adjustment_id=UUID(int=draw(st.integers(0, 2**128 - 1))),
        sku=draw(sku()),
        delta=draw(st.integers(-1_000_000, 1_000_000)),
        reason=draw(line_of_text(200)),
        adjusted_by="operator",
        adjusted_at=AT,
    )


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Message], list[list[Message]]]:
    """Some orders' events in the right order, and the same in any, in batches, some of them twice."""
    orders = draw(st.lists(lives(), min_size=1, max_size=4, unique_by=lambda life: life[0].order_id))  # type: ignore[attr-defined]
    right = [event for life in orders for event in life]
    right += draw(st.lists(adjustments(), max_size=2, unique_by=lambda event: event.adjustment_id))  # type: ignore[attr-defined]
    twice = draw(st.lists(st.sampled_from(right), max_size=len(right)))
    mixed = draw(st.permutations(right + twice))
    cuts = sorted(draw(st.sets(st.integers(1, len(mixed)), max_size=4)) | {0, len(mixed)})
    return right, [list(mixed[a:b]) for a, b in pairwise(cuts)]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories())
async def test_any_interleaving_with_duplicates_gives_the_same_read_model_as_the_right_order(
    reports: Harness, history: tuple[list[Message], list[list[Message]]]
) -> None:
    right, mixed = history
    await reports.when(RebuildReadModel())
    for event in right:
        await reports.when(event)
    expected = await known(reports)
    await reports.when(RebuildReadModel())
    for batch in mixed:
        await reports.when(*batch)
    assert await known(reports) == expected
    assert len(expected["Order"]) == len({event.order_id for event in right if isinstance(event, OrderFact)})


async def test_an_order_is_kept_with_its_lines_in_minor_and_major_units(reports: Harness) -> None:
    order = an_order([("A", 2), ("B", 1)])
    await reports.when(order)
    row = await reports.row(Order, order.order_id)
    assert (row.total, row.amount, row.lines, row.pieces) == (300, "3.00", 2, 3)
    assert (row.customer_id, row.customer_name, row.customer_email) == ("ana", "Ana", "ana@example.com")
    assert row.placed_at == 1_767_225_600_000
    lines = await reports.rows(Line)
    found = {(line.sku, line.quantity, line.unit_price, line.price, line.total, line.amount) for line in lines}
    assert found == {("A", 2, 100, "1.00", 200, "2.00"), ("B", 1, 100, "1.00", 100, "1.00")}


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [
        (7, "BRL", "0.07"),
        (0, "BRL", "0.00"),
        (7, "JPY", "7"),
        (7, "KWD", "0.007"),
        (2**53 - 1, "BRL", "90071992547409.91"),
    ],
)
def test_money_is_written_in_major_units_with_the_currencys_digits(amount: int, currency: str, text: str) -> None:
    assert domain.major(amount, currency) == text


async def test_every_fact_bears_the_revision_by_which_it_came_to_be_known(reports: Harness) -> None:
    order = an_order()
    confirmed = OrderConfirmed(**order.model_dump(), confirmed_at=AT)
    await reports.when(order, order)
    await reports.when(confirmed)
    await reports.when(order, confirmed)
    row = await reports.row(Order, order.order_id)
    assert (row.revision, row.confirmed_revision, row.cancelled_revision) == (1, 2, None)
    assert (await reports.row(ReadModel, 1)).revision == 3


async def test_what_moved_adds_up_to_the_level(reports: Harness) -> None:
    held: dict[str, Any] = {"order_id": uuid7(), "lines": (ReservedLine(sku="A", quantity=3),)}
    came = StockAdjusted(adjustment_id=uuid7(), sku="A", delta=10, reason="came", adjusted_by="o", adjusted_at=AT)
    levels = []
    for event in (
        came,
        StockReserved(**held, reserved_at=AT),
        StockTaken(**held, taken_at=AT),
        StockReleased(**held, was_taken=True, released_at=AT),
    ):
        await reports.when(event)
        rows = await reports.rows(Movement)
        levels.append((sum(row.on_hand for row in rows), sum(row.reserved for row in rows)))
    assert levels == [(10, 0), (10, 3), (7, 0), (10, 0)]


async def test_what_is_given_back_before_it_was_taken_is_only_reserved_no_more(reports: Harness) -> None:
    order_id = uuid7()
    lines = (ReservedLine(sku="A", quantity=3),)
    await reports.when(StockReleased(order_id=order_id, lines=lines, was_taken=False, released_at=AT))
    row = await reports.row(Movement, f"{order_id}.released.A")
    assert (row.on_hand, row.reserved, row.kind, row.order_id) == (0, -3, "released", order_id)


async def test_a_rebuild_keeps_what_comes_in_the_same_batch_before_and_after_it(reports: Harness) -> None:
    old, before, after = an_order(), an_order(), an_order()
    await reports.when(old)
    assert await reports.when(before, RebuildReadModel(), after) == [FetchPage(source="orders", since=2)]
    assert {row.id for row in await reports.rows(Order)} == {before.order_id, after.order_id}
    assert len(await reports.rows(Line)) == 2
    model = await reports.row(ReadModel, 1)
    assert (model.revision, model.emptied_at) == (2, 2)


async def test_a_page_changes_nothing_that_events_said_and_adds_what_they_did_not(reports: Harness) -> None:
    order = an_order()
    confirmed = OrderConfirmed(**order.model_dump(), confirmed_at=AT)
    entry = _as_entry(order, confirmed_at=AT)
    page = ProjectPage(source="orders", since=0, entries=(entry, entry), then=ReadModelRebuilt(entries=2))
    await reports.when(order)
    assert await reports.when(page) == [ReadModelRebuilt(entries=2)]
    first = await known(reports, revisions=True)
    await reports.when(confirmed, page)
    assert await known(reports, revisions=True) == first
    assert (await reports.row(Order, order.order_id)).confirmed_revision == 2


async def test_a_field_that_an_owner_added_to_its_entries_is_passed_over(reports: Harness) -> None:
    order = an_order()
    entry = _as_entry(order, colour="red")
    await reports.when(
        ProjectPage(source="orders", since=0, entries=(entry,), then=FetchPage(source="reservations", since=0))
    )
    assert (await reports.row(Order, order.order_id)).pieces == 1


def test_the_sources_are_asked_one_after_the_other_and_the_end_says_how_many_entries_there_were() -> None:
    a, b = ({"id": "a", "order_id": "a"}, {"id": "b", "order_id": "b"})
    asked: list[FetchPage | ReadModelRebuilt] = [FetchPage(source="orders", since=7)]
    for entries, has_more in (([a], True), ([b], False), ([a], True), ([], False), ([], False)):
        assert isinstance(asked[-1], FetchPage)
        asked.append(domain.next_page(asked[-1], entries, has_more))
    assert asked[1:] == [
        FetchPage(source="orders", after="a", done=1, since=7),
        FetchPage(source="reservations", done=2, since=7),
        FetchPage(source="reservations", after="a", done=3, since=7),
        FetchPage(source="adjustments", done=3, since=7),
        ReadModelRebuilt(entries=3),
    ]


def _as_entry(order: OrderPlaced, **more: Any) -> dict[str, Any]:
    """An order as its owner's query route gives it."""
    fields = order.model_dump(mode="json")
    known = {"id": fields.pop("order_id"), "status": "PLACED", "currency": "BRL", "job_id": "job"}
    return fields | known | {name: str(value) for name, value in more.items()}


async def test_the_end_of_a_rebuild_that_another_one_overtook_does_not_make_the_read_model_whole(
    reports: Harness,
) -> None:
    last = ProjectPage(source="adjustments", since=2, entries=(), then=ReadModelRebuilt(entries=0))
    await reports.when(RebuildReadModel())
    await reports.when(RebuildReadModel())
    emptied = (await reports.row(ReadModel, 1)).emptied_at
    await reports.when(last.model_copy(update={"since": emptied - 1}))
    model = await reports.row(ReadModel, 1)
    assert model.emptied_at > model.filled_at
    await reports.when(last.model_copy(update={"since": emptied}))
    model = await reports.row(ReadModel, 1)
    assert model.filled_at > model.emptied_at
