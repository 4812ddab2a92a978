"""The table, for a terminal and for a page."""

from __future__ import annotations

import os
import platform
import re
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from rich.table import Table
from rich.text import Text

from benchmarks.figures import FIGURES, Figure, Plan, ratio, value
from benchmarks.peers import BASELINE
from benchmarks.peers.base import CHILDREN
from benchmarks.rounds import Peers
from tests.servers import Server

PACKAGES: Final = (
    *("djtasks", "Django", "psycopg", "mysqlclient", "PyMySQL", "redis", "hiredis"),
    *("celery", "django-celery-results", "huey", "dramatiq", "procrastinate"),
)
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"


def as_table(peers: Peers) -> Table:
    """The figures, a row each, with a column for each peer."""
    table = Table(title="djtasks and its peers", caption="in brackets: how many times better than Celery")
    table.add_column("")
    for name in peers.entries:
        table.add_column(name, justify="right")
    for title, cells in rows(peers):
        table.add_row(title, *cells)
    return table


def rows(peers: Peers) -> list[tuple[str, list[str]]]:
    """(title, a cell for each peer) of the figures that at least one peer has."""
    found = [(figure, {name: value(figure, peers.rounds[name]) for name in peers.entries}) for figure in FIGURES]
    return [
        (figure.title, [_cell(figure, name, values) for name in peers.entries])
        for figure, values in found
        if any(each is not None for each in values.values())
    ]


def _cell(figure: Figure, name: str, values: dict[str, float | None]) -> str:
    mine = values[name]
    if mine is None:
        return "–"
    text = f"{mine:,.{figure.digits}f}"
    base = next((each for each in BASELINE if values.get(each) is not None), None)
    other = values.get(base) if base else None
    times = ratio(figure, mine, other) if other is not None and name != base else None
    return f"{text} ({times:.1f}×)" if times is not None else text


def notes(peers: Peers) -> list[str]:
    """A line for each peer: its settings, or why it is not measured."""
    return [f"{name}: {_note(peers, name)}" for name in peers.entries]


def _note(peers: Peers, name: str) -> str:
    if name in peers.missing:
        return f"MISSING: {peers.missing[name]}"
    if name in peers.failed:
        return f"FAILED: {peers.failed[name]}"
    return "; ".join(filter(None, (peers.entries[name].note, peers.durability.get(name))))


def as_text(lines: Sequence[str]) -> Text:
    """Lines as they are: rich would take what stands in square brackets for its own."""
    return Text("\n".join(lines))


def markdown(peers: Peers, plan: Plan, rounds: int, servers: Sequence[Server]) -> str:
    """The table with all that one must know of the run."""
    lines = [
        f"{datetime.now(UTC):%-d %B %Y}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}. "
        f"Medians of {rounds} round{'s' if rounds > 1 else ''}; {CHILDREN} processes run jobs; "
        f"{plan.jobs:,} jobs in the drain. In brackets: how many times better than Celery.",
        "",
        f"| | {' | '.join(peers.entries)} |",
        f"| --- |{' ---: |' * len(peers.entries)}",
        *(f"| {title} | {' | '.join(cells)} |" for title, cells in rows(peers)),
        "",
        *(f"- {line}" for line in notes(peers)),
        "",
        f"Versions: {', '.join(_versions(servers))}.",
    ]
    return "\n".join(lines)


def _versions(servers: Sequence[Server]) -> list[str]:
    found = [f"Python {platform.python_version()}", f"SQLite {sqlite3.sqlite_version}"]
    found += [server.version if server.kind != "mariadb" else f"MariaDB {server.version}" for server in servers]
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return found


def write(page: Path, text: str) -> None:
    """Put `text` between the marks of `page`; into a new page if there is none, or none with marks."""
    block = f"{BEGIN}\n{text}\n{END}"
    before = page.read_text(encoding="utf-8") if page.exists() else f"# Benchmarks\n\n{BEGIN}\n{END}\n"
    if BEGIN not in before:
        before += f"\n{BEGIN}\n{END}\n"
    after = re.sub(f"{BEGIN}.*{END}", lambda _: block, before, flags=re.DOTALL)
    page.write_text(after, encoding="utf-8")
