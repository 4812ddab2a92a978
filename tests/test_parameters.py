"""What fits a task's function is what `inspect` says, whichever way it is told."""

import inspect
from itertools import product

import pytest

from djtasks.parameters import Parameters


def nothing():
    pass


def two(a, b):
    pass


def with_default(a, b, c=1):
    pass


def only_defaults(a=1, b=2):
    pass


def keyword_only(a, *, b, c=1):
    pass


def positional_only(a, b=1, /):
    pass


def anything(*args, **kwargs):
    pass


CALLS = [
    (args, {name: 1 for name, given in zip("abcd", names, strict=True) if given})
    for args in ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4))
    for names in product((False, True), repeat=4)
]


def fits(check):
    try:
        check()
    except TypeError:
        return False
    return True


@pytest.mark.parametrize(
    "function", [nothing, two, with_default, only_defaults, keyword_only, positional_only, anything]
)
def test_a_call_fits_exactly_where_python_could_make_it(function):
    parameters = Parameters(inspect.signature(function))
    for args, kwargs in CALLS:
        by_us = fits(lambda args=args, kwargs=kwargs: parameters.check(args, kwargs))
        assert by_us == fits(lambda args=args, kwargs=kwargs: function(*args, **kwargs)), (args, kwargs)


def test_what_does_not_fit_is_told_in_pythons_words():
    with pytest.raises(TypeError, match="missing a required argument: 'b'"):
        Parameters(inspect.signature(two)).check((1,), {})
