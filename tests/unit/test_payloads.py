"""What people read where a payload doesn't fit its point, and where an event class is at odds with a schema."""

from __future__ import annotations

import contextlib
import dataclasses
import decimal
import enum
import json
import socket
import subprocess
import sys
import types
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import attrs
import msgspec
import pydantic
import pytest
from django.utils.functional import SimpleLazyObject, lazystr
from hypothesis import given
from hypothesis import strategies as st
from jsonschema.validators import validator_for

from router.config.payload_schemas import PayloadSchemas
from router.errors import InvalidPayload
from router.routing.encoding import encode_event
from router.routing.events import build_event
from router.routing.misfits import misfits
from router.routing.mistakes import dotted
from router.routing.payloads import check_schema
from router.testing import TestRouter

DRAFT_4 = "http://json-schema.org/draft-04/schema#"
DRAFT_7 = "http://json-schema.org/draft-07/schema#"


def refusal(schema: Any, payload: object) -> str:
    with pytest.raises(InvalidPayload) as caught:
        check_schema(validator_for(schema)(schema), msgspec.json.encode(payload), "order.placed")
    return str(caught.value)


def mistakes(schema: Any, payload: object) -> list[str]:
    head = "order.placed: the payload does not fit its schema:"
    text = refusal(schema, payload)
    assert text.startswith(head)
    return text.removeprefix(head).strip().split("\n  ")


def at_x(schema: object, value: object, draft: str | None = None) -> str:
    whole = {"properties": {"x": schema}} | ({"$schema": draft} if draft else {})
    (only,) = mistakes(whole, {"x": value})
    return only


ORDER = {
    "type": "object",
    "properties": {
        "order_id": {"type": "integer"},
        "customer": {"type": "string"},
        "currency": {"enum": ["EUR", "USD"]},
        "items": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"sku": {"type": "string"}, "quantity": {"type": "integer", "minimum": 1}},
                "required": ["sku"],
            },
        },
    },
    "required": ["order_id", "currency"],
    "additionalProperties": False,
}


def test_every_mistake_is_listed_in_the_order_of_the_payload_with_its_path() -> None:
    payload = {"order_id": "seven", "items": [{"sku": "a", "quantity": 0}, {"sku": None}], "custmer": 7}
    assert refusal(ORDER, payload) == (
        "order.placed: the payload does not fit its schema:\n"
        '  `order_id` must be an integer, not text ("seven")\n'
        "  `items[0].quantity` must be at least 1, not 0\n"
        "  `items[1].sku` must be text, not null\n"
        "  unknown key `custmer`; did you mean `customer`?\n"
        "  `currency` is missing"
    )


def test_a_single_mistake_stands_in_one_line() -> None:
    assert refusal(ORDER, {"order_id": 7, "currency": "eur"}) == (
        'order.placed: the payload does not fit its schema: `currency` must be "EUR" or "USD", not "eur"; '
        'did you mean "EUR"?'
    )


def test_of_many_mistakes_the_first_are_listed_and_the_others_counted() -> None:
    wrong = mistakes({"properties": {"tags": {"items": {"type": "string"}}}}, {"tags": [1] * 25})
    assert wrong[:10] == [f"`tags[{number}]` must be text, not a number (1)" for number in range(10)]
    assert wrong[10:] == ["and 15 more"]
    endless = mistakes({"properties": {"tags": {"items": {"type": "string"}}}}, {"tags": [1] * 50_000})
    assert endless[10:] == ["and at least 990 more"]


@pytest.mark.parametrize(
    ("schema", "value", "words"),
    [
        ({"type": ["integer", "null"]}, [1], "`x` must be an integer or null, not a list"),
        ({"type": "string"}, True, "`x` must be text, not true"),
        ({"type": "integer", "enum": [1, 2]}, "1", '`x` must be an integer, not text ("1")'),
        ({"type": "object"}, [], "`x` must be a mapping, not an empty list"),
        ({"const": 3}, 4, "`x` must be 3, not 4"),
        ({"const": {"a": 1}}, {"a": 2}, '`x` must be `{"a":1}`, not a mapping'),
        ({"enum": list(range(20))}, 99, "`x` must be 0, 1, 2, 3, 4, 5, 6 or one of 13 others, not 99"),
        ({"exclusiveMinimum": 0}, 0, "`x` must be more than 0, not 0"),
        ({"maximum": 5}, 7.5, "`x` must be at most 5, not 7.5"),
        ({"exclusiveMaximum": 5}, 5, "`x` must be less than 5, not 5"),
        ({"multipleOf": 5}, 7, "`x` must be a multiple of 5, not 7"),
        ({"minLength": 1}, "", "`x` must not be empty"),
        ({"minLength": 3}, "ab", '`x` must have at least 3 characters, not 2 ("ab")'),
        ({"maxLength": 1}, "ab", '`x` must have at most 1 character, not 2 ("ab")'),
        ({"pattern": "^[A-Z]{3}$"}, "eur", '`x` must match the pattern `^[A-Z]{3}$`, not "eur"'),
        ({"minItems": 2}, [1], "`x` must have at least 2 items, not 1"),
        ({"maxItems": 1}, [1, 2], "`x` must have at most 1 item, not 2"),
        ({"uniqueItems": True}, [1, {"a": 1}, {"a": 1}], "`x[2]` repeats `x[1]`"),
        ({"uniqueItems": True}, [1, 1.0], "`x` must not have the same item twice"),
        ({"contains": {"type": "string"}}, [1], "`x` must have an item that is text"),
        ({"contains": {"minimum": 5}}, [1], "`x` must have an item that fits the schema under `contains`"),
        (
            {"contains": {"minimum": 5}, "minContains": 2},
            [7],
            "`x` must have at least 2 items fitting the schema under `contains`",
        ),
        (
            {"contains": {"minimum": 5}, "maxContains": 1},
            [7, 8],
            "`x` must have at most 1 item fitting the schema under `contains`",
        ),
        ({"prefixItems": [{}], "items": False}, [1, 2, 3], "`x` must have at most 1 item, not 3"),
        ({"unevaluatedItems": False}, [1], "`x` has items that its schema doesn't provide for"),
        ({"minProperties": 1}, {}, "`x` must not be empty"),
        ({"maxProperties": 1}, {"a": 1, "b": 1}, "`x` must have at most 1 key, not 2"),
        (
            {"propertyNames": {"pattern": "^a"}},
            {"B": 1},
            'the key `x.B` must match the pattern `^a`, not "B"',
        ),
        ({"dependentRequired": {"card": ["zip"]}}, {"card": 1}, "`x.zip` is missing; it goes with `x.card`"),
        ({"additionalProperties": False}, {"a": 1}, "unknown key `x.a`"),
        (
            {"patternProperties": {"^x-": {}}, "additionalProperties": False},
            {"y": 1},
            "unknown key `x.y`; keys match `^x-`",
        ),
        ({"properties": {"a": {}}, "unevaluatedProperties": False}, {"b": 1}, "unknown key `x.b`; known here: `a`"),
        ({"properties": {"a": False}}, {"a": "text"}, "`x.a` is not allowed"),
        ({"not": {"type": "string"}}, "a", '`x` must not be text, but is "a"'),
        ({"not": {"const": 3}}, 3, "`x` must not be 3"),
        ({"not": {"required": ["a", "b"]}}, {"a": 1, "b": 1}, "`x` must not have `a` and `b` together"),
        ({"not": {"minimum": 3}}, 3, "`x` fits the schema under `not`, and must not fit it"),
        ({"if": {"required": ["a"]}, "then": {"required": ["b"]}}, {"a": 1}, "`x.b` is missing"),
    ],
)
def test_each_keyword_says_what_is_wanted_and_what_is_there(schema: object, value: object, words: str) -> None:
    assert at_x(schema, value) == words


@pytest.mark.parametrize(
    ("schema", "value", "words"),
    [
        ({"minimum": 0, "exclusiveMinimum": True}, 0, "`x` must be more than 0, not 0"),
        ({"maximum": 0, "exclusiveMaximum": False}, 1, "`x` must be at most 0, not 1"),
        ({"items": [{}], "additionalItems": False}, [1, 2], "`x` must have at most 1 item, not 2"),
        ({"dependencies": {"card": ["zip"]}}, {"card": 1}, "`x.zip` is missing; it goes with `x.card`"),
        ({"dependencies": {"card": {"required": ["zip"]}}}, {"card": 1}, "`x.zip` is missing"),
    ],
)
def test_keywords_as_draft_4_has_them(schema: object, value: object, words: str) -> None:
    assert at_x(schema, value, DRAFT_4) == words


def test_contains_of_draft_7_has_an_error_of_its_own() -> None:
    words = "`x` must have an item that fits the schema under `contains`"
    assert at_x({"contains": {"minimum": 5}}, [1], DRAFT_7) == words


@pytest.mark.parametrize(
    ("schema", "value", "words"),
    [
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "a", '`x` must be an integer or null, not text ("a")'),
        (
            {"anyOf": [{"type": "integer"}, {"type": "string", "enum": ["now", "later"]}]},
            "latr",
            '`x` must be an integer, "now" or "later", not text ("latr"); did you mean "later"?',
        ),
        ({"anyOf": [{"type": "null"}, {"type": "object", "required": ["a"]}]}, {}, "`x.a` is missing"),
        (
            {"anyOf": [{"required": ["mail"]}, {"required": ["phone"]}]},
            {},
            "`x.mail` is missing, or `x.phone` is missing",
        ),
        (
            {"oneOf": [{"type": "integer"}, {"type": "number"}]},
            3,
            "`x` fits several of the schemas under `oneOf`, and must fit exactly one",
        ),
    ],
)
def test_of_several_schemas_the_nearest_is_what_is_wanted(schema: object, value: object, words: str) -> None:
    assert at_x(schema, value) == words


@pytest.mark.parametrize("keyword", ["anyOf", "oneOf"])
def test_of_several_variants_the_one_that_a_key_names_is_meant(keyword: str) -> None:
    card = {"kind": {"const": "card"}, "number": {"type": "string"}}
    iban = {"kind": {"const": "iban"}, "iban": {"minLength": 15}, "bank": {"type": "null"}}
    schema = {keyword: [{"type": "object", "properties": properties} for properties in (card, iban)]}
    assert mistakes(schema, {"kind": "iban", "iban": "DE", "bank": 7}) == [
        '`iban` must have at least 15 characters, not 2 ("DE")',
        "`bank` must be null, not a number (7)",
    ]


def test_a_missing_key_is_found_under_a_wrong_name() -> None:
    assert mistakes({"required": ["customer"]}, {"Customer": 1}) == ["`customer` is missing; there is `Customer`"]


def test_what_two_schemas_say_alike_is_said_once() -> None:
    assert at_x({"allOf": [{"minimum": 3}, {"minimum": 3, "title": "again"}]}, 1) == "`x` must be at least 3, not 1"


def test_nothing_that_is_large_is_shown() -> None:
    secret = "secret" * 20
    payload = {"x": {"deep": [secret]}, "text": secret, "y" * 500: 1, "n": 10**90}
    schema = {
        "properties": {"x": {"type": "string"}, "text": {"type": "integer"}, "n": {"type": "string"}},
        "additionalProperties": False,
    }
    text = refusal(schema, payload)
    assert secret not in text
    assert "`x` must be text, not a mapping" in text
    assert all(len(line) < 200 for line in text.splitlines())


def test_no_control_character_reaches_a_terminal() -> None:
    text = refusal({"additionalProperties": {"type": "integer"}}, {"a\x1b[31m\u202e": "\x1b[0m\u202e"})
    assert text.isprintable()


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (("items", 0, "quantity"), "items[0].quantity"),
        (("a b", "", "x-1"), '["a b"][""].x-1'),
        ((0, "a"), "[0].a"),
        (("prices", ..., "net"), "prices[…].net"),
    ],
)
def test_paths_read_as_people_write_them(path: tuple[Any, ...], words: str) -> None:
    assert dotted(path) == words


def test_a_long_path_is_cut_in_the_middle() -> None:
    assert len(dotted(("key",) * 10_000)) < 200


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"$ref": "#"}, "refers to itself without end"),
        ({"$ref": "#/definitions/nope"}, 'the schema refers to "#/definitions/nope", which can\'t be found'),
        ({"additionalProperties": {"pattern": "["}}, "a pattern in the schema is no regular expression"),
        ({"additionalProperties": {"type": "strng"}}, "UnknownType"),
    ],
)
def test_a_schema_that_fails_when_used_is_told_as_such(schema: object, words: str) -> None:
    text = refusal(schema, {"x": "secret"})
    assert text.startswith("order.placed: the payload can't be checked by its schema: ")
    assert words in text
    assert "secret" not in text


@pytest.mark.parametrize("depth", [200, 400, 800])
def test_a_payload_that_is_too_deep_for_its_schema_is_refused(depth: int) -> None:
    payload: dict[str, Any] = {}
    for _ in range(depth):
        payload = {"a": payload}
    assert "nested too deeply" in refusal({"additionalProperties": {"allOf": [{"$ref": "#"}]}}, payload)


# --- event classes ---


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Item(msgspec.Struct, forbid_unknown_fields=True):
    sku: str
    quantity: Annotated[int, msgspec.Meta(ge=1)] = 1


class OrderPlaced(msgspec.Struct, rename="camel"):
    order_id: int
    items: list[Item] = []
    colour: Colour = Colour.RED
    placed_at: datetime | None = None
    prices: dict[str, decimal.Decimal] = {}
    codes: Annotated[list[str], msgspec.Meta(min_length=1)] = msgspec.field(default_factory=lambda: ["a"])
    dotted: int = msgspec.field(name="a.b", default=1)

    def __post_init__(self) -> None:
        if self.order_id == 666:
            raise ValueError("this number is never given")
        if self.order_id == 667:
            raise KeyError("checks can fail in any way")


@dataclasses.dataclass
class Paid:
    order_id: int
    by: str | None = None


class PydanticItem(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    sku: str
    quantity: int = pydantic.Field(1, ge=1)


class Card(pydantic.BaseModel):
    kind: Literal["card"]
    number: str


class Iban(pydantic.BaseModel):
    kind: Literal["iban"]
    iban: str
    bank: str


class PydanticOrder(pydantic.BaseModel):
    order_id: int = pydantic.Field(alias="orderId")
    items: list[PydanticItem] = []
    colour: Colour = Colour.RED
    amount: int | float | None = None
    by: Card | Iban | None = None
    tagged: Annotated[Card | Iban, pydantic.Field(discriminator="kind")] | None = None
    name: str = pydantic.Field("abc", min_length=2)

    @pydantic.field_validator("name")
    @classmethod
    def _not_admin(cls, name: str) -> str:
        if name == "admin":
            raise ValueError("nobody is called that")
        return name


def unfit(event_type: type, payload: object) -> list[str]:
    with pytest.raises(InvalidPayload) as caught:
        build_event(msgspec.json.encode(payload), event_type, "order.placed")
    head = f"order.placed: the payload does not fit {__name__}:{event_type.__qualname__}:"
    assert str(caught.value).startswith(head)
    return str(caught.value).removeprefix(head).strip().split("\n  ")


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({"orderId": "seven"}, '`orderId` must be an integer, not text ("seven")'),
        ({"orderid": 7}, "`orderId` is missing; there is `orderid`"),
        ({"orderId": 1, "items": [{}]}, "`items[0].sku` is missing"),
        ({"orderId": 1, "items": [{"sku": "a", "quantity": 0}]}, "`items[0].quantity` must be at least 1, not 0"),
        (
            {"orderId": 1, "items": [{"sku": "a", "quantty": 1}]},
            "unknown key `items[0].quantty`; did you mean `quantity`?",
        ),
        ({"orderId": 1, "colour": "rot"}, '`colour` must be "green" or "red", not "rot"'),
        ({"orderId": 1, "colour": "gren"}, '`colour` must be "green" or "red", not "gren"; did you mean "green"?'),
        (
            {"orderId": 1, "placedAt": "today"},
            '`placedAt` must be a date and time such as 2030-12-31T23:59:59Z, not "today"',
        ),
        ({"orderId": 1, "prices": {"net": []}}, "`prices[…]` must be a decimal number, not a list"),
        ({"orderId": 1, "codes": []}, "`codes` must have at least 1 item, not 0"),
        ({"orderId": 1, "a.b": "x"}, '`["a.b"]` must be an integer, not text ("x")'),
        ({"orderId": 666}, "the payload: this number is never given"),
        ({"orderId": 667}, "KeyError: 'checks can fail in any way'"),
        ([], "the payload must be a mapping, not an empty list"),
    ],
)
def test_a_struct_says_what_is_wrong_with_a_payload(payload: object, words: str) -> None:
    assert unfit(OrderPlaced, payload) == [words]


def test_a_dataclass_says_what_is_wrong_with_a_payload() -> None:
    assert unfit(Paid, {"order_id": 7, "by": 8}) == ["`by` must be text or null, not a number (8)"]


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (
            {"orderId": "x", "items": [{"quantity": 0, "qty": 1}], "colour": "gren"},
            [
                '`orderId` must be an integer, not text ("x")',
                "`items[0].sku` is missing",
                "`items[0].quantity` must be at least 1, not 0",
                "unknown key `items[0].qty`; known here: `sku`, `quantity`",
                '`colour` must be "red" or "green", not "gren"; did you mean "green"?',
            ],
        ),
        ({"orderid": 7}, ["`orderId` is missing; there is `orderid`"]),
        ({"orderId": 1, "amount": []}, ["`amount` must be an integer or a number, not an empty list"]),
        ({"orderId": 1, "by": 7}, ["`by` must be a mapping, not a number (7)"]),
        ({"orderId": 1, "by": {"kind": "card"}}, ["`by.number` is missing"]),
        (
            {"orderId": 1, "tagged": {"kind": "sepa"}},
            ['`tagged.kind` must be "card" or "iban", not "sepa"'],
        ),
        ({"orderId": 1, "tagged": {}}, ["`tagged.kind` is missing"]),
        ({"orderId": 1, "name": "a"}, ['`name` must have at least 2 characters, not "a"']),
        ({"orderId": 1, "name": "admin"}, ["`name`: nobody is called that"]),
        ([], ["the payload must be a mapping, not an empty list"]),
    ],
)
def test_a_pydantic_model_says_what_is_wrong_with_a_payload(payload: object, words: list[str]) -> None:
    assert unfit(PydanticOrder, payload) == words


def test_of_many_mistakes_of_a_model_the_first_are_listed() -> None:
    wrong = unfit(PydanticOrder, {"orderId": 1, "items": [{}] * 25})
    assert (len(wrong), wrong[-1]) == (11, "and 15 more")


def test_bytes_that_are_no_json_are_told_as_such_in_a_worker() -> None:
    for event_type in (OrderPlaced, None):
        with pytest.raises(InvalidPayload, match=r"^order\.placed: the payload is not JSON: "):
            build_event(b"{", event_type, "order.placed")


# --- payloads that JSON doesn't know ---


class Odd: ...


class Model(pydantic.BaseModel):
    a: Any = None


class Holder(msgspec.Struct):
    a: Any = None


@attrs.define
class Defined:
    a: Any = None


LOOP: dict[str, Any] = {"a": 1}
LOOP["b"] = [LOOP]


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({"items": [{"when": Odd()}]}, "`items[0].when` is an `Odd`, which JSON doesn't know; make it text, a number"),
        (Holder([Paid(1, {"x": complex(1)})]), "`a[0].by.x` is a `complex`, which JSON doesn't know"),
        ({"a": lazystr("sold out")}, "`a` is a `lazy.<locals>.__proxy__`, which JSON doesn't know; make it text, a"),
        ({"a": SimpleLazyObject(Odd)}, "`a` is a `SimpleLazyObject`, which JSON doesn't know; make it text, a number"),
        ({"a": range(3)}, "`a` is a `range`, which JSON doesn't know; make it a list: `list(…)`"),
        (
            {"a": types.MappingProxyType({})},
            "`a` is a `mappingproxy`, which JSON doesn't know; make it a dict: `dict(…)`",
        ),
        ({"a": Model()}, "`a` is a `Model`, which JSON doesn't know; make it a dict: `.model_dump"),
        (Model(a=[Odd()]), "`a`: Unable to serialize unknown type"),
        ({"a": {(1, 2): 3}}, "`a` has a key that is a `tuple`; make it text"),
        ({"a": ["\ud800"]}, "`a[0]` is text that has half a character"),
        ({"a": {"\ud800": 1}}, "`a` has a key that has half a character"),
        ({"a": 10**5000}, "`a`: "),
        (LOOP, "`b[0]` contains itself"),
        ({"items": [{"price": float("nan")}]}, "`items[0].price` is nan, a number that JSON doesn't know"),
        (Holder(Paid(1, float("-inf"))), "`a.by` is -inf, a number that JSON doesn't know"),  # type: ignore[arg-type]
        ({"a": Defined([float("nan")])}, "`a.a[0]` is nan, a number that JSON doesn't know"),
        (Holder(Defined(Odd())), "`a.a` is an `Odd`, which JSON doesn't know"),
    ],
)
def test_the_value_that_json_does_not_know_is_named(payload: object, words: str) -> None:
    with pytest.raises(InvalidPayload) as caught:
        encode_event(payload, "order.placed")
    assert str(caught.value).startswith(f"order.placed: the payload can't be written as JSON: {words}")


def test_a_payload_that_is_nested_too_deeply_is_refused_soon() -> None:
    payload: dict[str, Any] = {}
    inner = payload
    for _ in range(100_000):
        inner["a"] = inner = {}
    with pytest.raises(InvalidPayload, match="nested too deeply"):
        encode_event(payload, "order.placed")


# --- event classes and schemas ---


class Address(msgspec.Struct):
    zip: str


@dataclasses.dataclass
class Placed:
    order_id: str
    note: str
    lines: list[Item]
    billing: Address | None = None
    shipping: Address | None = None
    price: decimal.Decimal = decimal.Decimal(1)
    total: float = 1.0
    before: Placed | None = None


PLACED: dict[str, Any] = {
    "type": "object",
    "required": ["order_id", "currency", "notes"],
    "additionalProperties": False,
    "properties": {
        "order_id": {"type": "integer"},
        "notes": {"type": "string"},
        "lines": {"items": {"$ref": "#/$defs/line"}},
        "billing": {"$ref": "#/$defs/address"},
        "shipping": {"$ref": "#/$defs/address"},
        "price": {"type": "number"},
        "total": {"type": "integer"},
        "before": {"$ref": "#"},
    },
    "$defs": {
        "line": {"type": "object", "properties": {"sku": {"type": "integer"}}, "required": ["weight"]},
        "address": {"allOf": [{"properties": {"zip": {"type": ["number", "null"]}}}]},
    },
}


def test_where_a_class_can_not_fit_a_schema_is_said_for_each_field() -> None:
    assert misfits(Placed, PLACED) == [
        "`currency` is required by the schema, and Placed has no such field",
        "`notes` is required by the schema, and Placed has no such field; it has `note`",
        "`note` has no default in Placed, and the schema forbids it; it has `notes`",
        "`order_id` is text in Placed and an integer in the schema",
        "`lines[…].weight` is required by the schema, and Placed has no such field",
        "`lines[…].sku` is text in Placed and an integer in the schema",
        "`billing.zip` is text in Placed and a number or null in the schema",
        "`shipping.zip` is text in Placed and a number or null in the schema",
    ]


def test_a_class_is_no_list() -> None:
    assert misfits(Placed, {"type": "array"}) == ["the payload is a mapping in Placed and a list in the schema"]


def test_fields_are_compared_by_their_names_in_json() -> None:
    schema = {"required": ["orderId"], "properties": {"orderId": {"type": "integer"}, "order_id": {"type": "null"}}}
    assert misfits(OrderPlaced, schema) == []
    assert misfits(PydanticOrder, schema) == []
    by_field = {"required": ["order_id"]}
    for event_type in (OrderPlaced, PydanticOrder):
        words = f"`order_id` is required by the schema, and {event_type.__name__} has no such field; it has `orderId`"
        assert misfits(event_type, by_field) == [words]


class ByName(PydanticOrder):
    model_config = pydantic.ConfigDict(populate_by_name=True)


class Choosing(pydantic.BaseModel):
    x: int = pydantic.Field(validation_alias=pydantic.AliasChoices("a", "b"))


class Reading(pydantic.BaseModel):
    x: Annotated[int, pydantic.BeforeValidator(len)]


class Open(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")


class Computing(pydantic.BaseModel):
    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def total(self) -> int:
        return 1


@dataclasses.dataclass
class Unknown:
    odd: Odd


@pytest.mark.parametrize(
    ("event_type", "schema"),
    [
        (ByName, {"required": ["order_id", "orderId"]}),
        (Choosing, {"required": ["b"]}),
        (Reading, {"properties": {"x": {"type": "string"}}}),
        (Open, {"required": ["anything"]}),
        (Computing, {"required": ["total"]}),
        (Unknown, {"required": ["anything"]}),
        (Paid, {"anyOf": [{"required": ["x"]}, {"required": ["order_id"]}]}),
        (Paid, {"if": {"required": ["by"]}, "then": {"required": ["x"]}}),
        (Paid, {"$ref": "https://example.com/paid.json"}),
        (Paid, {"$ref": "#/nowhere"}),
        (Paid, {"additionalProperties": False, "patternProperties": {"^order": {}}}),
        (Paid, {"properties": {"order_id": {"type": "number"}, "by": {"type": "null"}}}),
        (Paid, {"properties": {"order_id": {"type": ["string", "integer"]}}}),
        (Paid, {"properties": {"order_id": True}, "additionalProperties": False}),
        (Paid, {"properties": {"order_id": {"id": "http://x/", "$ref": "#/properties/by"}, "by": {"type": "string"}}}),
        (Placed, {"properties": {"price": {"type": "number"}}}),
        (Paid, {"properties": 7, "required": [[]], "$ref": {}, "allOf": 3}),
        (Paid, True),
        (Paid, False),
    ],
)
def test_what_is_not_certain_raises_no_alarm(event_type: type, schema: dict[str, Any] | bool) -> None:
    assert misfits(event_type, schema) == []


def test_schemas_that_have_themselves_inside_take_no_time() -> None:
    twice = {"anyOf": [{"$ref": "#/$defs/either"}, {"anyOf": [{"$ref": "#/$defs/either"}, {"$ref": "#/$defs/either"}]}]}
    assert misfits(Paid, {"properties": {"by": {"$ref": "#/$defs/either"}}, "$defs": {"either": twice}}) == []


CLASSES = (OrderPlaced, Item, Paid, Placed, PydanticOrder, ByName, Choosing, Reading, Open, Computing, Holder, Model)


@pytest.mark.parametrize("event_type", CLASSES)
def test_a_class_fits_its_own_schema(event_type: Any) -> None:
    own = (
        event_type.model_json_schema()
        if issubclass(event_type, pydantic.BaseModel)
        else msgspec.json.schema(event_type)
    )
    assert misfits(event_type, own) == []


# --- wide inputs ---

NAMES = st.sampled_from(["a", "b", "order_id", "x y", ""])
SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2) | st.text(max_size=3) | NAMES
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=8
)
PAYLOADS = st.dictionaries(NAMES, JSON, max_size=4)
TYPES = st.sampled_from(["string", "integer", "number", "boolean", "object", "array", "null", "any", "strng"])
COUNTS = st.integers(0, 3)
KEYWORDS: dict[str, Any] = {
    "type": TYPES | st.lists(TYPES, min_size=1, max_size=3),
    "enum": st.lists(JSON, min_size=1, max_size=3),
    "const": JSON,
    "required": st.lists(NAMES, max_size=3) | st.booleans(),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), COUNTS | st.booleans() | st.text()),
    "multipleOf": st.sampled_from([1, 2, 0.5, 0]),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), COUNTS),
    **dict.fromkeys(("minContains", "maxContains"), COUNTS),
    "uniqueItems": st.booleans(),
    "pattern": st.sampled_from(["^a", "[", ""]),
    "$ref": st.sampled_from(["#", "#/properties/a", "#/$defs/a", "#nope", "nope.json"]),
    "dependentRequired": st.dictionaries(NAMES, st.lists(NAMES, max_size=2), max_size=2),
}
DRAFTS = st.sampled_from([None, DRAFT_4, DRAFT_7, "http://json-schema.org/draft-03/schema#", "urn:unknown"])


def _larger(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    nested: dict[str, Any] = {
        **dict.fromkeys(("items", "additionalItems"), inner | st.lists(inner, max_size=2)),
        **dict.fromkeys(("contains", "not", "if", "then", "else", "propertyNames", "additionalProperties"), inner),
        **dict.fromkeys(("unevaluatedItems", "unevaluatedProperties"), inner),
        **dict.fromkeys(("allOf", "anyOf", "oneOf"), st.lists(inner, min_size=1, max_size=3)),
        **dict.fromkeys(("properties", "$defs", "dependencies"), st.dictionaries(NAMES, inner, max_size=3)),
        "patternProperties": st.dictionaries(st.sampled_from(["^a", "["]), inner, max_size=2),
        "prefixItems": st.lists(inner, min_size=1, max_size=2),
    }
    return _some(KEYWORDS | nested)


def _some(keywords: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A few of the keywords, so that most schemas say little."""
    picked = st.lists(st.sampled_from(sorted(keywords)), max_size=3, unique=True)
    return picked.flatmap(lambda names: st.fixed_dictionaries({name: keywords[name] for name in names}))


SCHEMAS = st.recursive(st.booleans() | _some(KEYWORDS), _larger, max_leaves=6)


@given(SCHEMAS, PAYLOADS, DRAFTS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_no_schema_and_no_payload_raise_anything_else(schema: Any, payload: dict[str, Any], draft: str | None) -> None:
    if isinstance(schema, dict) and draft:
        schema = {"$schema": draft, **schema}
    validator = validator_for(schema)(schema)
    try:
        check_schema(validator, msgspec.json.encode(payload), "order.placed")
    except InvalidPayload as error:
        lines = str(error).splitlines()
        assert len(lines) <= 12
        assert all(line.isprintable() and 0 < len(line) < 1000 for line in lines)


@given(SCHEMAS, st.sampled_from(CLASSES))
def test_misfits_never_raises(schema: Any, event_type: type) -> None:
    assert all(text.isprintable() for text in misfits(event_type, schema))


@given(st.binary(max_size=30) | JSON.map(msgspec.json.encode))
def test_no_bytes_raise_anything_else_in_a_worker(data: bytes) -> None:
    for event_type in (OrderPlaced, Paid, PydanticOrder, None):
        with contextlib.suppress(InvalidPayload):
            build_event(data, event_type, "order.placed")


FIELD_TYPES = st.sampled_from([int, str, float, bool, list[int], dict[str, int], int | None, Address, Colour, Any])
FIELDS = st.dictionaries(st.sampled_from(["a", "b", "order_id"]), st.tuples(FIELD_TYPES, st.booleans()))


@given(FIELDS)
def test_no_class_is_at_odds_with_its_own_schema(fields: dict[str, tuple[Any, bool]]) -> None:
    required = [(name, kind) for name, (kind, optional) in fields.items() if not optional]
    others = [(name, kind, None) for name, (kind, optional) in fields.items() if optional]
    struct = msgspec.defstruct("Made", [*required, *others])
    assert misfits(struct, msgspec.json.schema(struct)) == []


# --- schemas that are wrong themselves ---


def problem(schema: object, folder: Any) -> str | None:
    file = folder / "schema.json"
    file.write_text(json.dumps(schema))
    found, wrong = PayloadSchemas().get(str(file))
    assert (found is None) == (wrong is not None)
    return None if wrong is None else wrong.message.removeprefix(f"`{file}` is not a valid JSON Schema: ")


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "https://example.com/order.json"},
        {"$id": "https://example.com/order.json", "$ref": "customer.json"},
        {"$ref": DRAFT_7},
        {"properties": {"next": {"$ref": "#"}}},
        {"anyOf": [{"type": "null"}, {"properties": {"next": {"$ref": "#"}}, "required": ["next"]}]},
        {"enum": [{"$ref": "#/nope"}], "default": {"$ref": "#/nope"}},
        {"properties": {"$ref": {"type": "string"}, "pattern": {"const": "["}}},
        {
            "$schema": DRAFT_7,
            "$ref": "#/definitions/a",
            "definitions": {"a": {}},
            "properties": {"x": {"$ref": "#/no"}},
        },
        {"$ref": "#/components/a", "components": {"a": {"type": "object"}}},
        {"$anchor": "top", "properties": {"next": {"$ref": "#top"}}},
        {"$schema": "urn:own", "properties": {"a": {"$schema": "urn:other"}}},
        {"$schema": DRAFT_4, "exclusiveMinimum": True, "minimum": 0, "items": [{}]},
    ],
)
def test_a_schema_that_can_be_used_is_not_refused(schema: object, tmp_path: Any) -> None:
    assert problem(schema, tmp_path) is None


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"$ref": "#/definitions/nope"}, '`/$ref` leads nowhere: the file has no "#/definitions/nope"'),
        ({"$ref": "#/title", "title": "a"}, '`/$ref` must lead to a schema, not to text ("a")'),
        ({"$ref": "#/x/a", "x": {"a": {"minimum": "1"}}}, '`/x/a/minimum` must be a number, not text ("1")'),
        (
            {"$schema": DRAFT_4, "patternProperties": {"[": {}}},
            "`/patternProperties/[` is no regular expression: unterminated character set at position 0",
        ),
        ({"$schema": 7}, "`/$schema` must be text, not a number (7)"),
        ({"properties": {"a/b": 7}}, "`/properties/a~1b` must be a schema, not a number (7)"),
        ({"allOf": [{"$ref": "#"}]}, "`/` comes back to itself without end"),
        (
            {"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}},
            "`/$defs/a` comes back to itself without end",
        ),
    ],
)
def test_a_schema_that_can_not_be_used_is_refused_with_the_place(schema: object, words: str, tmp_path: Any) -> None:
    assert problem(schema, tmp_path) == words


@given(SCHEMAS, DRAFTS)
def test_no_schema_raises_when_it_is_loaded(
    tmp_path_factory: pytest.TempPathFactory, schema: Any, draft: str | None
) -> None:
    if isinstance(schema, dict) and draft:
        schema = {"$schema": draft, **schema}
    problem(schema, tmp_path_factory.getbasetemp())


def test_importing_the_router_loads_nothing_of_this() -> None:
    ours = ("class_schemas", "fitting", "misfits", "mistakes", "payloads")
    heavy = ("jsonschema", "referencing", "pydantic", *(f"router.routing.{name}" for name in ours))
    script = f"import router, sys; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_schema_elsewhere_is_never_fetched(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/order.json"
        (tmp_path / "order.json").write_text(json.dumps({"$ref": url}))
        file = tmp_path / "extensions.yaml"
        file.write_text("version: 1\nextensions: {order.placed: {schema: order.json}}\n")
        with pytest.raises(InvalidPayload, match=f'refers to "{url}", which can\'t be found'):
            TestRouter(file).dispatch("order.placed", {})
        server.settimeout(0.0)
        with pytest.raises(BlockingIOError):
            server.accept()
