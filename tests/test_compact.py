"""JSON without blanks: the same as the json module writes and reads, with less ado."""

import json
from datetime import datetime
from json import encoder
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from djtasks import compact

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_what_is_written_is_what_json_writes_and_reads_back(value):
    text = compact.writer()(value)
    assert text == json.dumps(value, separators=(",", ":"))
    assert compact.read(text) == compact.read(text.encode()) == value


@pytest.mark.parametrize("make", [encoder.c_make_encoder, None, lambda: None])
def test_it_is_written_alike_where_json_has_no_such_encoder(make, monkeypatch):
    ours = SimpleNamespace(c_make_encoder=make, encode_basestring_ascii=encoder.encode_basestring_ascii)
    monkeypatch.setattr(compact, "_encoder", ours)
    write = compact.writer(datetime.isoformat)
    assert write({"é": [1, datetime(2026, 11, 22), None]}) == '{"\\u00e9":[1,"2026-11-22T00:00:00",null]}'
    with pytest.raises(TypeError):
        write({1, 2})


@pytest.mark.parametrize("text", [" [1]", "[1]\n", b"\n[1] "])
def test_blanks_around_it_do_no_harm(text):
    assert compact.read(text) == [1]


@pytest.mark.parametrize("text", ["", "[1", "[1]]", "\ufeff[1]", b"\xff", "{'a': 1}"])
def test_what_is_no_json_is_a_value_error(text):
    with pytest.raises((json.JSONDecodeError, UnicodeDecodeError)):  # as json.loads has it
        compact.read(text)


def test_what_contains_itself_is_refused():
    circle = []
    circle.append(circle)
    with pytest.raises(RecursionError):
        compact.writer()(circle)
