"""What requests carry beside their body."""

import pytest

from shared.http.problems import Problem
from shared.http.protocol import idempotency_key


def test_a_key_is_the_same_with_and_without_quotes() -> None:
    assert idempotency_key('"abc"') == idempotency_key("abc") == "abc"
    assert idempotency_key(None) is None
    assert idempotency_key("x" * 255) == idempotency_key('"' + "x" * 255 + '"')


@pytest.mark.parametrize("given", ["", '""', "x" * 256, '"' + "x" * 256 + '"'])
def test_a_key_that_is_empty_or_too_long_is_refused(given: str) -> None:
    with pytest.raises(Problem) as refused:
        idempotency_key(given)
    assert refused.value.status == 422
