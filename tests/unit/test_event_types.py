"""Events from a dispatch to a handler: types, references, versions."""

from __future__ import annotations

import collections
import dataclasses
import enum
import math
import re
import runpy
import subprocess
import sys
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, Generic, Optional, TypeVar
from uuid import UUID

import attrs
import msgspec
import pydantic
import pydantic.dataclasses
import pytest
import sqlalchemy.orm
from django.utils.functional import SimpleLazyObject
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import TypedDict

import router
from router import HandlerImportError, InvalidPayload, RegistrationError, RouterError
from router.app.imports import import_mistakes
from router.cli.failed.editing import edit
from router.config import load
from router.config.settings import Point
from router.jobs.job import Job
from router.routing.encoding import encode_event, originals
from router.routing.events import EventReader, build_event, import_event_type
from router.routing.references import References
from router.testing import TestRouter
from tests.app import ROOT
from tests.pages import write_files


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Size(enum.IntEnum):
    SMALL = 1
    LARGE = 2


@dataclasses.dataclass
class Line:
    sku: str
    price: Decimal


FIELDS: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "id": (UUID, st.uuids()),
    "at": (datetime, st.datetimes(min_value=datetime(1000, 1, 1), timezones=st.just(UTC))),
    "day": (date, st.dates(min_value=date(1000, 1, 1))),
    "hour": (time, st.times()),
    "wait": (timedelta, st.timedeltas(timedelta(-999), timedelta(999))),
    "price": (Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    "colour": (Colour, st.sampled_from(Colour)),
    "size": (Size, st.sampled_from(Size)),
    "numbers": (set[int], st.sets(st.integers(-(2**53), 2**53))),
    "words": (frozenset[str], st.frozensets(st.text("abc"))),
    "pair": (tuple[int, str], st.tuples(st.integers(-9, 9), st.text("abc"))),
    "lines": (
        list[Line],
        st.lists(st.builds(Line, st.text("abc"), st.decimals(allow_nan=False, allow_infinity=False))),
    ),
    "by_size": (dict[int, str], st.dictionaries(st.integers(-9, 9), st.text("abc"))),
    "perhaps": (Optional[datetime], st.none() | st.datetimes(min_value=datetime(1000, 1, 1))),  # noqa: UP045
}
DATA = (bytes, st.binary())

AS_DATACLASS = dataclasses.make_dataclass(
    "AsDataclass", [(name, of) for name, (of, _) in {**FIELDS, "raw": DATA}.items()]
)
AS_STRUCT = msgspec.defstruct("AsStruct", [(name, of) for name, (of, _) in {**FIELDS, "raw": DATA}.items()])
AS_MODEL = pydantic.create_model("AsModel", **{name: (of, ...) for name, (of, _) in FIELDS.items()})  # type: ignore[call-overload]
"""Of bytes pydantic says itself how they travel: as UTF-8, unless the model is set up otherwise."""


@pytest.mark.parametrize("event_type", [AS_DATACLASS, AS_STRUCT, AS_MODEL])
@given(data=st.data())
def test_every_type_comes_back_as_what_it_was(event_type: Any, data: st.DataObject) -> None:
    fields = FIELDS if event_type is AS_MODEL else {**FIELDS, "raw": DATA}
    event = event_type(**{name: data.draw(strategy, name) for name, (_, strategy) in fields.items()})
    assert build_event(encode_event(event, "p"), event_type, "p") == event


class Inner(pydantic.BaseModel):
    order_id: int = pydantic.Field(alias="orderId")


class Aliased(pydantic.BaseModel):
    order_id: int = pydantic.Field(alias="orderId")
    inner: list[Inner]
    total: float = 0.0

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def doubled(self) -> int:
        return self.order_id * 2


class Strict(Aliased):
    model_config = pydantic.ConfigDict(extra="forbid")


class Crossed(pydantic.BaseModel):
    inner: list[Crossing]


class Crossing(pydantic.BaseModel):
    total: int = pydantic.Field(validation_alias="amount", serialization_alias="sum")


@pytest.mark.parametrize("model", [Aliased, Strict])
def test_a_model_with_aliases_and_computed_fields_is_read_as_it_is_written(model: type[Aliased]) -> None:
    event = model(orderId=7, inner=[Inner(orderId=8)])
    data = encode_event(event, "p")
    assert msgspec.json.decode(data) == {"orderId": 7, "inner": [{"orderId": 8}], "total": 0.0}
    assert build_event(data, model, "p") == event
    assert build_event(b'{"order_id": 7, "inner": []}', model, "p").order_id == 7


def test_a_model_that_is_written_and_read_under_different_names_is_refused_with_the_file() -> None:
    words = r"Crossing.total is written as `sum`, but read as `amount` or `total`; .* one alias for both"
    with pytest.raises(HandlerImportError, match=words):
        import_event_type(f"{__name__}:Crossed")
    assert import_event_type(f"{__name__}:Strict") is Strict


class Excluding(pydantic.BaseModel):
    total: int = 0
    cached: int = pydantic.Field(0, exclude=True)


class Lacking(pydantic.BaseModel):
    inner: dict[str, LackingInner]


class LackingInner(Excluding):
    total: int = pydantic.Field(exclude=True)


def test_a_required_field_that_is_never_written_is_refused_with_the_file() -> None:
    words = r"LackingInner.total is left out where it is written \(`exclude`\), but required; .* a default"
    with pytest.raises(HandlerImportError, match=words):
        import_event_type(f"{__name__}:Lacking")
    assert import_event_type(f"{__name__}:Excluding") is Excluding


class Login(pydantic.BaseModel):
    token: pydantic.SecretStr | None = None
    keys: list[pydantic.SecretBytes] = []
    by_name: dict[str, Login] = {}
    pin: pydantic.Secret[int] | None = None
    note: str = "**********"


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (Login(token=pydantic.SecretStr("a")), "`token` is a `SecretStr`"),
        (Login(keys=[pydantic.SecretBytes(b""), pydantic.SecretBytes(b"a")]), r"`keys\[1\]` is a `SecretBytes`"),
        (Login(by_name={"a": Login(token=pydantic.SecretStr("a"))}), "`by_name.a.token` is a `SecretStr`"),
        (Login(pin=pydantic.Secret(7)), "`pin` is a `Secret`"),
    ],
)
def test_a_secret_never_arrives_as_asterisks(event: Login, words: str) -> None:
    with pytest.raises(InvalidPayload, match=f"p: {words}, of which only asterisks would travel; send a key"):
        encode_event(event, "p")


def test_a_secret_that_its_model_writes_as_it_is_arrives() -> None:
    class Open(pydantic.BaseModel):
        token: pydantic.SecretStr

        @pydantic.field_serializer("token")
        def _write(self, token: pydantic.SecretStr) -> str:
            return token.get_secret_value()

    for event in (Open(token=pydantic.SecretStr("a")), Login(), Login(token=pydantic.SecretStr(""))):
        assert build_event(encode_event(event, "p"), type(event), "p") == event


@dataclasses.dataclass
class Ambiguous:
    ref: UUID | str


@dataclasses.dataclass
class Holding:
    inner: list[Ambiguous]


@dataclasses.dataclass
class Initialised:
    seed: dataclasses.InitVar[int]


class Unresolved(msgspec.Struct):
    at: Nowhere  # type: ignore[name-defined]  # noqa: F821


class Opaque: ...


Item = TypeVar("Item")


@dataclasses.dataclass
class Readable(Generic[Item]):
    opaque: Opaque
    row: Customer | None
    itself: Readable[Item]
    item: Item
    raw: Any


@dataclasses.dataclass
class Counting:
    itself: Counting | None
    words: list[collections.Counter[str]]


@pydantic.dataclasses.dataclass
class OfPydantic:
    tags: list[str] = pydantic.Field(default_factory=list)


@dataclasses.dataclass
class HoldingOne:
    of: list[OfPydantic]


UNREADABLE = {
    "OfPydantic": "`OfPydantic` is a dataclass of pydantic's; make it a pydantic BaseModel, or a dataclass of the",
    "HoldingOne": "`OfPydantic` is a dataclass of pydantic's; make it a pydantic BaseModel, or a dataclass of the",
    "Counting": "a worker can't read it from JSON: `Counter` is written as any other dict; declare it as `dict`",
    "Ambiguous": "Type unions may not contain more than one str-like type .*; declare such a field as one type",
    "Holding": "Type unions may not contain more than one str-like type",
    "Initialised": "dataclasses with `InitVar` fields are not supported",
    "Unresolved": "name 'Nowhere' is not defined; import it outside of `if TYPE_CHECKING`",
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_class_that_no_worker_can_read_is_refused_with_the_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / "extensions.yaml"
    handler = f'{{handler: "{__name__}:note", async: true}}'
    path.write_text(f"version: 1\nextensions:\n  p: {{event: '{__name__}:{name}', handlers: [{handler}]}}\n")
    (found,) = import_mistakes(load(path).composition, later=True)
    assert (found.line, found.column) == (3, 14)
    assert re.search(f"test_event_types:{name}: .*{UNREADABLE[name]}", found.message)
    with pytest.raises(HandlerImportError, match=UNREADABLE[name]):
        TestRouter(path).dispatch("p", {})


def test_fields_of_any_class_names_of_later_classes_and_type_variables_can_be_read() -> None:
    assert import_event_type(f"{__name__}:Readable") is Readable


@pytest.mark.parametrize("event", [Ambiguous("a"), Initialised(1), Crossed(inner=[])])
def test_an_event_without_jobs_may_be_of_a_class_that_no_worker_could_read(event: Any, tmp_path: Path) -> None:
    NOTED.clear()
    path = tmp_path / "extensions.yaml"
    name = f"{__name__}:{type(event).__name__}"
    path.write_text(f"version: 1\nextensions: {{p: {{event: '{name}', handlers: [{{handler: '{__name__}:note'}}]}}}}\n")
    app = TestRouter(path)
    app.dispatch(event)
    assert [event] == NOTED
    with pytest.warns(UserWarning, match="outside `bootstrap`"):
        app.register_async("p", f"{__name__}:note", id="later")
    with pytest.raises(HandlerImportError, match=name):
        app.dispatch(event)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("mode", ["null", "constants"])
def test_a_number_that_json_does_not_know_is_refused_in_a_model_too(number: float, mode: Any) -> None:
    class Told(Aliased):
        model_config = pydantic.ConfigDict(ser_json_inf_nan=mode)

    event = Told(orderId=7, inner=[], total=number)
    with pytest.raises(InvalidPayload, match=r"`total` is -?(nan|inf), a number that JSON doesn't know"):
        encode_event(event, "p")


class Shape(pydantic.BaseModel):
    name: str = "a"


class Round(Shape):
    radius: int = 1


class Renamed(Shape):
    name: str = "b"


class Kept(Shape):
    """Finds out by itself what it was."""

    @pydantic.model_validator(mode="wrap")
    @classmethod
    def _read(cls, value: Any, handler: Any) -> Any:
        return KeptRound(**value) if cls is Kept and "radius" in value else handler(value)


class KeptRound(Kept):
    radius: int = 1


@dataclasses.dataclass
class Spot:
    x: int = 1


@dataclasses.dataclass
class DeepSpot(Spot):
    z: int = 1


class Sized(TypedDict):
    shape: Shape


class Drawn(pydantic.BaseModel):
    shape: Shape | int = 1
    shapes: dict[str, list[Shape]] = {}
    sized: Sized | None = None
    spot: Spot | None = None
    both: Shape | Round | None = None
    anything: Any = None
    model: pydantic.BaseModel | None = None
    tree: pydantic.JsonValue = None
    kept: pydantic.SerializeAsAny[Kept] | None = None
    itself: Drawn | None = None


class Alike(pydantic.BaseModel):
    name: str = "a"


class Square(pydantic.BaseModel):
    side: int


class Either(pydantic.BaseModel):
    at: str | datetime | None = None
    ref: UUID | str | None = None
    by_name: dict[str, list[Decimal | str | None]] = {}
    several: list[int] | set[int] = []
    refs: set[UUID | str] = set()
    pair: tuple[int, str | datetime] | None = None
    shape: Shape | Alike | Square | None = None
    number: int | float = 0
    text: int | str = 0
    tree: pydantic.JsonValue = None
    itself: Either | None = None


class DrawnLarge(Drawn):
    scale: int = 1


class Box(msgspec.Struct):
    size: int = 1


class LockedBox(Box):
    key: int = 1


@dataclasses.dataclass
class Shelf:
    spots: tuple[Spot, ...] = ()
    box: Box | None = None
    row: Row | None = None
    tag: ClassVar[str] = "a"


@dataclasses.dataclass
class SameShelf(Shelf):
    note: ClassVar[str] = "b"


JOBS = """
version: 1
async: {{onFailure: "{module}:failed"}}
extensions:
  drawn: {{event: "{module}:Drawn", handlers: [{{handler: "{module}:note", async: true}}]}}
  shelf: {{event: "{module}:Shelf", handlers: [{{handler: "{module}:note", async: true}}]}}
  either: {{event: "{module}:Either", handlers: [{{handler: "{module}:note", async: true}}]}}
"""


@pytest.fixture
def jobs(tmp_path: Path) -> TestRouter:
    NOTED.clear()
    path = tmp_path / "extensions.yaml"
    path.write_text(JOBS.format(module=__name__))
    app = TestRouter(path)
    app.register_reference(Row, key=lambda row: row.key, load=lambda cls, key: ROWS.get((cls, key)))
    return app


@pytest.mark.parametrize(
    ("point", "event", "words"),
    [
        ("drawn", Drawn(shape=Round()), "drawn: `shape` is of `Round` where `Shape` is declared: a job"),
        ("drawn", Drawn(shapes={"a": [Shape(), Round()]}), r"`shapes.a\[1\]` is of `Round` .* lose its `radius`;"),
        ("drawn", Drawn(model=Round()), "`model` is of `Round` where `BaseModel` is declared"),
        ("drawn", Drawn(sized={"shape": Round()}), "`sized.shape` is of `Round`"),
        ("drawn", Drawn(spot=DeepSpot()), "`spot` is of `DeepSpot` where `Spot` is declared: .* its `z`; declare"),
        ("drawn", Drawn(itself=Drawn(shape=Round())), "`itself.shape` is of `Round`"),
        ("drawn", DrawnLarge(), "the payload is of `DrawnLarge` where `Drawn` is declared"),
        ("shelf", Shelf(spots=(Spot(), DeepSpot())), r"`spots\[1\]` is of `DeepSpot`"),
        ("shelf", Shelf(box=LockedBox()), "`box` is of `LockedBox`"),
    ],
)
def test_what_a_derived_class_adds_is_never_lost_silently(jobs: TestRouter, point: str, event: Any, words: str) -> None:
    with pytest.raises(InvalidPayload, match=words):
        jobs.dispatch(point, event)
    assert not jobs.queued


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (Either(at=datetime(2026, 1, 31)), "either: `at` is of `datetime`, and a job would read it as `str`"),
        (Either(ref="12345678-1234-5678-1234-567812345678"), "`ref` is of `str`, and a job would read it as `UUID`"),
        (Either(by_name={"a": [Decimal(1), "1"]}), r"`by_name.a\[1\]` is of `str`, .* as `Decimal`"),
        (Either(several={1}), "`several` is of `set`, .* as `list`"),
        (Either(refs={"12345678-1234-5678-1234-567812345678"}), r"`refs\[0\]` is of `str`, .* as `UUID`"),
        (Either(pair=(1, datetime(2026, 1, 31))), r"`pair\[1\]` is of `datetime`, .* as `str`"),
        (
            Either(itself=Either(shape=Alike())),
            "`itself.shape` is of `Alike`, .* as `Shape`, which is in its union too",
        ),
    ],
)
def test_a_value_of_a_union_that_would_arrive_as_another_type_is_refused(
    jobs: TestRouter, event: Any, words: str
) -> None:
    with pytest.raises(InvalidPayload, match=words):
        jobs.dispatch("either", event)
    assert not jobs.queued


@pytest.mark.parametrize(
    "event",
    [
        Either(
            at="2026-01-31", ref=UUID(int=1), by_name={"a": [Decimal(1), None]}, several=[1], refs={"a", UUID(int=1)}
        ),
        Either(pair=(1, "b"), itself=Either(shape=Shape()), number=1.0, text="1", tree={"a": [1, None, "b", 1.5]}),
        Either(number=1, text=1, itself=Either(shape=Square(side=1))),
    ],
)
def test_a_value_of_a_union_that_json_tells_arrives(jobs: TestRouter, event: Any) -> None:
    jobs.dispatch("either", event)
    jobs.run_jobs()
    assert [event] == NOTED
    assert type(NOTED[0].number) is type(event.number)


@pytest.mark.parametrize(
    ("point", "event"),
    [
        ("drawn", Drawn(shape=Shape(), shapes={"a": [Shape()]}, both=Round(), spot=Spot(), kept=KeptRound())),
        ("drawn", Drawn(anything={"shape": 1}, tree={"a": [{}]})),
        ("shelf", Shelf(spots=(Spot(),), box=Box())),
    ],
)
def test_what_is_of_the_class_that_is_declared_arrives(jobs: TestRouter, point: str, event: Any) -> None:
    jobs.dispatch(point, event)
    jobs.run_jobs()
    assert [event] == NOTED


@pytest.mark.parametrize(
    ("point", "event", "words"),
    [
        ("shelf", Shelf(box="large"), '`box` must be a mapping or null, not text ("large")'),  # type: ignore[arg-type]
        ("drawn", Drawn.model_construct(spot="there"), '`spot` must be a mapping, not text ("there")'),
    ],
)
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_the_values_of_an_object_are_not_checked_before_a_worker_reads_them(
    jobs: TestRouter, point: str, event: Any, words: str
) -> None:
    jobs.dispatch(point, event)
    *waiting, last = jobs.run_jobs()
    assert ({ran.outcome for ran in waiting}, last.outcome, last.attempt) == ({"waiting"}, "failed", 1)
    (failed,) = jobs.failed
    assert (failed.reason, NOTED) == ("unknown_route", [])
    assert words in str(failed.error)


def test_a_derived_class_that_adds_no_field_a_row_and_what_nobody_declared_may_stand_there(jobs: TestRouter) -> None:
    jobs.dispatch("drawn", Drawn(shape=Renamed(), anything=Round()))
    jobs.dispatch("shelf", SameShelf(row=ROWS[Customer, 1]))
    jobs.run_jobs()
    assert [Drawn(shape=Shape(name="b"), anything={"name": "a", "radius": 1}), Shelf(row=ROWS[Customer, 1])] == NOTED


# -- by reference --------------------------------------------------------------------------------------------------


class Row:
    def __init__(self, key: Any) -> None:
        self.key = key


class Customer(Row):
    pass


class Product(Row):
    pass


@dataclasses.dataclass
class Placed:
    customer: Customer
    products: list[Product]
    by_name: dict[str, Product]
    guest: Customer | None = None


class PlacedModel(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    customer: Customer
    products: list[Product]
    by_name: dict[str, Product]
    guest: Customer | None = None


ROWS = {(cls, key): cls(key) for cls in (Customer, Product) for key in range(5)}


def registered() -> References:
    references = References()
    references.add(Row, lambda row: row.key, lambda cls, key: ROWS.get((cls, key)))
    return references


@pytest.mark.parametrize("event_type", [Placed, PlacedModel, None])
def test_objects_travel_as_type_and_key_wherever_they_stand(event_type: Any) -> None:
    fields: dict[str, Any] = {
        "customer": ROWS[Customer, 1],
        "products": [ROWS[Product, 1], ROWS[Product, 2]],
        "by_name": {"a": ROWS[Product, 1]},
        "guest": None,
    }
    event = event_type(**fields) if event_type else fields
    references = registered()
    data = encode_event(event, "p", references)
    assert msgspec.json.decode(data)["customer"] == {"$reference": f"{__name__}:Customer", "key": 1}
    unread = EventReader(Point("p"), event_type, references).read(data, 1)
    assert unread.payload == msgspec.json.decode(data)
    loaded = unread.load()
    values = loaded if event_type is None else {name: getattr(loaded, name) for name in fields}
    assert values == fields


def test_what_refers_to_something_gone_says_what() -> None:
    data = encode_event({"customer": Customer(77)}, "p", registered())
    unread = EventReader(Point("p"), None, registered()).read(data, 1)
    with pytest.raises(router.ReferenceMissing, match=r"test_event_types:Customer 77 is gone"):
        unread.load()


def test_a_class_that_is_not_registered_here_makes_the_job_wait_and_is_never_imported() -> None:
    data = b'{"a": {"$reference": "antigravity:Order", "key": 1}}'.replace(b": {", b":{").replace(b'e": ', b'e":')
    with pytest.raises(InvalidPayload, match="nobody here knows what antigravity:Order refers to"):
        EventReader(Point("p"), None, registered()).read(data, 1)
    assert "antigravity" not in sys.modules


@attrs.define
class Defined:
    a: Any


@pytest.mark.parametrize(
    "payload", [{"$reference": "x"}, {"a": [{"$reference": "x", "key": 1}]}, {"a": Defined({"$reference": "x"})}]
)
def test_nobody_can_make_up_a_reference(payload: Any) -> None:
    with pytest.raises(InvalidPayload, match=r"has the key `\$reference`, which is kept for"):
        encode_event(payload, "p", registered())


def test_text_that_only_looks_like_a_reference_is_text() -> None:
    payload = {"a": '{"$reference":"x"}', "b": "$reference"}
    assert EventReader(Point("p"), None, registered()).read(encode_event(payload, "p"), 1).load() == payload


def test_an_object_without_a_key_is_refused_with_its_place() -> None:
    with pytest.raises(InvalidPayload, match=r"`a\[0\]`: this Customer has no key yet: save \(or flush\) it first"):
        encode_event({"a": [Customer(None)]}, "p", registered())


@pytest.mark.parametrize("event_type", [Placed, PlacedModel, dict])
def test_a_lazy_object_such_as_the_user_of_a_request_travels_as_what_it_stands_for(event_type: Any) -> None:
    lazy = SimpleLazyObject(lambda: ROWS[Customer, 1])
    data = encode_event(event_type(customer=lazy, products=[], by_name={}), "p", registered())
    reference = {"$reference": f"{__name__}:Customer", "key": 1}
    assert msgspec.json.decode(data)["customer"] == reference
    assert originals({"customer": lazy}, registered())(reference) is lazy


def test_an_object_of_another_class_is_told_from_those_that_are_registered() -> None:
    with pytest.raises(InvalidPayload, match=r"`a` is a `object`|`a` is an `object`, which JSON doesn't know"):
        encode_event({"a": object()}, "p", registered())


def test_what_travels_by_value_can_not_be_registered() -> None:
    with pytest.raises(RegistrationError, match="Line is a dataclass or a model, whose objects travel by value"):
        References().add(Line, lambda line: line.sku, lambda cls, key: None)
    with pytest.raises(RegistrationError, match="takes a class"):
        References().add("shop:Order", str, lambda cls, key: None)  # type: ignore[arg-type]


async def load_later(cls: type, key: Any) -> Any: ...


@pytest.mark.parametrize(
    ("key", "load", "said"),
    [
        (str, load_later, "load: nobody awaits an `async def` here; load is a plain function"),
        (str, lambda key: None, r"load\(key\): .*; it is called with two arguments, the class and the key"),
        (str, lambda cls, key: (yield), "load: it has a `yield`"),
        (str, "shop:load", "load: a str can't be called; load is a function that takes the class and the key"),
        ("id", lambda cls, key: None, "key: a str can't be called; key is a function that takes the object"),
        (load_later, lambda cls, key: None, "key: nobody awaits an `async def` here"),
        (lambda: 7, lambda cls, key: None, r"key\(\): .*; it is called with one argument, the object"),
    ],
)
def test_what_could_never_give_a_key_or_load_an_object_is_refused_at_once(key: Any, load: Any, said: str) -> None:
    with pytest.raises(RegistrationError, match=rf"^register_reference of {__name__}:Row, {said}"):
        References().add(Row, key, load)


def test_an_object_is_no_payload_by_itself() -> None:
    with pytest.raises(InvalidPayload, match="a payload is a mapping or an event object, not Customer"):
        encode_event(ROWS[Customer, 1], "p", registered())


def test_the_recipe_for_sqlalchemy_loads_rows_by_keys_of_any_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files("events.md", tmp_path)
    monkeypatch.chdir(tmp_path)
    shop: Any = runpy.run_path("shop/models.py")

    class Meter(shop["Base"]):  # type: ignore[misc]
        __tablename__ = "meters"
        id = sqlalchemy.Column(sqlalchemy.Uuid, primary_key=True)
        day = sqlalchemy.Column(sqlalchemy.Date, primary_key=True)
        count = sqlalchemy.Column(sqlalchemy.Integer, primary_key=True)

    shop["Base"].metadata.create_all(shop["engine"])
    with sqlalchemy.orm.Session(shop["engine"]) as session:
        session.add(meter := Meter(id=UUID(int=7), day=date(2030, 1, 2), count=1))
        session.commit()
        travels = msgspec.json.decode(msgspec.json.encode(shop["key"](meter)))
    assert isinstance(shop["load"](Meter, travels), Meter)
    shop["engine"].dispose()


DJANGO = """
import django, uuid
from django.conf import settings
settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}})
django.setup()
from django.db import connection, models
from router.routing.references import References

class Order(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    class Meta:
        app_label = "shop"

class router:
    references = References()
    register_reference = references.add

RECIPE
with connection.schema_editor() as editor:
    editor.create_model(Order)
try:
    router.references.refer(Order())
except ValueError as error:
    print(error)
order = Order.objects.create()
reference = router.references.refer(order)
assert router.references.resolve({**reference, "key": str(reference["key"])}, "p") == order
"""


def test_the_recipe_for_django_refuses_a_row_that_is_not_saved_though_it_has_a_key(tmp_path: Path) -> None:
    (recipe,) = re.findall(r"```python\n(router.register_reference.*?)```", (ROOT / "docs/events.md").read_text(), re.S)
    (tmp_path / "shop.py").write_text(DJANGO.replace("RECIPE", recipe))
    ran = subprocess.run(
        [sys.executable, "-c", "import shop"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (ran.stdout, ran.stderr) == ("this Order has no key yet: save (or flush) it first\n", "")


def test_what_is_at_hand_is_not_loaded_again() -> None:
    references = References()
    references.add(Row, lambda row: row.key, lambda cls, key: pytest.fail("loaded"))
    event = {"customer": ROWS[Customer, 1], "products": [], "by_name": {}}
    known = originals(event, references)
    payload = msgspec.json.decode(encode_event(event, "p", references))
    assert references.resolve(payload, "p", known) == event


FILE = """
version: 1
extensions:
  placed:
    event: "{module}:Placed"
    handlers:
      - {{handler: "{module}:note", id: now}}
      - {{handler: "{module}:note", id: later, async: {{retries: 2, onFailure: "{module}:failed"}}}}
      - {{handler: "{module}:note", id: dropped, async: {{onMissing: drop}}}}
"""
NOTED: list[Any] = []


def note(event: Any) -> None:
    NOTED.append(event)


def failed(error: BaseException, event: Any) -> None:
    NOTED.append((type(error), event["customer"]["key"]))


@pytest.fixture
def app(tmp_path: Path) -> TestRouter:
    NOTED.clear()
    path = tmp_path / "extensions.yaml"
    path.write_text(FILE.format(module=__name__))
    app = TestRouter(path)
    app.register_reference(Row, key=lambda row: row.key, load=lambda cls, key: ROWS.get((cls, key)))
    return app


def test_a_synchronous_handler_gets_the_object_itself_also_out_of_a_mapping(app: TestRouter) -> None:
    unsaved = Customer(99)  # flushed, not committed: nobody else could load it
    app.dispatch("placed", {"customer": unsaved, "products": [], "by_name": {}})
    assert [Placed(unsaved, [], {})] == NOTED
    app.assert_queued("later", {"customer": unsaved})


def test_a_test_sees_what_becomes_of_jobs_whose_object_is_gone(app: TestRouter) -> None:
    app.dispatch(Placed(Customer(99), [], {}))
    app.dispatch(Placed(ROWS[Customer, 1], [], {}))
    NOTED.clear()
    report = app.run_jobs()
    assert [(ran.route, ran.outcome) for ran in report] == [
        ("later", "failed"),
        ("dropped", "skipped"),
        ("later", "succeeded"),
        ("dropped", "succeeded"),
    ]
    found = Placed(ROWS[Customer, 1], [], {})
    assert [(router.ReferenceMissing, 99), found, found] == NOTED
    assert isinstance(app.failed[0].error, router.ReferenceMissing)


def test_that_a_job_is_dropped_as_the_file_says_is_no_exception_to_raise(app: TestRouter) -> None:
    app.dispatch(Placed(Customer(99), [], {}))
    with pytest.raises(router.ReferenceMissing):
        app.run_jobs(raising=True)  # of the job that has failed
    assert [(ran.route, ran.outcome) for ran in app.run_jobs(raising=True)] == [("dropped", "skipped")]


# -- versions ------------------------------------------------------------------------------------------------------


def double(payload: Any) -> Any:
    return payload | {"n": payload["n"] * 2}


def tag(payload: Any) -> Any:
    return payload | {"tag": True}


def nothing(payload: Any) -> Any:
    return None


def reader(version: int, *upcasters: str) -> EventReader:
    paths = tuple(f"{__name__}:{name}" for name in upcasters)
    return EventReader(Point("p", version=version, upcasters=paths), None, References())


def test_an_older_payload_is_lifted_step_by_step() -> None:
    lifted = reader(3, "double", "tag")
    assert [lifted.read(b'{"n":1}', version).load() for version in (1, 2, 3)] == [
        {"n": 2, "tag": True},
        {"n": 1, "tag": True},
        {"n": 1},
    ]


@pytest.mark.parametrize(
    ("version", "upcasters", "words"),
    [
        (4, ("double", "tag"), "the payload is of version 4, this file's of 3"),
        (1, ("tag",), "the payload is of version 1, this file's of 3; its `upcasters` begin with version 2"),
        (1, ("double", "nothing"), "the upcaster .*:nothing returned NoneType, no mapping"),
        (1, ("nothing", "tag"), "the upcaster .*:nothing returned NoneType"),
    ],
)
def test_what_can_not_be_lifted_is_told_and_waits(version: int, upcasters: tuple[str, ...], words: str) -> None:
    with pytest.raises(InvalidPayload, match=words):
        reader(3, *upcasters).read(b'{"n":1}', version)


def test_an_upcaster_that_raises_is_named() -> None:
    with pytest.raises(InvalidPayload, match=r"the upcaster .*:double raised KeyError: 'n' \(version 2\)"):
        reader(3, "tag", "double").read(b"{}", 1)


def job_of(data: bytes) -> Job:
    return Job(v=1, job="j", point="placed", route="later", event=msgspec.Raw(data), dispatched_at=1.0, correlation="c")


def with_rows(path: Path) -> TestRouter:
    app = TestRouter(path)
    app.register_reference(Row, key=lambda row: row.key, load=lambda cls, key: pytest.fail("it is loaded"))
    return app


def test_an_operator_edits_an_old_payload_as_the_version_of_today_with_its_references(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "extensions.yaml"
    path.write_text(
        f"""
version: 1
extensions:
  placed:
    version: 2
    upcasters: ["{__name__}:tag"]
    handlers: [{{handler: "{__name__}:note", id: later, async: true}}]
"""
    )
    monkeypatch.setenv("VISUAL", "sed -i s/true/false/")
    data = encode_event({"customer": ROWS[Customer, 1]}, "placed", registered())
    edited = edit(with_rows(path), job_of(data))
    assert edited is not None
    assert msgspec.json.decode(edited.event) == msgspec.json.decode(data) | {"tag": False}
    assert edited.event_version == 2


@dataclasses.dataclass
class Sold:
    customer: Customer
    total: int
    to: str = ""

    def __post_init__(self) -> None:
        if self.to:
            assert self.to in self.customer.friends  # type: ignore[attr-defined]


class SoldModel(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    customer: Customer
    total: int
    to: str = ""

    @pydantic.field_validator("customer")
    @classmethod
    def is_known(cls, customer: Customer) -> Customer:
        assert getattr(customer, "key", None) is not None
        return customer


@pytest.mark.parametrize("event_type", [Sold, SoldModel])
@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("s/total/totall/", "`total` is missing"),
        ("s/7/[]/", "`total` must be an integer, not an empty list"),
        ("s/:Customer/:Product/", "the payload does not fit .*Customer"),
        ("s/:Customer/:Kustomer/", "nobody here knows what .*:Kustomer refers to"),
        ("s/key/kee/", 'a reference is {.*:Customer", "key": ...}, not {.*:Customer","kee":1}'),
        ("s/1/null/", 'a reference is .*"key":null}'),
        ("s/1/2/", None),
        ('s/7/7, "to": "me"/', None),  # what the class itself says of a row that isn't loaded counts for nothing
    ],
)
def test_an_edited_payload_with_references_is_checked_without_loading_them(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    event_type: type,
    script: str,
    words: str | None,
) -> None:
    path = tmp_path / "extensions.yaml"
    path.write_text(
        f"""
version: 1
extensions:
  placed:
    event: "{__name__}:{event_type.__name__}"
    handlers: [{{handler: "{__name__}:note", id: later, async: true}}]
"""
    )
    monkeypatch.setenv("VISUAL", f"sed -i '{script}'")
    data = encode_event({"customer": ROWS[Customer, 1], "total": 7}, "placed", registered())
    if words is None:
        edited = edit(with_rows(path), job_of(data))
        assert edited is not None
        assert msgspec.json.decode(edited.event)["customer"]["$reference"] == f"{__name__}:Customer"
        return
    with pytest.raises(RouterError, match="nothing was done, the job stays failed"):
        edit(with_rows(path), job_of(data))
    assert re.search(words, capsys.readouterr().err, re.DOTALL)
