"""What stands in the place of passwords and tokens."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from djtasks import masking
from djtasks.masking import MASK


def pay(order: int, api_key: str, *tokens: str, note: str = "") -> None: ...


def test_keyword_arguments_with_a_sensitive_name_are_masked() -> None:
    assert masking.masked_arguments([], {"password": "x", "order": 7}) == ([], {"password": MASK, "order": 7})


@pytest.mark.parametrize("name", ["PASSWORD", "new_password", "apiToken", "client_secret_2"])
def test_a_name_is_sensitive_if_it_contains_a_word_in_whatever_case(name: str) -> None:
    assert masking.masked({name: "x"}) == {name: MASK}


def test_keys_are_masked_however_deep() -> None:
    value = {"a": [1, ({"secret": {"deep": 1}, "b": (2,)},)]}
    assert masking.masked(value) == {"a": [1, ({"secret": MASK, "b": (2,)},)]}


def test_dicts_among_the_positional_arguments_are_searched() -> None:
    assert masking.masked_arguments([1, {"token": "x"}], {}) == ([1, {"token": MASK}], {})


def test_keys_that_are_no_text_are_read_as_text() -> None:
    assert masking.masked({1: "a", ("token", 2): "b"}) == {1: "a", ("token", 2): MASK}


def test_positional_arguments_are_masked_by_the_name_of_their_parameter() -> None:
    args, _ = masking.masked_arguments([7, "k", "t1", "t2"], {}, inspect.signature(pay))
    assert args == [7, MASK, MASK, MASK]


def test_more_arguments_than_parameters_have_no_name() -> None:
    signature = inspect.signature(lambda a: None)
    assert masking.positional_names(2, signature) == ["a", None]
    assert masking.masked_arguments([1, 2], {}, signature) == ([1, 2], {})


def test_what_is_given_stays_as_it_was() -> None:
    kwargs = {"a": {"password": "x"}}
    masking.masked_arguments([], kwargs)
    assert kwargs == {"a": {"password": "x"}}


def test_what_lies_too_deep_to_be_searched_is_masked() -> None:
    value: Any = {"password": "x"}
    for _ in range(5000):
        value = [value]
    assert "x" not in repr(_unwrapped(masking.masked(value)))


def _unwrapped(value: Any) -> Any:
    while isinstance(value, list):
        (value,) = value
    return value


def test_the_setting_says_which_words(settings: Any) -> None:
    settings.DJTASKS = {**getattr(settings, "DJTASKS", {}), "TASK_SENSITIVE_ARGUMENTS": ["iban"]}
    assert masking.masked({"IBAN": 1, "password": 2}) == {"IBAN": MASK, "password": 2}


@pytest.mark.parametrize("text", ['{"PassWord": ', "token=abc"])
def test_text_that_cannot_be_read_is_masked_as_a_whole_if_a_word_is_in_it(text: str) -> None:
    assert masking.masked_text(text) == MASK


def test_a_word_is_found_in_text_that_json_has_escaped(settings: Any) -> None:
    settings.DJTASKS = {**getattr(settings, "DJTASKS", {}), "TASK_SENSITIVE_ARGUMENTS": ["암호"]}
    assert masking.masked_text('{"\\uc554\\ud638": 1') == MASK
    assert masking.masked_text("[1, ") == "[1, "


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:pass@host:6379/0?password=pass",
        "redis://:pa/pass@host/7",
        "redis://:pa#pass@host/7",
        "redis://:pa?pass@host/7",
        "redis://:pa[pass@host/7",
        "redis://host/0?password=a@pass",
        "rediss+sentinel://h1:1,h2:2/0?service=x&sentinel_password=pass",
        "redis://:pa@pass@host/7",
        "sentinel://:pass@a;sentinel://:pass@b",
    ],
)
def test_no_password_of_a_url_is_shown_however_malformed_it_is(url: str) -> None:
    shown = masking.masked_url(url)
    assert "pass" not in shown.replace("password=", "")
    assert MASK in shown
