"""How long the admin's pages take with millions of jobs.

`python -m benchmarks.admin_pages --rows N --database postgresql`
The database djtasks_bench_pages (for SQLite a file of that name in the folder for temporary files) is made for the run
and removed after it, unless `--keep` leaves it for the next run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
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

from djtasks.message import first_id
from tests import servers

NAME: Final = "djtasks_bench_pages"
ROWS: Final = {"postgresql": 5_000_000, "sqlite": 500_000}
TIMES: Final = 7  # GETs of each page, of which the fastest counts: the others tell what else the machine did
ALLOWED: Final = 0.3  # seconds
LIST: Final = "/admin/djtasks/job/"
PAGES: Final = (
    *(f"/admin/djtasks/{query}" for query in ("", "?window=10m", "?window=1d", "?window=1w")),
    "/admin/djtasks/job/dashboard/?window=1w", "/admin/djtasks/job/dashboard/?charts=0",
    *(
        f"{LIST}{query}"
        for query in (
            "", "?state=FAILURE", "?state=SUCCESS", "?state=PENDING", "?state=IGNORED", "?queue=rare", "?queue=nowhere",
            "?task=bench.tasks.common", "?task=bench.tasks.rare", "?task=bench.tasks.common&state=FAILURE",
            "?task=bench.tasks.common&queue=rare", "?task=bench.tasks.rare&state=FAILURE", "?task=bench.tasks.none",
            "?task=bench.tasks.common&state=SUCCESS", "?task=bench.tasks.common&state=PENDING", "?state=SCHEDULED",
            "?state=STARTED", "?state=SUCCESS&queue=rare", "?worker=w1", "?longer=0.98", "?periodic_task=report 7",
            "?enqueued=1h", "?ended_from=2026-01-01T00:00", "?q=order+17", "?q=nothing+like+it",
            "?q=nothing+like+it&state=SUCCESS", "all_jobs/retry/?state=FAILURE", "all_jobs/delete/",
            "all_jobs/retry/?queue=nowhere",
        )
    ),
    "/admin/djtasks/queue/",
    *(
        f"/admin/djtasks/queue/{rest}"
        for rest in (
            "default/change/", "default/change/?offset=9900", "default/change/?scheduled=1",
            "default/change/?scheduled=1&offset=9900", "rare/change/", "rare/change/?scheduled=1",
            "nowhere/change/?scheduled=1", "default/pause/", "default/move/", "default/set/", "default/purge/",
        )
    ),
    *(f"/admin/djtasks/task/{query}" for query in ("", "?window=10m", "?window=1d", "?window=1w")),
    *(
        f"/admin/djtasks/task/{rest}"
        for rest in (
            "bench.tasks.common/change/", "bench.tasks.rare/change/", "bench.tasks.common/change/?window=1w",
            "djtasks.prune/change/", "djtasks.prune/send/", "djtasks.prune/rate/",
        )
    ),
    "/admin/djtasks/worker/", "/admin/djtasks/worker/w1/change/",
    "/admin/djtasks/periodictask/", "/admin/djtasks/periodictask/?status=live", "/admin/djtasks/periodictask/?q=report",
    "/admin/djtasks/periodictask/1/change/", "/admin/djtasks/periodictask/add/", "/admin/djtasks/limit/",
)  # fmt: skip
NUMBERS: Final = {
    "postgresql": "generate_series(1, {rows}) AS numbers(i)",
    "sqlite": "(WITH RECURSIVE count(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM count WHERE i < {rows}) "
    "SELECT i FROM count)",
}
# A job each 0.2 s up to now, its id in the order of its time. The last tenth waits, the two before it are for later,
# eight run; of the others one in 20 failed.
COLUMNS: Final[Mapping[str, str]] = {
    "id": "{id}",
    "task": "CASE WHEN i % 9973 = 0 THEN 'bench.tasks.rare' WHEN i % 3 = 0 THEN 'bench.tasks.common' "
    "ELSE 'bench.tasks.other' END",
    "queue": "CASE WHEN i % 49999 = 0 THEN 'rare' ELSE 'default' END",
    "state": "CASE WHEN {waits} THEN 'PENDING' WHEN {later} THEN 'SCHEDULED' WHEN {runs} THEN 'STARTED' "
    "WHEN {failed} THEN 'FAILURE' ELSE 'SUCCESS' END",
    "order_key": "i",
    "args": "'[' || i || ',\"order ' || i || '\"]'",
    "kwargs": '\'{{"customer":"c\' || (i % 977) || \'","express":true}}\'',
    "created_at": "{created}",
    "run_at": "CASE WHEN {later} THEN {due} END",
    "started_at": "CASE WHEN {ended} OR {runs} THEN {created} END",
    "finished_at": "CASE WHEN {ended} THEN {created} END",
    "seconds": "CASE WHEN {ended} THEN (i % 100) / 100.0 END",
    "token": "CASE WHEN {ended} OR {runs} THEN 1 ELSE 0 END",
    "worker": "CASE WHEN {ended} OR {runs} THEN 'w' || (i % 4) || '.1' ELSE '' END",
    "result": "CASE WHEN {ended} AND NOT {failed} THEN '{{\"rows\":20000}}' END",
    "exception": "CASE WHEN {failed} THEN 'shop.OutOfStock' ELSE '' END",
    "exception_message": "CASE WHEN {failed} THEN 'a bottle is sold out' END",
    "traceback": "CASE WHEN {failed} THEN '{traceback}' END",
    "periodic_task": "CASE WHEN i % 5000 = 0 THEN 'report ' || (i / 5000 % 20) END",
    "headers": "'{{}}'",
    "options": "'{{}}'",
}
WORDS: Final = {
    "postgresql": {
        "id": "overlay(lpad(to_hex(CAST({now} AS bigint) * 1000 - ({rows} - i) * CAST(200 AS bigint)), 12, '0') "
        "placing '-' from 9 for 0) || '-7abc-8000-' || lpad(to_hex(i), 12, '0')",
        "created": "to_timestamp({now}) - ({rows} - i) * interval '200 ms'",
        "due": "to_timestamp({now}) + interval '1 day' + i * interval '1 s'",
    },
    "sqlite": {
        "id": "printf('%08x-%04x-7abc-8000-%012x', ({now} * 1000 - ({rows} - i) * 200) >> 16, "
        "({now} * 1000 - ({rows} - i) * 200) & 65535, i)",
        "created": "strftime('%Y-%m-%d %H:%M:%f', {now} - ({rows} - i) * 0.2, 'unixepoch')",
        "due": "strftime('%Y-%m-%d %H:%M:%f', {now} + 86400 + i, 'unixepoch')",
    },
}
TRACEBACK: Final = (
    "Traceback (most recent call last):\n"
    + '  File "/site/shop/stock.py", line 17, in take\n    return shelf.pop(bottle)\n' * 20
    + "shop.OutOfStock: a bottle is sold out"
)
PERIODS: Final = (
    (60, 3 * 3600),
    (600, 48 * 3600),
    (3600, 90 * 86_400),
    (86_400, 90 * 86_400),
)  # of statistics, and for how long they are kept
TASKS: Final = 50  # that have statistics of each period: five each of ten queues


def main() -> int:
    """Fill a database, time the pages, print a table. Returns the exit code: 1 if a page took longer than it may."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.admin_pages", description=__doc__)
    parser.add_argument("--database", choices=tuple(ROWS), default="postgresql")
    parser.add_argument("--rows", type=int, help=f"Jobs. Default: {ROWS}")
    parser.add_argument("--keep", action="store_true", help="Leave the rows on the server, or take those left there.")
    given = parser.parse_args()
    rows, console = given.rows or ROWS[given.database], Console()
    with _database(given.database, keeps=given.keep):
        began = time.monotonic()
        if not apps.get_model("djtasks.Job").objects.exists():
            _fill(rows)
            _fill_the_rest()
        _fill_statistics()
        _show_alive()
        console.print(f"{rows:,} jobs in {time.monotonic() - began:.0f} s; load {os.getloadavg()[0]:.1f}")
        measured = list(_measure())
    table = Table("page", "ms", "median", "queries")
    for page, fastest, median, queries in measured:
        style = "red" if fastest > ALLOWED else ""
        table.add_row(page, f"{fastest * 1000:.0f}", f"{median * 1000:.0f}", str(queries), style=style)
    console.print(table)
    return int(any(fastest > ALLOWED for _page, fastest, _median, _queries in measured))


@contextmanager
def _database(kind: str, *, keeps: bool) -> Iterator[None]:
    """The demo site on a database of `kind`, empty unless one was kept."""
    server = servers.find(kind) if kind != "sqlite" else None
    if isinstance(server, servers.Missing):
        raise SystemExit(f"{server.reason} {server.remedy}")
    os.environ |= {"DJANGO_SETTINGS_MODULE": "demo_project.settings", "SECRET_KEY": "bench", "DEBUG": "false"}
    file = Path(tempfile.gettempdir(), f"{NAME}.sqlite3")
    os.environ["DATABASE_URL"] = f"sqlite:///{file}" if server is None else f"{server.url.rpartition('/')[0]}/{NAME}"
    if server is None and not keeps:
        file.unlink(missing_ok=True)
    if server is not None and not (keeps and _is_on(server)):
        _on_server(server, f"DROP DATABASE IF EXISTS {NAME} WITH (FORCE)", f"CREATE DATABASE {NAME}")
    try:
        django.setup()
        setup_test_environment(debug=False)
        call_command("migrate", verbosity=0)
        yield
    finally:
        connection.close()
        if server is None and not keeps:
            file.unlink(missing_ok=True)
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
    ended = rows - 3 * rows // 10
    words |= {"traceback": TRACEBACK, "waits": f"(i > {rows - rows // 10})", "ended": f"(i <= {ended - 8})"}
    words |= {"later": f"(i > {ended} AND i <= {rows - rows // 10})", "runs": f"(i > {ended - 8} AND i <= {ended})"}
    words["failed"] = f"({words['ended']} AND (i % 20 = 0 OR i % 9973 = 0))"
    values = ", ".join(text.format(**words) for text in COLUMNS.values())
    source = NUMBERS[connection.vendor].format(**words)
    defaults = "priority, rank, losses, refusals, retries, acked_early, revoked, enqueued_by, version"
    others = "0, 0, 0, 0, 0, false, false, '', 1"
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO djtasks_job ({', '.join(COLUMNS)}, {defaults}) SELECT {values}, {others} FROM {source}"
        )
        cursor.execute("VACUUM ANALYZE djtasks_job" if connection.vendor == "postgresql" else "ANALYZE")


def _fill_the_rest() -> None:
    """Workers and schedules, as a site of a million jobs an hour has them."""
    workers, schedules = (apps.get_model(f"djtasks.{name}") for name in ("Worker", "PeriodicTask"))
    tasks = json.dumps([f"bench.tasks.task{number}" for number in range(TASKS)])
    for number in range(50):
        of_all = {"pid": number, "queues": "null", "pool": "prefork", "concurrency": 8, "tasks": tasks}
        lost = datetime.now(UTC) if number >= 4 else None
        workers.objects.create(pk=f"w{number}", hostname=f"host{number}", lost_at=lost, **of_all)
    for number in range(500):
        schedules.objects.create(name=f"report {number}", task="djtasks.prune", schedule="0 3 * * *")


def _fill_statistics() -> None:
    """Those of such a site up to now."""
    metrics = apps.get_model("djtasks.Metric")
    metrics.objects.all().delete()
    for seconds, kept in PERIODS:
        last = int(time.time()) // seconds * seconds
        starts = [datetime.fromtimestamp(last - seconds * number, UTC) for number in range(1, kept // seconds)]
        rows = (metrics(start_at=start, seconds=seconds, **of_one) for start in starts for of_one in _figures())
        metrics.objects.bulk_create(rows, batch_size=5_000)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")


def _figures() -> Iterator[dict[str, Any]]:
    """What is counted of each task and queue in one period."""
    runs, waits = ({str(number): 100 for number in range(-20, last)} for last in (-5, 0))  # over factors of 20 and 55
    histogram = json.dumps({"run": runs, "wait": waits})
    counts = '{"looks": 1, "SUCCESS": 145000, "FAILURE": 5000, "ENQUEUED": 30000}'
    yield {"task": "", "queue": "", "counts": counts, "histogram": histogram, "whole": True}
    for queue in range(TASKS // 5):
        yield {"task": "", "queue": f"queue{queue}", "counts": '{"looks": 1, "ready": 17, "ENQUEUED": 3000}'}
    for number in range(TASKS):
        counts = '{"SUCCESS": 2900, "FAILURE": 100}'
        task = f"bench.tasks.task{number}"
        yield {"task": task, "queue": f"queue{number // 5}", "counts": counts, "histogram": histogram}


def _show_alive() -> None:
    """Workers that have just beaten, and 50,000 jobs that ended in the last three minutes, which nobody has counted.

    On PostgreSQL they stand ten to a page, as on a live site, and not one in each hole that a traceback has left.
    """
    apps.get_model("djtasks.Worker").objects.filter(lost_at=None).update(beat_at=datetime.now(UTC) + timedelta(hours=1))
    job, now = apps.get_model("djtasks.Job"), datetime.now(UTC)
    job.objects.filter(task__startswith="bench.tasks.task").delete()  # those of the run before
    _on_postgresql("VACUUM ANALYZE djtasks_job", "ALTER TABLE djtasks_job SET (fillfactor = 30)")
    times = [now - timedelta(seconds=180) * number / 50_000 for number in range(50_000)]
    ended = {"queue": "default", "state": "SUCCESS", "seconds": 0.02, "worker": "w1.1", "token": 1}
    job.objects.bulk_create(
        (
            job(
                pk=f"{first_id(each)}-7abc-9000-{number:012x}",
                task=f"bench.tasks.task{number % TASKS}",
                created_at=each, started_at=each, finished_at=each, **ended,
            )
            for number, each in enumerate(times)
        ),
        batch_size=2_000, ignore_conflicts=True,
    )  # fmt: skip
    _on_postgresql("ALTER TABLE djtasks_job SET (fillfactor = 85)")


def _on_postgresql(*statements: str) -> None:
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)


def _measure() -> Iterator[tuple[str, float, float, int]]:
    """Each page, the shortest and the median of its times in seconds, and how many queries it made."""
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
        yield page.replace(str(job), "…"), min(seconds), statistics.median(seconds), len(queries)


if __name__ == "__main__":
    raise SystemExit(main())
