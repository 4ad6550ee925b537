"""What a failed message says about itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import encode

from contracts.orders import OrderPlaced, PlaceOrder
from shared.handler import Poison
from shared.retry import HEADER_BYTES, HEADERS_BYTES, failure_headers, sendable
from shared.wire import reason_of


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
