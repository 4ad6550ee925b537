"""What may be changed in a published schema, for whom it would break, and that no breaking change is overlooked."""

import copy
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.compatibility import breaks

Schema = dict[str, Any]

ORDER: Schema = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$defs": {
        "Line": {
            "title": "Line",
            "type": "object",
            "properties": {
                "sku": {"type": "string", "pattern": "^[A-Z]+$"},
                "quantity": {"type": "integer", "minimum": 1, "maximum": 10},
            },
            "required": ["sku", "quantity"],
        }
    },
    "title": "Order",
    "type": "object",
    "properties": {
        "id": {"type": "string", "format": "uuid"},
        "lines": {"type": "array", "items": {"$ref": "#/$defs/Line"}, "minItems": 1},
        "locale": {"enum": ["pt-BR", "en"], "default": "pt-BR"},
        "note": {"anyOf": [{"type": "string", "maxLength": 100}, {"type": "null"}], "default": None},
        "kind": {"const": "retail", "type": "string"},
        "more": {"type": "object", "additionalProperties": {"type": "string"}},
        "options": {"type": "object", "properties": {"bom": {"default": False}}, "default": {"bom": False}},
    },
    "required": ["id", "lines", "kind"],
}
Edit = Callable[[Any], Any]
LINE = ("$defs", "Line", "properties")


def at(*path: Any) -> Callable[[Edit], Edit]:
    """An edit of what lies at a path."""

    def within(edit: Edit) -> Edit:
        def done(schema: Schema) -> None:
            found: Any = schema
            for step in path:
                found = found[step]
            edit(found)

        return done

    return within


def put(*path: Any, **values: Any) -> Edit:
    return at(*path)(lambda found: found.update(values))


def drop(*path: Any) -> Edit:
    return at(*path[:-1])(lambda found: found.pop(path[-1]))


def add(*path: Any, value: Any) -> Edit:
    return at(*path)(lambda found: found.append(value))


def changed(*edits: Edit) -> Schema:
    new = copy.deepcopy(ORDER)
    for edit in edits:
        edit(new)
    return new


HARMLESS = {
    "another title": put("properties", "id", title="Identity"),
    "another description": put(*LINE, "sku", description="What it is."),
    "an example": put(*LINE, "sku", examples=["A"]),
    "a further field that may be left out": put("properties", source={"type": "string", "default": "shop"}),
    "a further field in a default": lambda s: (
        s["properties"]["options"]["properties"].update(delimiter={"default": ","}),
        s["properties"]["options"]["default"].update(delimiter=","),
    ),
    "another name of a part": lambda s: (
        s["$defs"].update(OrderLine=s["$defs"].pop("Line")),
        s["properties"]["lines"]["items"].update({"$ref": "#/$defs/OrderLine"}),
    ),
    "the order of alternatives": lambda s: s["properties"]["note"]["anyOf"].reverse(),
}

# edit, field, what is said; and whether a command may be changed so
CASES: dict[str, tuple[Edit, str, str, bool]] = {
    "a field removed": (drop("properties", "note"), "note", "removed", False),
    "a field removed deep inside": (drop(*LINE, "sku"), "lines[].sku", "removed", False),
    "a new field required": (
        lambda s: (s["properties"].update(vat={"type": "string"}), s["required"].append("vat")),
        "vat", "give it a default", False,
    ),
    "a field now required": (add("required", value="locale"), "locale", "is required", False),
    "a field now optional": (lambda s: s["required"].remove("kind"), "kind", "may be missing", True),
    "another type": (put(*LINE, "quantity", type="string"), "lines[].quantity", "'integer' and is 'string'", False),
    "a narrower type": (put("properties", "more", "additionalProperties", type="null"), "more.*", "'null'", False),
    "a wider type": (put(*LINE, "quantity", type="number"), "lines[].quantity", "'number'", True),
    "a lower maximum": (put(*LINE, "quantity", maximum=9), "lines[].quantity", "`maximum` was 10 and is 9", False),
    "a higher maximum": (put(*LINE, "quantity", maximum=11), "lines[].quantity", "`maximum` was 10 and is 11", True),
    "no maximum": (drop(*LINE, "quantity", "maximum"), "lines[].quantity", "10 and is nothing", True),
    "a lower minimum": (put(*LINE, "quantity", minimum=0), "lines[].quantity", "`minimum`", True),
    "a shorter text": (lambda s: s["properties"]["note"]["anyOf"][0].update(maxLength=99), "note", "99", False),
    "a new limit": (put("properties", "lines", maxItems=200), "lines", "`maxItems`", False),
    "another pattern": (put(*LINE, "sku", pattern="^[A-Z]*$"), "lines[].sku", "`pattern`", False),
    "no pattern": (drop(*LINE, "sku", "pattern"), "lines[].sku", "`pattern`", True),
    "another format": (put("properties", "id", format="email"), "id", "`format`", False),
    "a value less": (put("properties", "locale", enum=["pt-BR"]), "locale", "no longer be 'en'", False),
    "a value more": (add("properties", "locale", "enum", value="es"), "locale", "also be 'es'", True),
    "a fixed value made free": (lambda s: s["properties"].update(kind={"type": "string"}), "kind", "any value", True),
    "another fixed value": (put("properties", "kind", const="trade"), "kind", "no longer be 'retail'", False),
    "null no more": (lambda s: s["properties"]["note"]["anyOf"].pop(), "note", "no longer be null", False),
    "null too": (
        lambda s: s["properties"].update(id={"anyOf": [s["properties"]["id"], {"type": "null"}]}),
        "id", "also be null", True,
    ),
    "another default": (put("properties", "locale", default="en"), "locale", "'pt-BR' and would mean 'en'", False),
    "no default": (drop("properties", "note", "default"), "note", "left out", False),
    "another default inside": (
        put("properties", "options", "default", bom=True), "options", "would mean {'bom': True}", False,
    ),
    "a field required that it does not describe": (add("required", value="extra"), "extra", "is required", False),
    "closed": (put(additionalProperties=False), "*", "`additionalProperties`", False),
    "other items": (put("properties", "lines", items={"type": "string"}), "lines[]", "'object' and is 'string'", False),
    "a field where others were of one type": (
        put("properties", "more", properties={"gift": {"type": "integer"}}), "more.gift", "'string' and is 'int", False,
    ),
    "a rule that is not understood": (put(*LINE, "sku", contentEncoding="base64"), "lines[].sku", "has changed", False),
}  # fmt: skip


@pytest.mark.parametrize("edit", HARMLESS.values(), ids=HARMLESS)
def test_harmless_changes_pass(edit: Edit) -> None:
    for is_event in (True, False):
        assert breaks(ORDER, changed(edit), is_event=is_event) == []


@pytest.mark.parametrize(("edit", "field", "what", "may_command"), CASES.values(), ids=CASES)
def test_a_change_that_breaks_somebody_is_named_with_its_field(
    edit: Edit, field: str, what: str, may_command: bool
) -> None:
    new = changed(edit)
    said = breaks(ORDER, new, is_event=True)
    assert any(line.startswith(f"{field}: ") and what in line for line in said), said
    assert bool(breaks(ORDER, new, is_event=False)) != may_command


@pytest.mark.parametrize("rule", ["prefixItems", "allOf"])
def test_what_a_rule_that_is_not_understood_refers_to_may_not_change_either(rule: str) -> None:
    old = changed(
        put("properties", "lines", **{rule: [{"$ref": "#/$defs/Line"}]}), drop("properties", "lines", "items")
    )
    new = copy.deepcopy(old)
    assert breaks(old, new, is_event=True) == []
    new["$defs"]["Line"]["properties"]["sku"]["type"] = "integer"
    for is_event in (True, False):
        assert breaks(old, new, is_event=is_event) == [f"lines: `{rule}` has changed"]
    itself = {"$defs": {"T": {"type": "array", rule: [{"$ref": "#/$defs/T"}]}}, "$ref": "#/$defs/T"}
    assert breaks(itself, copy.deepcopy(itself), is_event=True) == []


def test_a_new_field_breaks_readers_who_refuse_what_is_not_named_and_no_writer() -> None:
    old: Schema = {"type": "object", "additionalProperties": False}
    new = old | {"properties": {"gift": {"type": "integer"}}}
    assert breaks(old, new, is_event=False) == []
    [said] = breaks(old, new, is_event=True)
    assert said.startswith("gift: a new field, and")


def test_a_schema_that_contains_itself_comes_to_an_end() -> None:
    tree = {"$defs": {"T": {"type": "object", "properties": {"left": {"$ref": "#/$defs/T"}}}}, "$ref": "#/$defs/T"}
    other = copy.deepcopy(tree)
    assert breaks(tree, other, is_event=True) == []
    other["$defs"]["T"]["properties"]["left"] = {"type": "string"}  # type: ignore[index]
    assert breaks(tree, other, is_event=True)


# -- whatever passes does no harm -------------------------------------------------------------------------------------

SMALL = st.integers(0, 4)
NUMBERS = st.builds(lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more}, SMALL, SMALL)
TEXTS = st.builds(lambda longest: {"type": "string", "maxLength": longest}, SMALL)
CHOICES = st.builds(lambda values: {"enum": sorted(values)}, st.sets(st.sampled_from("abc"), min_size=1))
LEAVES = st.one_of(NUMBERS, TEXTS, CHOICES, st.just({"type": "number"}), st.just({"type": "boolean"}))
PARTS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(lambda items, least: {"type": "array", "items": items, "minItems": least}, inner, st.integers(0, 1)),
        st.builds(lambda one, other: {"anyOf": [one, other]}, inner, st.one_of(inner, st.just({"type": "null"}))),
        st.builds(
            lambda fields, needed: {"type": "object", "properties": fields, "required": sorted(needed & fields.keys())},
            st.dictionaries(st.sampled_from("xyz"), inner, min_size=1),
            st.sets(st.sampled_from("xyz")),
        ),
    ),
    max_leaves=4,
)
# Small changes, which are the ones that are easily overlooked.
TWEAKS: dict[str, st.SearchStrategy[Schema]] = {
    "integer": st.one_of(NUMBERS, LEAVES),
    "string": st.one_of(TEXTS, LEAVES),
    "enum": st.one_of(CHOICES, LEAVES),
    "object": st.builds(
        lambda needed, more: {"type": "object", "required": sorted(needed), **more},
        st.sets(st.sampled_from("xyz")),
        st.one_of(st.just({}), st.builds(lambda x: {"properties": {"x": x}}, LEAVES)),
    ),
}


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Schema, Schema]:
    """A schema and one that differs from it a little, or not at all."""
    old = draw(PARTS)
    new = copy.deepcopy(old)
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.sampled_from([*_places(new)]))
        same = {name: value for name, value in place.items() if name == "properties"}
        fresh = draw(TWEAKS.get(place.get("type", "enum" if "enum" in place else ""), PARTS))
        place.clear()
        place.update(same | copy.deepcopy(fresh) if fresh.get("type") == "object" else copy.deepcopy(fresh))
    return old, new


def _places(part: Schema) -> list[Schema]:
    inner = [*part.get("properties", {}).values(), *part.get("anyOf", ()), *filter(None, [part.get("items")])]
    return [part, *(place for one in inner for place in _places(one))]


def _bodies(part: Schema) -> st.SearchStrategy[Any]:
    """Bodies that fit a schema, more or less; no fields but those that it names, because nobody sends others."""
    if "anyOf" in part:
        return st.one_of(*map(_bodies, part["anyOf"]))
    if "enum" in part:
        return st.sampled_from(part["enum"])
    made: dict[str, Callable[[], st.SearchStrategy[Any]]] = {
        "integer": lambda: st.sampled_from([part["minimum"], part["maximum"]]),
        "number": lambda: st.sampled_from([0.5, 2]),
        "string": lambda: st.sampled_from(["", "a", "aaaa"]),
        "boolean": st.booleans,
        "null": st.none,
        "array": lambda: st.lists(_bodies(part["items"]), max_size=2),
        "object": lambda: st.fixed_dictionaries(
            {}, optional={name: _bodies(inner) for name, inner in part["properties"].items()}
        ),
    }
    return made[part["type"]]()


@given(st.data())
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_what_passes_lets_old_messages_be_read_and_new_ones_by_old_readers(data: st.DataObject) -> None:
    old, new = data.draw(pairs())
    if not breaks(old, new, is_event=False):
        _demand_readable(data.draw(st.lists(_bodies(old), max_size=5)), old, new)
    if not breaks(old, new, is_event=True):
        _demand_readable(data.draw(st.lists(_bodies(new), max_size=5)), new, old)


def _demand_readable(bodies: list[Any], written_by: Schema, read_by: Schema) -> None:
    for body in filter(jsonschema.Draft202012Validator(written_by).is_valid, bodies):
        jsonschema.validate(body, read_by)
