"""Tasks of the tests. A task says what it did by a line in a file: one small append is atomic."""

import asyncio
import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

from django.db import connections, transaction

from djtasks import Task, registry, shared_task, signals
from djtasks.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from tests import failpoints


def note(path, line):
    with Path(path).open("a") as file:
        file.write(f"{line}\n")


@shared_task
def add(x, y):
    return x + y


@shared_task
def swallow(data):
    pass


@shared_task
def noop():
    pass


@shared_task(bind=True)
def journal(self, path, line, seconds=0.0):
    """Note the line, work for a while, and note that it is done."""
    note(path, f"begin {line} {os.getpid()}")
    time.sleep(seconds)
    note(path, f"end {line} {os.getpid()}")
    return line


@shared_task
def fail(text="broken"):
    raise ValueError(text, 42)


@shared_task(bind=True, max_retries=3)
def succeed_at(self, path, tries, countdown=0.05):
    note(path, f"try {self.request.retries}")
    if self.request.retries + 1 < tries:
        raise self.retry(countdown=countdown)
    return self.request.retries


@shared_task(bind=True)
def kill_own_process(self, path, number=9):
    note(path, f"run {os.getpid()}")
    os.kill(os.getpid(), number)
    time.sleep(10)


@shared_task
def crash_interpreter(path):
    note(path, f"run {os.getpid()}")
    ctypes.string_at(0)


@shared_task(bind=True, acks_late=False)
def kill_own_process_early_ack(self, path):
    note(path, f"run {os.getpid()}")
    os.kill(os.getpid(), 9)
    time.sleep(10)


@shared_task
def leave(how="sys.exit"):
    if how == "sys.exit":
        sys.exit("goodbye")
    if how == "keyboard":
        raise KeyboardInterrupt
    raise GeneratorExit


@shared_task
def ignored():
    raise Ignore


@shared_task
def rejected(path, requeue=False):
    note(path, "run")
    raise Reject("not this one", requeue=requeue)


@shared_task
def unsendable():
    return object()


@shared_task(bind=True)
def progress(self, until):
    """Show progress until the file `until` exists."""
    done = 0
    while not Path(until).exists():
        done += 1
        self.update_state(state="PROGRESS", meta={"done": done})
        time.sleep(0.02)
    return done


@shared_task
def leave_transaction_open(alias):
    connections[alias].ensure_connection()
    transaction.set_autocommit(False, using=alias)
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT 1")


@shared_task
def leave_atomic_open(alias):
    transaction.atomic(using=alias).__enter__()


@shared_task
def is_in_transaction(alias):
    return connections[alias].in_atomic_block or not transaction.get_autocommit(using=alias)


@shared_task
def process():
    return os.getpid()


@shared_task(ignore_result=True)
def forgotten(path):
    note(path, "run")


@shared_task
async def answer_later(value):
    return value


class NotRebuildable(Exception):
    def __init__(self, one, two):
        super().__init__("only one argument")


@shared_task
def raise_not_rebuildable():
    raise NotRebuildable(1, 2)


@shared_task
def raise_text(text, times=1):
    raise RuntimeError(text * times)


class Counting(Task):
    name = "tests.tasks.counting"
    count = 0

    def run(self):
        self.count += 1
        return self.count


registry.register(Counting())


@shared_task
def shout(text):
    print(text)


@shared_task(acks_late=False)
def journal_early_ack(path, seconds):
    note(path, f"begin {os.getpid()}")
    time.sleep(seconds)


@shared_task
def hold_the_interpreter(path, seconds):
    """Hold the GIL: a call into C that does not let go of it."""
    note(path, f"begin {os.getpid()}")
    ctypes.PyDLL(None).usleep(int(seconds * 1_000_000))
    return "done"


@shared_task
def leave_quietly(path):
    note(path, "run")
    os._exit(0)


@shared_task
def fork_and_return(path):
    """Return in the process and in its copy, as a task never should."""
    pid = os.fork()
    note(path, "copy" if pid == 0 else "original")
    return pid


@shared_task
def use_processes():
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(abs, [-1, -2])


@shared_task
def start_a_program(path, seconds):
    with subprocess.Popen(["sleep", "60"]) as program:
        note(path, f"begin {program.pid}")
        time.sleep(seconds)


@shared_task
def close_everything():
    os.closerange(3, 256)


@shared_task
def ignore_stops():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@shared_task
def sleep(seconds):
    time.sleep(seconds)


@shared_task
def take_memory(mebibytes):
    """Take so much, give it back, and tell the process."""
    return len(bytearray(mebibytes * 1024 * 1024)) and os.getpid()


@shared_task(bind=True)
def end_somehow(self, path, how):
    """Return, or let the process end in another way, once."""
    if how == "limit":
        time.sleep(60)
    if how != "return" and not Path(f"{path}-{self.request.id}").exists():
        Path(f"{path}-{self.request.id}").touch()
        if how == "leave":
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


@shared_task
def total(numbers):
    return sum(numbers)


@shared_task
def tidy_up(path, seconds):
    """Clean up at the soft limit, and return a result all the same."""
    try:
        note(path, f"begin {os.getpid()}")
        time.sleep(seconds)
    except SoftTimeLimitExceeded:
        note(path, "tidied")
        return "cut short"
    return "whole"


@shared_task
async def tidy_up_later(path, seconds):
    try:
        note(path, f"begin {os.getpid()}")
        await asyncio.sleep(seconds)
    except SoftTimeLimitExceeded:
        note(path, "tidied")
        return "cut short"
    return "whole"


@shared_task
async def wait_later(path, seconds):
    note(path, f"begin {os.getpid()}")
    await asyncio.sleep(seconds)


@shared_task
def be_stubborn(path, seconds):
    """Ignore whatever can be ignored, with a program of its own that does so, too."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGURG):
        signal.signal(number, signal.SIG_IGN)
    with subprocess.Popen(["sleep", "60"]) as program:
        note(path, f"begin {program.pid} {os.getpid()}")
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                time.sleep(0.1)
            except BaseException:
                note(path, "caught")


@shared_task(autoretry_for=(SoftTimeLimitExceeded,), retry_kwargs={"countdown": 0.1}, max_retries=2)
def try_within(path, seconds):
    note(path, "try")
    time.sleep(seconds)


@shared_task
def query_for_long(alias, seconds, atomic):
    """A query that is cut off; then the next one, in the same run."""
    try:
        with transaction.atomic(using=alias) if atomic else nullcontext(), connections[alias].cursor() as cursor:
            cursor.execute(f"SELECT {'pg_sleep' if alias == 'postgresql' else 'sleep'}({seconds})")
    except SoftTimeLimitExceeded:
        return ask_database(alias)


@shared_task
def ask_database(alias):
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT 42")
        return [*cursor.fetchone(), os.getpid()]


@shared_task
def note_error(request, error, traceback, path):
    note(path, f"{type(error).__name__} of {request.id}")


@shared_task(bind=True)
def tell_limits(self):
    return [self.request.time_limit, self.request.soft_time_limit]


@shared_task(time_limit=30, soft_time_limit=20)
def limited():
    return list(limited.request.timelimit)


@signals.task_revoked.connect
def note_revocation(sender, request, terminated, signum, expired, **kwargs):
    """Told to the file that DJTASKS_TEST_REVOKED names."""
    if path := os.environ.get("DJTASKS_TEST_REVOKED"):
        note(path, f"{request.id} {sender.name} {terminated} {signum} {expired}")


failpoints.install()
