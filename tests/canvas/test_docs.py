"""The examples of docs/canvas.md."""

import doctest
from pathlib import Path

from djtasks import chain, chord, group, registry, shared_task, signature
from djtasks.testing import eager

PAGE = Path(__file__).parents[2] / "docs" / "canvas.md"


def test_the_examples_of_the_page_give_what_it_says(own_tasks):
    @shared_task(name="shop.tasks.add")
    def add(x, y):
        return x + y

    @shared_task(name="shop.tasks.total")
    def total(numbers):
        return sum(numbers)

    @shared_task(name="shop.tasks.report")
    def report(request, exc, traceback):
        pass

    names = {"chain": chain, "chord": chord, "group": group, "signature": signature}
    names |= {"add": add, "total": total, "report": report}
    text = PAGE.read_text().replace("\n```", "\n\n")  # for doctest, an empty line ends what is expected
    examples = doctest.DocTestParser().get_doctest(text, names, PAGE.name, str(PAGE), 0)
    with eager():
        assert doctest.DocTestRunner().run(examples).failed == 0
    assert len(examples.examples) > 20
    assert registry.find("shop.tasks.add") is not None
