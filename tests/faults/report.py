"""What came of a run, for people: as text and as a page of Markdown."""

from __future__ import annotations

import os
import platform
import re
import sqlite3
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

from tests.faults.plan import Figures, Report

TITLES = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mariadb": "MariaDB", "redis": "Redis, results in PostgreSQL"}


def as_text(report: Report) -> str:
    """All figures, and what was wrong."""
    width = max(map(len, report.figures), default=10)
    lines = [
        f"{TITLES[report.plan.broker]} ({report.store}), seed {report.plan.seed}, "
        f"{report.plan.seconds:.0f} s of faults, WORKER_LOST_AFTER {report.plan.pace.lost_after:g} s",
        "",
        f"{'fault':{width}}  times  recovery p50    max",
        *(f"{kind:{width}}  {_columns(each)}" for kind, each in sorted(report.figures.items())),
        "",
        *(f"{name:{width}}  {count:5}" for name, count in _counts(report)),
        "",
        *([f"PROBLEM {problem}" for problem in report.verdict.problems] or ["nothing was lost, all is as it must be"]),
    ]
    if report.folder:
        lines.append(f"logs, ledger and journal: {report.folder}")
    return "\n".join(lines)


def _columns(figures: Figures) -> str:
    if not figures.seconds:
        return f"{figures.struck or '':>5}"
    return f"{figures.struck or '':>5}  {median(figures.seconds):10.1f} s  {max(figures.seconds):4.1f} s"


def _counts(report: Report) -> list[tuple[str, int]]:
    verdict = report.verdict
    return [
        ("jobs accepted", verdict.accepted),
        ("sends refused, with an error", verdict.refused),
        ("jobs stored whose sender got no answer", verdict.unconfirmed),
        ("lost", verdict.lost),
        *((f"run twice: {cause}", count) for cause, count in sorted(verdict.twice.items())),
        ("given up after three deaths of its process", verdict.given_up),
        ("begun, not repeated (acks_late=False)", verdict.ended_early),
    ]


def markdown(report: Report) -> str:
    """The figures with all that one must know of the run."""
    rows = [
        f"| {kind} | {each.struck or ''} | {_seconds(each, median)} | {_seconds(each, max)} |"
        for kind, each in sorted(report.figures.items())
    ]
    return "\n".join(
        [
            f"### {TITLES[report.plan.broker]}",
            "",
            f"{datetime.now(UTC):%-d %B %Y}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}; "
            f"{_versions(report)}. {report.plan.seconds:.0f} s of faults with seed {report.plan.seed}, "
            f"{report.plan.rate:g} sends a second, `WORKER_LOST_AFTER` {report.plan.pace.lost_after:g} s.",
            "",
            "| jobs | |",
            "| --- | ---: |",
            *(f"| {name} | {count:,} |" for name, count in _counts(report)),
            "",
            "| fault | times | recovery, median | longest |",
            "| --- | ---: | ---: | ---: |",
            *rows,
            *(f"\nPROBLEM: {problem}" for problem in report.verdict.problems),
        ]
    )


def _seconds(figures: Figures, of: object) -> str:
    return f"{of(figures.seconds):.1f} s" if figures.seconds and callable(of) else ""


def _versions(report: Report) -> str:
    store = report.store if report.plan.broker != "sqlite" else f"SQLite {sqlite3.sqlite_version}"
    packages = [f"{name} {version(name)}" for name in ("Django", "djtasks")]
    return ", ".join([store, f"Python {platform.python_version()}", *packages])


def write(page: Path, report: Report) -> None:
    """Put the figures between the marks of this broker in `page`, or at its end."""
    begin, end = (f"<!-- {word} of the fault harness: {report.plan.broker} -->" for word in ("begin", "end"))
    block = f"{begin}\n{markdown(report)}\n{end}"
    before = page.read_text(encoding="utf-8") if page.exists() else "# Reliability\n"
    if begin not in before:
        before += f"\n{begin}\n{end}\n"
    after = re.sub(f"{re.escape(begin)}.*{re.escape(end)}", lambda _: block, before, flags=re.DOTALL)
    page.write_text(after, encoding="utf-8")
