"""What arguments and results may be made of, and what becomes of what they may not."""

import json
import sys
import uuid
from collections import OrderedDict, defaultdict, namedtuple
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import pytest
from django.contrib.auth.models import Group, User
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from djtasks import encoding
from djtasks.encoding import ModelReference
from djtasks.exceptions import MalformedMessage
from djtasks.models import Job


def round_trip(value, *, tuples=True):
    text = encoding.encode(value, tuples=tuples)
    assert text.isascii()
    return encoding.decode(text)


# Round trips

VALUES = [
    None,
    True,
    0,
    -(2**70),
    1.5,
    float("inf"),
    "",
    "ünï ✓ 图",
    [],
    {},
    [1, [2, [3]]],
    {"a": {"b": [None]}},
    datetime(2026, 1, 2, 3, 4, 5, 678901),
    datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    datetime(2026, 7, 2, 3, 4, tzinfo=ZoneInfo("Asia/Kathmandu")),
    datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=-3, minutes=-30, seconds=-15))),
    date(2026, 2, 28),
    time(23, 59, 59, 999999),
    time(1, tzinfo=UTC),
    timedelta(days=-3, seconds=7, microseconds=9),
    Decimal("1.10"),
    Decimal("-0"),
    Decimal("Infinity"),
    uuid.UUID(int=5),
    b"",
    bytes(range(256)),
    {1, "a", None},
    frozenset({(1, 2), frozenset({3})}),
    (1, (2, [3, (4,)])),
    {"key": (1, {"deep": {date(2026, 1, 1)}})},
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_comes_back_as_it_was_and_of_its_type(value):
    back = round_trip(value)
    assert back == value
    assert type(back) is type(value)


def test_an_aware_time_keeps_its_offset():
    moment = datetime(2026, 7, 2, 3, 4, tzinfo=ZoneInfo("Asia/Kathmandu"))
    assert round_trip(moment).utcoffset() == timedelta(hours=5, minutes=45)


def test_not_a_number_comes_back():
    assert str(round_trip(float("nan"))) == "nan"
    assert round_trip(Decimal("NaN")).is_nan()


@pytest.mark.parametrize(
    "value",
    [
        {1: "int", "1": "text"},
        {None: 1, True: 2},
        {(1, (2, "x")): "tuple", frozenset({1}): "frozenset"},
        {date(2026, 1, 1): 1, uuid.UUID(int=1): 2, 1.5: 3, b"x": 4},
        {"$": "datetime", "v": "not a datetime"},
        {"$": {"$": {"$": 1}}},
        {"v": 1},
        {"": 0, "\0": 1},
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("tuples", [True, False])
def test_a_dict_with_odd_keys_comes_back(value, tuples):
    assert round_trip(value, tuples=tuples) == value


def test_tuples_are_kept_in_arguments_and_become_lists_in_results():
    args, kwargs = encoding.encode_arguments(((1, 2),), {"pair": (3, (4,))})
    assert encoding.decode_arguments(args, kwargs) == ([(1, 2)], {"pair": (3, (4,))})
    assert round_trip({"pair": (3, (4,))}, tuples=False) == {"pair": [3, [4]]}


def test_keys_and_elements_of_sets_stay_tuples_in_results_too():
    assert round_trip([{(1, 2): (3,)}, {(4, 5)}], tuples=False) == [{(1, 2): [3]}, {(4, 5)}]


def test_what_is_nearly_a_plain_value_becomes_one():
    class Colour(StrEnum):
        RED = "red"

    class Size(IntEnum):
        BIG = 3

    class Text(str):
        pass

    Point = namedtuple("Point", "x y")
    value = [Colour.RED, Size.BIG, Text("t"), mark_safe("<b>"), gettext_lazy("Yes"), Point(1, 2)]
    assert round_trip(value) == ["red", 3, "t", "<b>", "Yes", (1, 2)]
    assert round_trip([OrderedDict(a=1), defaultdict(list, b=[2])]) == [{"a": 1}, {"b": [2]}]
    assert round_trip([bytearray(b"x"), memoryview(b"y")]) == [b"x", b"y"]


def test_nul_and_lone_surrogates_travel_escaped():
    assert round_trip("a\0b \ud800 \udfff") == "a\0b \ud800 \udfff"
    assert "\0" not in encoding.encode("a\0b")


def test_an_empty_call_is_the_shortest_text():
    assert encoding.encode_arguments((), {}) == ("[]", "{}")
    assert encoding.decode_arguments("[]", "{}") == ([], {})


def test_plain_text_is_fit_for_every_database():
    assert encoding.plain_text("a\0b\ud800ü") == "a\\x00b\\ud800ü"


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(alphabet=st.characters(exclude_categories=()))
    | st.binary()
    | st.datetimes(timezones=st.none() | st.just(UTC))
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
)
KEYS = SCALARS | st.tuples(SCALARS, SCALARS) | st.frozensets(SCALARS, max_size=3)
ANYTHING = st.recursive(
    SCALARS | st.sets(KEYS, max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.dictionaries(st.sampled_from(["$", "v", "a"]), inner)
    ),
    max_leaves=10,
)


@given(ANYTHING)
@hypothesis_settings(max_examples=150, deadline=None)
def test_whatever_can_be_written_comes_back(value):
    assert round_trip(value) == value


# Instances of models


@pytest.fixture
def group(db):
    return Group.objects.create(name="staff")


def test_an_instance_travels_by_reference_and_comes_as_the_database_has_it(group):
    text = encoding.encode([group])
    Group.objects.filter(pk=group.pk).update(name="renamed")
    (back,) = encoding.decode(text)
    assert (back, back.name) == (group, "renamed")
    assert "staff" not in text


def test_an_instance_may_be_a_key_or_stand_in_a_set(group):
    assert round_trip({group: [{group}]}) == {group: [{group}]}


def test_an_instance_that_is_gone_is_its_own_error(group):
    text = encoding.encode(group)
    Group.objects.all().delete()
    with pytest.raises(Group.DoesNotExist):
        encoding.decode(text)


def test_without_fetching_an_instance_stands_as_its_reference(group):
    reference = encoding.decode(encoding.encode(group), fetch=False)
    assert reference == ModelReference("auth.group", group.pk, "default")
    assert repr(reference) == f"<auth.group pk={group.pk}>"


def test_an_unsaved_instance_is_refused():
    with pytest.raises(TypeError, match=r"args\[0\] is an unsaved Group; save it"):
        encoding.encode_arguments((Group(),), {})


def test_a_queryset_is_refused_with_a_hint():
    with pytest.raises(TypeError, match=r"QuerySet, which JSON cannot carry; pass the primary keys, or a list"):
        encoding.encode_arguments((User.objects.all(),), {})


def test_a_reference_keeps_its_database_and_key(database):
    job = Job(id="with spaces é", task="x", queue="q")
    job.save(using=database)
    assert round_trip(job) == job


@pytest.mark.parametrize(
    "value", [["no.such", 1, None], ["auth.group", 1, "nowhere"], [5, 1, None], ["auth.group", {}, None], [], "ab"]
)
def test_a_reference_to_nothing_is_malformed(value, db):
    with pytest.raises(MalformedMessage):
        encoding.decode(json.dumps({"$": "model", "v": value}))


# Refusals


class Colour(Enum):
    RED = 1


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((1, object()), {}, r"args\[1\] is of type object, which JSON cannot carry"),
        ((), {"when": [1, {"x": 1j}]}, r"kwargs\['when'\]\[1\]\['x'\] is of type complex"),
        ((Colour.RED,), {}, r"args\[0\] is of type test_encoding\.Colour|tests\.test_encoding\.Colour"),
        ((lambda: None,), {}, r"args\[0\] is of type function"),
        ((ValueError("x"),), {}, r"args\[0\] is of type ValueError"),
        (({1: {2: print}},), {}, r"args\[0\]\[1\]\[2\] is of type builtin_function_or_method"),
        (({Colour.RED: 1},), {}, r"key .*RED.* of args\[0\] is of type"),
        (({Colour.RED},), {}, r"args\[0\]\[0\] is of type"),
        ((iter([]),), {}, r"args\[0\] is of type list_iterator"),
    ],
)
def test_what_json_cannot_carry_is_a_type_error_that_names_place_and_type(args, kwargs, message):
    with pytest.raises(TypeError, match=message):
        encoding.encode_arguments(args, kwargs)


def test_a_list_that_contains_itself_is_refused():
    loop = []
    loop.append(loop)
    with pytest.raises(TypeError, match="args is nested too deeply, or contains itself"):
        encoding.encode_arguments((loop,), {})


def test_nesting_beyond_all_reason_is_refused_and_what_is_accepted_comes_back():
    def nested(depth):
        value = []
        for _ in range(depth):
            value = [value]
        return value

    with pytest.raises(TypeError, match="nested too deeply"):
        encoding.encode(nested(sys.getrecursionlimit() + 10))
    assert round_trip(nested(100)) == nested(100)


def test_a_number_of_thousands_of_digits_is_refused():
    with pytest.raises(TypeError, match="args cannot be written as JSON: Exceeds the limit"):
        encoding.encode_arguments((10**5000,), {})


# Dataclasses and pydantic


@dataclass(frozen=True)
class Address:
    street: str
    since: date


@dataclass
class Person:
    name: str
    home: Address
    others: list[Address] = field(default_factory=list)
    initial: str = field(init=False)

    def __post_init__(self):
        self.initial = self.name[0]


HOME = Address("Lane 1", date(2020, 1, 1))
ANN = Person("Ann", HOME, [HOME])


def converted(function, *args, **kwargs):
    """What `function` would get of these arguments after their journey."""
    found = encoding.converters(function)
    positional, keywords = encoding.decode_arguments(*encoding.encode_arguments(args, kwargs))
    names = function.__code__.co_varnames
    given = dict(zip(names, positional, strict=False)) | keywords
    return {name: found[name](value) if name in found else value for name, value in given.items()}


def test_a_dataclass_comes_as_a_dict_where_nothing_says_what_it_was():
    assert round_trip(HOME) == {"street": "Lane 1", "since": date(2020, 1, 1)}


def test_a_dataclass_comes_back_where_it_is_annotated_also_inside_another():
    def take(person: Person, plain, text: str):
        pass

    assert converted(take, ANN, HOME, "x") == {
        "person": ANN,
        "plain": {"street": "Lane 1", "since": date(2020, 1, 1)},
        "text": "x",
    }


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (Address | None, HOME),
        (Address | None, None),
        (Annotated[Address, "note"], HOME),
        (list[Address], [HOME, HOME]),
        (tuple[Address, ...], (HOME,)),
        (dict[str, Address], {"a": HOME}),
        (dict[str, list[Address | None]], {"a": [HOME, None]}),
        (list[Address] | None, [HOME]),
        (dict[str, Any], {"a": 1}),
        (Any, 1),
    ],
    ids=str,
)
def test_an_annotation_may_be_a_container_or_a_union(hint, value):
    def take(x):
        pass

    take.__annotations__["x"] = hint
    assert converted(take, value) == {"x": value}


def test_an_annotation_that_only_type_checkers_know_converts_nothing():
    def take(x: "NoSuchName"):  # noqa: F821
        pass

    assert encoding.converters(take) == {}


def test_a_dataclass_cannot_be_a_key_since_it_would_come_back_as_a_dict():
    with pytest.raises(TypeError, match="key Address"):
        encoding.encode({HOME: 1})
    with pytest.raises(TypeError, match=r"value\[0\] is of type"):
        encoding.encode({HOME})


def test_a_pydantic_model_comes_back_where_it_is_annotated():
    pydantic = pytest.importorskip("pydantic")

    class Item(pydantic.BaseModel):
        name: str
        price: Decimal
        tags: set[str] = set()

    def take(item: Item, items: list[Item]):
        pass

    item = Item(name="a", price="1.50", tags={"x"})
    assert converted(take, item, [item]) == {"item": item, "items": [item]}
    with pytest.raises(pydantic.ValidationError):
        encoding.converters(take)["item"]({"name": 5})


# What comes from elsewhere


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no json",
        "[1",
        '{"$": "no such type", "v": 1}',
        '{"$": "datetime"}',
        '{"$": "datetime", "v": "yesterday"}',
        '{"$": "uuid", "v": 5}',
        '{"$": "set", "v": [[]]}',
        '{"$": "timedelta", "v": [1e300]}',
        '{"$": "decimal", "v": "x"}',
        '{"$": "bytes", "v": "%"}',
        '{"$": ["list"], "v": 1}',
        "[" * 100_000,
        "9" * 5000,
    ],
    ids=lambda text: text[:30],
)
def test_text_that_is_none_of_ours_is_malformed(text):
    with pytest.raises(MalformedMessage, match="not a value of ours"):
        encoding.decode(text)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ("{}", "{}", "args must be a list, not dict"),
        ("[]", "[]", "kwargs must be an object"),
        ('"text"', "{}", "args must be a list, not str"),
        ("[]", '{"$":"dict","v":[[1,2]]}', "kwargs must be an object with text keys"),
    ],
)
def test_arguments_of_the_wrong_shape_are_malformed(args, kwargs, message):
    with pytest.raises(MalformedMessage, match=message):
        encoding.decode_arguments(args, kwargs)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.fixed_dictionaries({"$": st.sampled_from(sorted(encoding._READERS)), "v": inner})
        | st.fixed_dictionaries({"$": inner, "v": inner})
    ),
    max_leaves=8,
)


@given(JSON.map(json.dumps) | st.text(max_size=20))
@hypothesis_settings(max_examples=300, deadline=None)
def test_whatever_stands_in_the_queue_only_malformed_comes_out(text):
    with suppress(MalformedMessage):
        encoding.decode(text, fetch=False)
