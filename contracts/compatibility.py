"""The incompatibilities of a changed schema, field by field, for its present readers and writers.

An event is written here and read by anybody: its schema may not allow more, because readers rely on it, nor less,
because old messages are still on their way. A command is written by anybody and read here: its schema may allow more,
once its consumer runs, and never less. Texts and examples may change; an optional field may be added.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

Schema = dict[str, Any]

_TEXTS = {"$comment", "$defs", "$id", "$schema", "deprecated", "description", "examples", "title"}
_LOWEST = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_HIGHEST = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_DEMANDS = ("pattern", "format", "multipleOf", "uniqueItems")
_PARTS = {"type", "enum", "const", "properties", "required", "additionalProperties", "items", "default"}
_UNIONS = ("anyOf", "oneOf")
_KNOWN = {*_TEXTS, *_LOWEST, *_HIGHEST, *_DEMANDS, *_PARTS, *_UNIONS}


class Change(NamedTuple):
    """A difference between two schemas. It `narrows` if an old message may violate the new schema, and `widens` if a
    new message may violate the old one."""

    field: str
    what: str
    narrows: bool
    widens: bool


def breaks(old: Schema, new: Schema, *, is_event: bool) -> list[str]:
    """The incompatibilities of `new`, a sentence for each field; empty if `new` can replace `old`."""
    found = _Comparison(old, new).of(old, new, "")
    return [f"{change.field or 'the message'}: {change.what}" for change in found if change.narrows or is_event]


class _Comparison:
    def __init__(self, old: Schema, new: Schema) -> None:
        self._old, self._new = old, new
        self._open: list[tuple[Schema, Schema]] = []

    def of(self, old: Any, new: Any, at: str) -> list[Change]:
        """All changes from one schema, or part of a schema, to another."""
        before, after = _resolved(old, self._old), _resolved(new, self._new)
        if (before, after) in self._open:  # a schema that contains itself
            return []
        self._open.append((before, after))
        try:
            return [*self._changes(before, after, at)]
        finally:
            self._open.pop()

    def _changes(self, old: Schema, new: Schema, at: str) -> Iterator[Change]:
        if any(name in schema for name in _UNIONS for schema in (old, new)):
            yield from self._unions(_branches(old), _branches(new), at)
            old, new = _beside(old), _beside(new)
        yield from _types(old, new, at)
        yield from _values(old, new, at)
        yield from _limits(old, new, at)
        for name in _DEMANDS:
            if old.get(name) != new.get(name):
                yield _both_unless_one_is_missing(name, old.get(name), new.get(name), at)
        yield from self._fields(old, new, at)
        for name in ("items", "additionalProperties"):
            yield from self._inside(name, old.get(name, True), new.get(name, True), at)
        for name in sorted((old.keys() | new.keys()) - _KNOWN):
            if _whole(old.get(name), self._old) != _whole(new.get(name), self._new):
                yield Change(at, f"`{name}` has changed", True, True)

    def _fields(self, old: Schema, new: Schema, at: str) -> Iterator[Change]:
        before, after = old.get("properties", {}), new.get("properties", {})
        needed, needs = set(old.get("required", ())), set(new.get("required", ()))
        others = old.get("additionalProperties", True)
        for name in [*before, *(name for name in after if name not in before)]:
            field = f"{at}.{name}".lstrip(".")
            if name not in after:
                yield Change(field, "the field was removed", True, True)
            elif name not in before:
                if name in needs:
                    yield Change(field, "a new field is required: give it a default", True, False)
                if others is False:
                    yield Change(field, "a new field, and fields that are not named were refused", False, True)
                elif others is not True:  # the old schema was one of the alternatives
                    yield from self.of(others, after[name], field)
            else:
                yield from _presence(name in needed, name in needs, field)
                if name not in needed | needs:
                    yield from _defaults(before[name], after[name], field)
                yield from self.of(before[name], after[name], field)
        for name in sorted((needed | needs) - before.keys() - after.keys()):
            yield from _presence(name in needed, name in needs, f"{at}.{name}".lstrip("."))

    def _inside(self, name: str, old: Any, new: Any, at: str) -> Iterator[Change]:
        field = f"{at}[]" if name == "items" else f"{at}.*".lstrip(".")
        if isinstance(old, dict) and isinstance(new, dict):
            yield from self.of(old, new, field)
        elif old != new:
            narrows, widens = old is True or new is False, new is True or old is False
            yield Change(field, f"`{name}` was {_shown(old)} and is {_shown(new)}", narrows, widens)

    def _unions(self, old: list[Any], new: list[Any], at: str) -> Iterator[Change]:
        """Pair the alternatives: equal ones first, then those of one name, then those of one type."""
        gone, came = list(old), list(new)
        for alike in (self._equal, self._same_title, self._same_type):
            for before in list(gone):
                after = next((one for one in came if alike(before, one)), None)
                if after is not None:
                    gone.remove(before)
                    came.remove(after)
                    yield from self.of(before, after, at)
        for before in gone:
            yield Change(at, f"can no longer be {self._kind(before, self._old)}", True, False)
        for after in came:
            yield Change(at, f"can now also be {self._kind(after, self._new)}", False, True)

    def _equal(self, old: Any, new: Any) -> bool:
        return not self.of(old, new, "")

    def _same_title(self, old: Any, new: Any) -> bool:
        title = _resolved(old, self._old).get("title")
        return title is not None and title == _resolved(new, self._new).get("title")

    def _same_type(self, old: Any, new: Any) -> bool:
        return bool(_resolved(old, self._old).get("type") == _resolved(new, self._new).get("type"))

    def _kind(self, schema: Any, root: Schema) -> str:
        found = _resolved(schema, root)
        return str(found.get("title") or found.get("type") or found)


def _resolved(schema: Any, root: Schema) -> Schema:
    """A schema with its `$ref` resolved, and with the keywords beside the `$ref`."""
    found = {} if schema is True else {"not": {}} if schema is False else dict(schema)
    while ref := found.pop("$ref", None):
        target: Any = root
        for part in ref.removeprefix("#/").split("/"):
            target = target[part]
        found = {**target, **found}
    return found


def _whole(value: Any, root: Schema, inside: tuple[str, ...] = ()) -> Any:
    """The value of an unknown keyword, with all its references resolved, for comparison as it is."""
    if isinstance(value, list):
        return [_whole(one, root, inside) for one in value]
    if not isinstance(value, dict):
        return value
    ref = value.get("$ref")
    if isinstance(ref, str) and ref not in inside:
        value, inside = _resolved(value, root), (*inside, ref)
    return {name: _whole(one, root, inside) for name, one in value.items()}


def _branches(schema: Schema) -> list[Any]:
    return next((list(schema[name]) for name in _UNIONS if name in schema), [schema])


def _beside(schema: Schema) -> Schema:
    """The keywords beside a union; empty if the schema itself is the one branch."""
    rest = {name: value for name, value in schema.items() if name not in _UNIONS}
    return rest if rest != schema else {}


def _types(old: Schema, new: Schema, at: str) -> Iterator[Change]:
    before, after = _type_names(old), _type_names(new)
    narrows, widens = not before <= after, not after <= before
    if narrows or widens:
        yield Change(at, f"was {_shown(old.get('type'))} and is {_shown(new.get('type'))}", narrows, widens)


def _type_names(schema: Schema) -> set[str]:
    given = schema.get("type")
    if given is None:
        return {"array", "boolean", "integer", "null", "number", "object", "string"}
    names = {given} if isinstance(given, str) else set(given)
    return names | ({"integer"} if "number" in names else set())


def _values(old: Schema, new: Schema, at: str) -> Iterator[Change]:
    before, after = _value_list(old), _value_list(new)
    if before is None or after is None:
        if before != after:
            was, is_ = (f"one of {values}" if values else "any value" for values in (before, after))
            yield Change(at, f"was {was} and is {is_}", before is None, after is None)
        return
    for value in before:
        if value not in after:
            yield Change(at, f"can no longer be {value!r}", True, False)
    for value in after:
        if value not in before:
            yield Change(at, f"can now also be {value!r}", False, True)


def _value_list(schema: Schema) -> list[Any] | None:
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _limits(old: Schema, new: Schema, at: str) -> Iterator[Change]:
    for names, sign in ((_LOWEST, 1), (_HIGHEST, -1)):
        for name in names:
            before, after = old.get(name), new.get(name)
            if before != after:
                narrows = before is None or (after is not None and sign * after > sign * before)
                yield Change(at, f"`{name}` was {_shown(before)} and is {_shown(after)}", narrows, not narrows)


def _both_unless_one_is_missing(name: str, old: Any, new: Any, at: str) -> Change:
    return Change(at, f"`{name}` was {_shown(old)} and is {_shown(new)}", new is not None, old is not None)


def _presence(was_needed: bool, is_needed: bool, at: str) -> Iterator[Change]:
    if is_needed and not was_needed:
        yield Change(at, "was optional and is required", True, False)
    if was_needed and not is_needed:
        yield Change(at, "was always there and may be missing", False, True)


def _defaults(old: Schema, new: Schema, at: str) -> Iterator[Change]:
    """The default of a missing field. A default that is an object may get further fields, as its schema may."""
    before, after = old.get("default"), new.get("default")
    if isinstance(before, dict) and isinstance(after, dict):
        after = {name: value for name, value in after.items() if name in before}
    if before != after or ("default" in old) != ("default" in new):
        yield Change(at, f"left out, it meant {_shown(before)} and would mean {_shown(new.get('default'))}", True, True)


def _shown(value: Any) -> str:
    return "nothing" if value is None else "anything" if value is True else repr(value)
