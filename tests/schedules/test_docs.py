"""What docs/schedules.md says."""

import doctest
import re
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from djtasks.schedules import clocked, crontab, describe, from_text, schedule, to_text, upcoming

PAGE = Path(__file__).parents[2] / "docs" / "schedules.md"


def test_the_examples_of_the_page_give_what_it_says():
    names = {"clocked": clocked, "crontab": crontab, "schedule": schedule, "upcoming": upcoming}
    names |= {"UTC": UTC, "datetime": datetime, "ZoneInfo": ZoneInfo}
    examples = doctest.DocTestParser().get_doctest(PAGE.read_text(), names, PAGE.name, str(PAGE), 0)
    assert len(examples.examples) == 3
    assert doctest.DocTestRunner().run(examples).failed == 0


def test_the_texts_of_the_page_mean_what_it_says():
    words = [cells for cells in tables_of_texts() if not cells[1].startswith("`")]
    assert len(words) == 9
    for text, told in words:
        made = from_text(text.strip("`"))
        assert to_text(made) == text.strip("`")
        assert describe(made) == told


def test_the_other_texts_of_the_page_are_read_as_it_says():
    loose = [cells for cells in tables_of_texts() if cells[1].startswith("`")]
    assert len(loose) == 11
    for texts, written in loose:
        for text in re.findall("`(.+?)`", texts):
            assert to_text(from_text(text)) == written.strip("`")


def tables_of_texts():
    page = PAGE.read_text().partition("## As text")[2].partition("## Beside Celery")[0]
    lines = [line for line in page.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
