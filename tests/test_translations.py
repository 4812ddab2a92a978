"""The catalogues of translations: complete, compiled, and seen on the pages."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from gettext import GNUTranslations
from pathlib import Path

import pytest
from django.test import Client
from django.urls import reverse
from django.utils.translation import override

import djtasks
from djtasks.models import PeriodicTask
from djtasks.schedules import crontab
from djtasks.schedules.description import describe

CATALOGUES = sorted((Path(djtasks.__file__).parent / "locale").glob("*/LC_MESSAGES/django.po"))
FIELD = re.compile(r'^(msg\w+)(?:\[\d\])? ((?:".*"\n?)+)', re.MULTILINE)
TO_KEEP = re.compile(r"%\(\w+\)[sd]|%[sd]|\{\w*\}|<[^>]+>")  # what is filled in, and tags


@dataclass(frozen=True)
class Entry:
    """One text of the code and what it is in a language; one that is counted has several."""

    fuzzy: bool
    context: str
    text: str
    plural: str
    translations: tuple[str, ...]


def read(catalogue: Path) -> list[Entry]:
    """The entries of a .po file, without its head."""
    blocks = catalogue.read_text(encoding="utf-8").split("\n\n")[1:]
    return [read_entry(block) for block in blocks if not block.startswith("#~")]


def read_entry(block: str) -> Entry:
    fields: dict[str, list[str]] = {}
    for name, lines in FIELD.findall(block):
        fields.setdefault(name, []).append("".join(ast.literal_eval(line) for line in lines.splitlines()))
    one = {name: texts[0] for name, texts in fields.items()}
    fuzzy = re.search(r"^#,.*\bfuzzy\b", block, re.MULTILINE) is not None
    return Entry(fuzzy, one.get("msgctxt", ""), one["msgid"], one.get("msgid_plural", ""), tuple(fields["msgstr"]))


def shown(texts: GNUTranslations, entry: Entry) -> str:
    """What a page has for it."""
    if entry.plural:
        return texts.ngettext(entry.text, entry.plural, 1)
    return texts.pgettext(entry.context, entry.text) if entry.context else texts.gettext(entry.text)


def test_there_is_a_korean_catalogue():
    assert "ko" in {catalogue.parts[-3] for catalogue in CATALOGUES}


@pytest.fixture(params=CATALOGUES, ids=lambda catalogue: catalogue.parts[-3])
def catalogue(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_each_entry_is_translated(catalogue: Path):
    entries = read(catalogue)
    assert len(entries) > 500
    assert [each.text for each in entries if each.fuzzy or not all(each.translations)] == []


def test_a_translation_keeps_what_is_filled_in_and_the_tags(catalogue: Path):
    for entry in read(catalogue):
        kept = [sorted(TO_KEEP.findall(text)) for text in entry.translations]
        assert set(map(tuple, kept)) == {tuple(sorted(TO_KEEP.findall(entry.plural or entry.text)))}, entry.text


def test_a_translation_that_is_put_into_another_keeps_its_spaces(catalogue: Path):
    for entry in read(catalogue):
        for text in entry.translations:
            assert text.startswith(" ") == entry.text.startswith(" "), entry.text


def test_the_compiled_catalogue_is_that_of_the_texts(catalogue: Path):
    with catalogue.with_suffix(".mo").open("rb") as file:
        texts = GNUTranslations(file)
    for entry in read(catalogue):
        assert shown(texts, entry) in entry.translations, f"{entry.text}: run compilemessages"


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (crontab(15), "매시 15분에"),
        (crontab("*/5", "9-17", day_of_week="mon-fri"), "평일 09:00부터 17:55까지 5분마다"),
        (crontab(0, 9, day_of_week="mon", month_of_year=7), "7월에 매주 월요일 09:00에"),
        (crontab(30, "9,17", month_of_year=7), "7월에 매일 09:30, 17:30에"),
        (crontab(0, 0, day_of_month="1,15"), "매월 1일, 15일 00:00에"),
    ],
)
def test_a_schedule_is_told_in_the_order_of_the_language(schedule: crontab, words: str):
    with override("ko"):
        assert describe(schedule) == words


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("job", ("백그라운드 작업", "선택한 작업 재시도", "최근 1시간", "일치하는 작업 0개")),
        ("queue", ("작업이 있거나 일시 중지된 큐가 없습니다.",)),
        ("worker", ("활성", "유실", "중지됨")),
        ("periodictask", ("선택한 스케줄 지금 실행",)),
    ],
)
@pytest.mark.django_db
def test_the_admin_speaks_korean(admin_client: Client, model: str, words: tuple[str, ...]):
    with override("ko"):
        page = admin_client.get(reverse(f"admin:djtasks_{model}_changelist")).content.decode()
    assert [each for each in words if each not in page] == []


def test_what_is_wrong_with_a_schedule_is_said_in_the_language_of_the_page():
    row = PeriodicTask(name="nightly", task="a.b", schedule="61 * * * *")
    with override("ko"):
        assert row.problems()["schedule"] == "minute: 61은(는) 범위를 벗어났습니다. 범위는 0부터 59까지입니다."
    with override("en"):
        assert row.problems()["schedule"] == "minute: 61 is out of range, which is 0 to 59."
