"""Traces that come from outside."""

import pytest

from shared.observability.tracing import follow


def test_a_trace_that_is_not_recorded_here_passes_through_as_it_came() -> None:
    given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
    assert follow(given) == given


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "nonsense",
        "00-" + "A" * 32 + "-" + "b" * 16 + "-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\n",
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01",
    ],
)
def test_a_trace_that_is_none_starts_anew(given: str | None) -> None:
    first, second = follow(given), follow(given)
    assert first != second
    assert follow(first)[:36] == first[:36]
