"""What HTTP takes in, before anything is done with it."""

import pytest
from pydantic import ValidationError

from contracts.http import EditWish


def test_a_body_that_no_message_can_carry_is_refused_where_it_comes_in() -> None:
    with pytest.raises(ValidationError, match="half of a surrogate pair"):
        EditWish.model_validate({"body": {"deep": ["\ud800"]}})
    assert EditWish.model_validate({"body": {"deep": ["😀"]}}).body == {"deep": ["😀"]}
