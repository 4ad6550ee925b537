"""What a dead letter says of itself, which belong together, and what a replay does next."""

from datetime import UTC, datetime
from typing import Any

import pytest

from contracts.deadletters import LetterFilter, Selection
from services.deadletters import domain
from services.deadletters.domain import AT_ONCE, IN_FLIGHT, Standing

NOW = 1_800_000_000_000
FAILED = {
    "failure_reason": "failed 6 times",
    "failure_exception": "RuntimeError",
    "failure_message": "the price list\nis on fire",
    "failure_traceback": "Traceback …",
    "failure_attempts": 6,
    "failure_first_at": "2026-01-01T00:00:00+00:00",
    "failure_last_at": "2026-01-01T00:14:00+00:00",
    "failure_service": "stock",
    "failure_version": "0.1.0",
    "failure_host": "host",
}
POISON = {
    **FAILED,
    "failure_reason": "no message_id",
    "failure_exception": "Poison",
    "failure_message": "no message_id",
}


def died(**mark: Any) -> dict[str, Any]:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return {"x-death": [{"queue": "orders", "reason": "delivery_limit", "time": at, "count": 1, **mark}]}


def test_what_failed_of_is_the_reason_rather_than_how_often_it_failed() -> None:
    found = domain.failure(FAILED, NOW)
    assert found.reason == "RuntimeError: the price list is on fire"
    assert (found.attempts, found.last_at - found.first_at) == (6, 14 * 60_000)
    assert (found.service, found.version, found.host, found.traceback) == ("stock", "0.1.0", "host", "Traceback …")


def test_poison_says_itself_why() -> None:
    assert domain.failure(POISON, NOW).reason == "no message_id"


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        (died(), "its consumers died or vanished again and again, until the broker gave it up"),
        (died(reason="rejected"), "a consumer rejected it"),
        (died(reason="something new"), "something new"),
        ({}, "nobody said why"),
        ({"x-death": []}, "nobody said why"),
        ({"x-death": "forged"}, "nobody said why"),
        ({"x-death": [1]}, "nobody said why"),
    ],
)
def test_what_the_broker_gave_up_has_a_reason_in_words(headers: dict[str, Any], reason: str) -> None:
    assert domain.failure(headers, NOW).reason == reason


def test_what_a_sender_says_of_a_failure_counts_for_nothing() -> None:
    forged = domain.failure({**FAILED, **died(exchange="commands", **{"routing-keys": ["order.place.v1"]})}, NOW)
    assert forged == domain.failure(died(exchange="commands"), NOW)
    assert (forged.exception, forged.service, forged.traceback) == (None, None, None)


def test_what_failed_and_then_hit_the_brokers_limit_has_the_brokers_reason() -> None:
    found = domain.failure({**FAILED, **died(exchange="", time=datetime(2026, 1, 2, tzinfo=UTC))}, NOW)
    assert found.reason == "its consumers died or vanished again and again, until the broker gave it up"
    assert (found.attempts, found.service, found.traceback) == (6, "stock", "Traceback …")
    assert found.last_at - found.first_at == 86_400_000


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_that_is_in_no_year_in_utc_is_none(at: str) -> None:
    assert domain.failure({**FAILED, "failure_last_at": at}, NOW).last_at == NOW
    found = domain.failure({**FAILED, "failure_first_at": at}, NOW)
    assert found.first_at == found.last_at


def test_what_lies_deeper_than_can_be_shown_is_known() -> None:
    def nested(depth: int) -> Any:
        found: Any = 7
        for number in range(depth):
            found = [found, 1] if number % 2 else {"a": found}
        return found

    assert not domain.is_deep(nested(domain.DEEPEST - 1))
    assert domain.is_deep(nested(domain.DEEPEST + 1))
    assert not domain.is_deep({"wide": [[]] * 1_000})


@pytest.mark.parametrize("value", ["", "yesterday", 7, None, "9" * 500, "2026-13-01", "\x00", [1]])
def test_headers_that_make_no_sense_keep_nothing_from_being_read(value: Any) -> None:
    for name in FAILED:
        found = domain.failure({**FAILED, name: value}, NOW)
        assert found.reason
        assert "\x00" not in found.reason
        assert found.attempts > 0


def test_a_time_without_a_zone_is_utc() -> None:
    found = domain.failure({**FAILED, "failure_last_at": "2026-01-01T00:14:00"}, NOW)
    assert found.last_at == domain.failure(FAILED, NOW).last_at


def test_a_letter_is_named_by_what_nobody_can_forge() -> None:
    first_hand = died(exchange="commands", **{"routing-keys": ["order.place.v1"]})
    assert domain.key_of(first_hand, "order.cancel.v1") == "order.place.v1"
    assert domain.key_of(died(exchange="", **{"routing-keys": ["orders"]}), "order.place.v1") == "order.place.v1"
    assert domain.key_of({**first_hand, **FAILED}, "order.cancel.v1") == "order.place.v1"
    assert domain.key_of(FAILED, "order.placed.v1") == "order.placed.v1"
    assert domain.key_of({}, None) == ""
    assert domain.is_first_hand(first_hand)
    assert domain.is_first_hand({**first_hand, **FAILED})
    assert not domain.is_first_hand(FAILED)
    assert not domain.is_first_hand(died(exchange=""))


def test_the_port_of_a_server_is_told_and_that_of_a_client_is_not() -> None:
    said = "no SMTP session with {}: [Errno 111] Connect call failed"
    for server in ("127.0.0.1:2580", "smtp.example.com:587", "localhost:25", "[::1]:5432", "a-b.svc:32767"):
        assert server in domain.pattern(said.format(server))
    assert domain.pattern("reset by 10.0.0.7:53412") == domain.pattern("reset by 10.0.0.9:41000")
    assert domain.pattern("write to ana@example.com:25") == domain.pattern("write to bo@example.org:26")
    assert domain.pattern("at 12:34 line 3:14") == domain.pattern("at 09:00 line 7:2")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("order 0190b5e4-7c1a-7d2e-9b4f-3a5c6d7e8f90 is gone", "order 01985b3e-7c1a-7d2e-9b4f-3a5c6d7e8f91 is gone"),
        ("3 pieces at 69.90", "12 pieces at 1,234.50"),
        ("no answer since 2026-01-01T00:00:00Z", "no answer since 2026-11-22 21:08:18.916+00:00"),
        (
            "cannot write to ana@example.com",
            "cannot write to <bia.souza@loja.com.br>".replace("<", "").replace(">", ""),
        ),
        ("object at 0x7f0350186c90", "object at 0x7f03501a5b50"),
        ("digest 9f86d081884c7d659a2feaa0", "digest 60303ae22b998861bce3b28f"),
    ],
)
def test_letters_whose_reasons_differ_in_numbers_ids_times_or_addresses_belong_together(one: str, other: str) -> None:
    assert domain.pattern(one) == domain.pattern(other)
    assert domain.group_of("stock", "m", one) == domain.group_of("stock", "m", other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("unknown message 'order.placed.v1'", "unknown message 'order.placed.v2'"),
        ("TimeoutError: no answer", "ConnectionError: no answer"),
    ],
)
def test_other_reasons_are_other_groups(one: str, other: str) -> None:
    assert domain.group_of("stock", "m", one) != domain.group_of("stock", "m", other)


def test_groups_are_of_one_lane_and_one_message() -> None:
    assert (
        len(
            {domain.group_of("stock", "m", "r"), domain.group_of("email", "m", "r"), domain.group_of("stock", "n", "r")}
        )
        == 3
    )


def test_an_order_is_found_in_a_body_that_names_one() -> None:
    id_ = "01985b3e-7c1a-7d2e-9b4f-3a5c6d7e8f90"
    assert str(domain.order_of({"order_id": id_})) == id_
    for body in (None, [], 7, {"order_id": 7}, {"order_id": "x"}, {"order_id": None}):
        assert domain.order_of(body) is None


def at(
    sent: int, done: int = 0, failed: int = 0, *, exhausted: bool = False, rate: float = 10, ago: int = 10_000
) -> Standing:
    return Standing(sent, done, failed, exhausted, rate, NOW - ago)


def test_a_replay_sends_one_and_waits_for_how_it_ends() -> None:
    assert domain.next_step(at(0), NOW) == 1
    assert domain.next_step(at(1), NOW) == "wait"


def test_a_first_one_that_fails_ends_the_replay() -> None:
    assert domain.next_step(at(1, failed=1), NOW) == "fail"


def test_the_rest_goes_at_the_rate_and_what_was_held_up_is_not_made_up_for() -> None:
    assert domain.next_step(at(1, 1, ago=500), NOW) == 5
    assert domain.next_step(at(1, 1, ago=50), NOW) == "wait"
    assert domain.next_step(at(1, 1, ago=3_600_000), NOW) == 10
    assert domain.next_step(at(1, 1, rate=0.5, ago=3_600_000), NOW) == 1
    assert domain.next_step(at(1, 1, rate=0.5, ago=1_000), NOW) == "wait"


def test_what_is_sent_uses_up_the_rate() -> None:
    standing = at(1, 1, ago=500)
    later = at(6, 1, ago=NOW - domain.pace(standing, 5, NOW))
    assert domain.next_step(later, NOW) == "wait"
    assert domain.next_step(later, NOW + 1_000) == 10


def test_a_step_and_what_is_on_its_way_have_a_bound() -> None:
    assert domain.next_step(at(1, 1, rate=1_000), NOW) == AT_ONCE
    assert domain.next_step(at(1 + IN_FLIGHT, 1, rate=1_000), NOW) == "wait"
    assert domain.next_step(at(IN_FLIGHT, 1, rate=1_000), NOW) == 1


def test_a_replay_ends_once_it_is_known_of_all_how_they_ended() -> None:
    assert domain.next_step(at(3, 1, 1, exhausted=True), NOW) == "wait"
    assert domain.next_step(at(3, 2, 1, exhausted=True), NOW) == "finish"
    assert domain.next_step(at(0, exhausted=True), NOW) == "finish"


@pytest.mark.parametrize(
    "given",
    [{}, {"filter": {}}, {"ids": []}, {"all": False}, {"all": True, "filter": {"lane": "stock"}}, {"filter": None}],
)
def test_letters_are_selected_in_exactly_one_way(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"select|say|at least"):
        Selection.model_validate(given)


def test_a_filter_that_says_something_selects() -> None:
    assert Selection(filter=LetterFilter(lane="stock")).filter
    assert Selection(all=True).all


NOON = 1_700_000_000_000
MINUTE = 60_000


@pytest.mark.parametrize(
    ("since", "told_at", "is_due"),
    [
        (NOON - 1_000, None, False),  # what fails together is told together
        (NOON - MINUTE, None, True),
        (NOON - MINUTE, NOON - 4 * MINUTE, False),
        (NOON - MINUTE, NOON - 6 * MINUTE, True),
        (NOON - MINUTE, NOON + 3 * 24 * 60 * MINUTE, True),  # told by a clock that ran ahead
        (NOON + 24 * 60 * MINUTE, None, True),
    ],
)
def test_operators_are_told_at_most_every_five_minutes(since: int, told_at: int | None, is_due: bool) -> None:
    assert domain.is_due(since, told_at, NOON) is is_due
