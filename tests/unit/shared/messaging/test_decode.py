"""What is said of messages that cannot be read."""

import ast
import inspect

from shared.messaging import decode


def test_each_reason_for_which_a_message_cannot_be_read_is_known_as_one() -> None:
    for node in ast.walk(ast.parse(inspect.getsource(decode.decode))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Poison":
            said = eval(compile(ast.Expression(node.args[0]), "decode", "eval"), dict.fromkeys(_NAMES, "x") | _KNOWN)
            assert decode.is_about_reading(said), said
    assert decode.is_about_reading("not a valid order.placed.v1: lines: Field required")
    assert decode.is_about_reading("reading it failed"), "as `shared.messaging.lane` says of all else"
    for other in ("OperationalError: database is locked", "there is no mail 7", "gave up"):
        assert not decode.is_about_reading(other)


_NAMES = ("problem", "key", "lane", "error")
_KNOWN = {"size": 2_000_000, "MESSAGE_LIMIT": 1, "came": "exchange 'x' under the key 'x'", "what": "not JSON",
          "reason_of": str}  # fmt: skip
