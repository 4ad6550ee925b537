"""What a failed message says about itself."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import encode
from structlog.testing import capture_logs

from contracts.orders import Customer, OrderPlaced, PlaceOrder
from shared.messaging.amqp.confirms import Publish
from shared.messaging.copies import HEADER_BYTES, HEADERS_BYTES, failure_headers, sendable
from shared.messaging.decode import reason_of
from shared.messaging.forwarding import Forwarding
from shared.messaging.handler import Poison
from shared.messaging.publisher import Properties
from shared.messaging.retry import Failures


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


def test_bad_content_is_named_by_field_without_its_value() -> None:
    with pytest.raises(ValueError, match="validation") as caught:
        PlaceOrder.read(
            b'{"order_id": "secret", "currency": 5, "customer": {}, "lines": [{"sku": "a", "quantity": 0}]}'
        )
    reason = reason_of(caught.value)
    assert "order_id: " in reason
    assert reason.endswith("; and 3 more")
    assert "secret" not in reason


def test_a_body_that_is_not_json_says_so() -> None:
    with pytest.raises(ValueError, match="JSON") as caught:
        OrderPlaced.read(b"{")
    assert reason_of(caught.value).startswith("body: Invalid JSON")


def test_nobody_has_to_read_a_regular_expression() -> None:
    with pytest.raises(ValueError, match="pattern") as caught:
        Customer(id="ana", name="A\nna", email="ana@")
    assert reason_of(caught.value) == "name: is not in the form that is wanted; email: is not a mail address"


def test_an_error_without_words_is_named_by_its_kind() -> None:
    assert reason_of(KeyError()) == "KeyError"


def test_poison_needs_no_traceback_and_other_errors_keep_the_end_of_theirs() -> None:
    assert failure_headers({}, "r", raised(Poison("no")), 1, "stock", "1")["failure_traceback"] == ""
    headers = failure_headers({}, "r", raised(RuntimeError("x" * 9000)), 1, "stock", "1")
    assert str(headers["failure_traceback"]).endswith("x\n")
    assert len(str(headers["failure_message"])) == HEADER_BYTES


def test_the_first_failure_is_remembered_through_all_attempts() -> None:
    first = failure_headers({}, "r", raised(RuntimeError()), 1, "stock", "1")
    second = failure_headers(first, "r", raised(RuntimeError()), 2, "stock", "1")
    assert second["failure_first_at"] == first["failure_first_at"]
    assert second["failure_last_at"] > first["failure_last_at"]
    assert second["failure_attempts"] == 2


def test_the_brokers_marks_and_further_routing_keys_are_not_sent_on() -> None:
    given_ = {
        "x-death": [{}],
        "x-first-death-queue": "q",
        "x-delivery-count": 3,
        "CC": ["email"],
        "BCC": ["x"],
        "CCx": "1",
    }
    assert sendable(given_) == {"CCx": "1"}


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.decimals() | st.text() | st.binary() | st.datetimes(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=60), ANYTHING, max_size=40))
def test_whatever_headers_came_can_be_sent_on(headers: dict[str, object]) -> None:
    whole = {**sendable(headers), **failure_headers(headers, "r" * 9000, RuntimeError("é" * 9000), 1, "stock", "1")}
    in_range = {k: v for k, v in whole.items() if not isinstance(v, int) or abs(v) < 2**63}  # as all that is received
    assert len(encode.field_table(in_range)) < 4 * HEADERS_BYTES


def test_many_large_headers_stay_below_a_frame() -> None:
    headers = {f"k{number}": "😀" * 490 for number in range(60)}
    assert len(encode.field_table(failure_headers(headers, "r", RuntimeError(), 1, "stock", "1"))) < 131_072 / 2


CLAIMED = {
    "failure_first_at": "0001-01-01T00:00:00+14:00",
    "failure_reason": "its sender says so",
    "failure_anything": "x",
    "attempt": 7,
    "edited_from": "a letter",
    "replay": "01890000-0000-7000-8000-000000000000/1",
}


def a_raw(exchange: str, **more: Any) -> Any:
    known = {"routing_key": PlaceOrder.key, "type": PlaceOrder.key, "message_id": "m-1", "correlation_id": "job-1"}
    rest = {"app_id": None, "user_id": None, "timestamp": None, "content_type": None, "body": b"{", "headers": {}}
    return SimpleNamespace(exchange=exchange, **{**known, **rest, **more})


async def buried(raw: Any) -> Properties:
    """With what a message that cannot be read is sent to the dead letters."""
    sent: list[Properties] = []

    class Publisher:
        async def forward(self, sends: Sequence[Publish]) -> list[None]:
            sent.extend(send.properties for send in sends)
            return [None for _ in sends]

    unused: Any = None
    to: Any = Publisher()
    failures = Failures("orders", ("1s",), "1")
    forwarding = Forwarding("orders", unused, to, failures, unused, unused)
    await forwarding.publish([failures.unreadable(raw, "not JSON", ValueError("no"))])
    return sent[0]


async def test_what_came_through_an_exchange_cannot_say_that_it_failed_before() -> None:
    headers = (await buried(a_raw("commands", headers={**CLAIMED, "source": "a till"}))).headers or {}
    assert headers["failure_first_at"] == headers["failure_last_at"]
    assert headers["failure_reason"] == "not JSON"
    assert headers["source"] == "a till"
    assert not headers.keys() & {"failure_anything", "attempt", "edited_from", "replay"}


async def test_what_is_given_up_is_found_in_the_log_by_the_order_in_its_body() -> None:
    order_id = "01890000-0000-7000-8000-0000a1b2c3d4"
    for body, found in (
        (f'{{"order_id": "{order_id}"}}', order_id),
        ('{"order_id": 7}', None),
        ('["order_id"]', None),
        ("[" * 100_000, None),
        ("{", None),
    ):
        raw = a_raw("commands", headers={})
        raw.body = body.encode()
        with capture_logs() as lines:
            await buried(raw)
        assert [line.get("order_id") for line in lines] == [found], body[:40]


async def test_what_came_back_keeps_what_was_written_about_it() -> None:
    headers = (await buried(a_raw("", headers=CLAIMED))).headers or {}
    kept = ("failure_first_at", "attempt", "edited_from", "replay")
    assert {name: headers[name] for name in kept} == {name: CLAIMED[name] for name in kept}


@pytest.mark.parametrize(
    ("exchange", "key", "job"),
    [("commands", PlaceOrder.key, "m-1"), ("", PlaceOrder.key, "job-1"), ("orders", OrderPlaced.key, "job-1")],
)
async def test_a_shop_names_no_job_with_what_cannot_be_read(exchange: str, key: str, job: str) -> None:
    assert (await buried(a_raw(exchange, routing_key=key, type=key))).correlation_id == job


async def test_a_copy_whose_properties_are_ours_can_be_read_again() -> None:
    raw = a_raw("commands", headers={"malote-unreadable": "a timestamp after the year 9999"})
    assert "malote-unreadable" not in ((await buried(raw)).headers or {})


def test_a_reason_can_always_be_logged_and_sent() -> None:
    assert reason_of(OSError("caf\udce9 is full")) == "caf? is full"
