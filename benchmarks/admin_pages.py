"""How long the admin's pages take with millions of jobs.

`python -m benchmarks.admin_pages --rows N --database postgresql`
The database djtasks_bench_pages is made for the run and removed after it, unless `--keep` leaves it for the next run;
for SQLite it is a file in a temporary folder.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import django
import psycopg
from django.apps import apps
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext, setup_test_environment
from rich.console import Console
from rich.table import Table

from tests import servers

NAME: Final = "djtasks_bench_pages"
ROWS: Final = {"postgresql": 5_000_000, "sqlite": 500_000}
TIMES: Final = 5  # GETs of each page, of which the median counts
ALLOWED: Final = 0.3  # seconds
LIST: Final = "/admin/djtasks/job/"
PAGES: Final = (
    "/admin/djtasks/",
    *(
        f"{LIST}{query}"
        for query in (
            "", "?state=FAILURE", "?state=SUCCESS", "?state=PENDING", "?state=IGNORED", "?queue=rare", "?queue=nowhere",
            "?task=bench.tasks.common", "?task=bench.tasks.rare", "?task=bench.tasks.common&state=FAILURE",
            "?task=bench.tasks.common&queue=rare", "?state=SUCCESS&queue=rare", "?worker=w1", "?longer=0.98",
            "?enqueued=1h", "?ended_from=2026-01-01T00:00", "?q=order+17", "?q=nothing+like+it",
            "?q=nothing+like+it&state=SUCCESS", "all_jobs/retry/?state=FAILURE", "all_jobs/delete/",
            "all_jobs/retry/?queue=nowhere",
        )
    ),
    "/admin/djtasks/queue/", "/admin/djtasks/queue/default/change/", "/admin/djtasks/queue/default/change/?offset=9900",
    "/admin/djtasks/queue/default/change/?scheduled=1", "/admin/djtasks/queue/default/move/",
    "/admin/djtasks/task/", "/admin/djtasks/task/bench.tasks.common/change/", "/admin/djtasks/worker/",
    "/admin/djtasks/periodictask/", "/admin/djtasks/limit/",
)  # fmt: skip
NUMBERS: Final = {
    "postgresql": "generate_series(1, {rows}) AS numbers(i)",
    "sqlite": "(WITH RECURSIVE count(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM count WHERE i < {rows}) "
    "SELECT i FROM count)",
}
# A job each 0.2 s up to now, its id in the order of its time. The last tenth waits; of the others one in 500 failed.
COLUMNS: Final[Mapping[str, str]] = {
    "id": "{id}",
    "task": "CASE WHEN i % 10000 = 0 THEN 'bench.tasks.rare' WHEN i % 3 = 0 THEN 'bench.tasks.common' "
    "ELSE 'bench.tasks.other' END",
    "queue": "CASE WHEN i % 50000 = 0 THEN 'rare' ELSE 'default' END",
    "state": "CASE WHEN {waits} THEN 'PENDING' WHEN i % 500 = 0 THEN 'FAILURE' ELSE 'SUCCESS' END",
    "order_key": "i",
    "args": "'[' || i || ',\"order ' || i || '\"]'",
    "kwargs": '\'{{"customer":"c\' || (i % 977) || \'","express":true}}\'',
    "created_at": "{created}",
    "started_at": "CASE WHEN {waits} THEN NULL ELSE {created} END",
    "finished_at": "CASE WHEN {waits} THEN NULL ELSE {created} END",
    "seconds": "CASE WHEN {waits} THEN NULL ELSE (i % 100) / 100.0 END",
    "token": "CASE WHEN {waits} THEN 0 ELSE 1 END",
    "worker": "CASE WHEN {waits} THEN '' ELSE 'w' || (i % 4) || '.1' END",
    "result": "CASE WHEN {waits} OR i % 500 = 0 THEN NULL ELSE '{{\"rows\":20000}}' END",
    "exception": "CASE WHEN NOT ({waits}) AND i % 500 = 0 THEN 'shop.OutOfStock' ELSE '' END",
    "exception_message": "CASE WHEN NOT ({waits}) AND i % 500 = 0 THEN 'a bottle is sold out' END",
    "headers": "'{{}}'",
    "options": "'{{}}'",
}
WORDS: Final = {
    "postgresql": {
        "id": "lpad(to_hex(CAST({now} AS bigint) * 1000 - ({rows} - i) * CAST(200 AS bigint)), 12, '0') "
        "|| '-7abc-8000-' || lpad(to_hex(i), 12, '0')",
        "created": "to_timestamp({now}) - ({rows} - i) * interval '200 ms'",
    },
    "sqlite": {
        "id": "printf('%012x-7abc-8000-%012x', {now} * 1000 - ({rows} - i) * 200, i)",
        "created": "strftime('%Y-%m-%d %H:%M:%f', {now} - ({rows} - i) * 0.2, 'unixepoch')",
    },
}


def main() -> int:
    """Fill a database, time the pages, print a table. Returns the exit code: 1 if a page took longer than it may."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.admin_pages", description=__doc__)
    parser.add_argument("--database", choices=tuple(ROWS), default="postgresql")
    parser.add_argument("--rows", type=int, help=f"Jobs. Default: {ROWS}")
    parser.add_argument("--keep", action="store_true", help="Leave the rows on the server, or take those left there.")
    given = parser.parse_args()
    rows, console = given.rows or ROWS[given.database], Console()
    with tempfile.TemporaryDirectory() as folder, _database(given.database, Path(folder), keeps=given.keep):
        began = time.monotonic()
        if not apps.get_model("djtasks.Job").objects.exists():
            _fill(rows)
        console.print(f"{rows:,} jobs in {time.monotonic() - began:.0f} s")
        measured = list(_measure())
    table = Table("page", "ms", "queries")
    for page, seconds, queries in measured:
        table.add_row(page, f"{seconds * 1000:.0f}", str(queries), style="red" if seconds > ALLOWED else "")
    console.print(table)
    return int(any(seconds > ALLOWED for _page, seconds, _queries in measured))


@contextmanager
def _database(kind: str, folder: Path, *, keeps: bool) -> Iterator[None]:
    """The demo site on a database of `kind`, empty unless one was kept."""
    server = servers.find(kind) if kind != "sqlite" else None
    if isinstance(server, servers.Missing):
        raise SystemExit(f"{server.reason} {server.remedy}")
    os.environ |= {"DJANGO_SETTINGS_MODULE": "demo_project.settings", "SECRET_KEY": "bench", "DEBUG": "false"}
    os.environ["DATABASE_URL"] = (
        f"sqlite:///{folder / 'pages.sqlite3'}" if server is None else f"{server.url.rpartition('/')[0]}/{NAME}"
    )
    if server is not None and not (keeps and _is_on(server)):
        _on_server(server, f"DROP DATABASE IF EXISTS {NAME} WITH (FORCE)", f"CREATE DATABASE {NAME}")
    try:
        django.setup()
        setup_test_environment(debug=False)
        call_command("migrate", verbosity=0)
        yield
    finally:
        connection.close()
        if server is not None and not keeps:
            _on_server(server, f"DROP DATABASE {NAME} WITH (FORCE)")


def _is_on(server: servers.Server) -> bool:
    with psycopg.connect(server.url) as login:
        return login.execute("SELECT 1 FROM pg_database WHERE datname = %s", (NAME,)).fetchone() is not None


def _on_server(server: servers.Server, *statements: str) -> None:
    with psycopg.connect(server.url, autocommit=True) as login:
        for statement in statements:
            login.execute(statement)


def _fill(rows: int) -> None:
    words: dict[str, Any] = {"rows": rows, "now": int(time.time())}
    for name, text in WORDS[connection.vendor].items():
        words[name] = text.format(**words)
    words["waits"] = f"i > {rows - rows // 10}"
    values = ", ".join(text.format(**words) for text in COLUMNS.values())
    source = NUMBERS[connection.vendor].format(**words)
    defaults = "priority, rank, losses, refusals, retries, acked_early, revoked, enqueued_by, version"
    others = "0, 0, 0, 0, 0, false, false, '', 1"
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO djtasks_job ({', '.join(COLUMNS)}, {defaults}) SELECT {values}, {others} FROM {source}"
        )
        cursor.execute("VACUUM ANALYZE djtasks_job" if connection.vendor == "postgresql" else "ANALYZE")


def _measure() -> Iterator[tuple[str, float, int]]:
    """Each page, the median of its times in seconds, and how many queries it made."""
    users = apps.get_model("auth.User").objects
    user = users.filter(username="bench").first() or users.create_superuser("bench")
    client = Client()
    client.force_login(user)
    job = apps.get_model("djtasks.Job").objects.filter(state="FAILURE").latest("id").pk
    for page in (*PAGES, f"{LIST}{job}/change/", f"{LIST}{job}/again/"):
        seconds = []
        for _ in range(TIMES):
            began = time.perf_counter()
            response = client.get(page)
            seconds.append(time.perf_counter() - began)
            if response.status_code != 200:
                raise SystemExit(f"{page} answers {response.status_code}.")
        with CaptureQueriesContext(connection) as queries:
            client.get(page)
        yield page.replace(str(job), "…"), statistics.median(seconds), len(queries)


if __name__ == "__main__":
    raise SystemExit(main())
