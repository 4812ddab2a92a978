"""Tasks of the tests. A task says what it did by a line in a file: one small append is atomic."""

import asyncio
import ctypes
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from contextvars import ContextVar
from pathlib import Path

from asgiref.sync import sync_to_async
from django.db import connections, transaction
from django.utils import timezone, translation

from djtasks import Batch, Task, Unique, current_task, registry, shared_task, signals
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
def journal_besides(path, line, seconds=0.0):
    """The same as another task."""
    note(path, f"begin {line} {os.getpid()}")
    time.sleep(seconds)
    note(path, f"end {line} {os.getpid()}")


@shared_task
def name_host(path, seconds):
    """Note host and process, work for a while, note that it is done, and return the host's name."""
    host = socket.gethostname()
    note(path, f"begin {host} {os.getpid()}")
    time.sleep(seconds)
    note(path, f"end {host} {os.getpid()}")
    return host


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
def close_pipes():
    for each in list(Path("/proc/self/fd").iterdir()):
        with suppress(OSError):
            if str(each.readlink()).startswith("pipe:") and int(each.name) > 2:
                os.close(int(each.name))


@shared_task
def leave_alarm(path, seconds):
    def ring(*_):
        Path(path).write_text("it rang")
        raise ValueError("left behind")

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)


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


@shared_task
def work(seconds):
    """Compute, so that there are many moments between two bytecodes."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.01)
    return "done"


@shared_task
def tidy_up_often(path, seconds):
    """`tidy_up`, in small steps."""
    try:
        note(path, f"begin {os.getpid()}")
        for _ in range(int(seconds / 0.01)):
            time.sleep(0.01)
    except SoftTimeLimitExceeded:
        note(path, "tidied")
        return "cut short"
    return "whole"


@shared_task
def slow_process(seconds):
    time.sleep(seconds)
    return os.getpid()


@shared_task
def leave_once(path):
    """End the process, the first time."""
    if not Path(path).exists():
        Path(path).touch()
        os._exit(1)


surroundings = ContextVar("surroundings", default=None)


@shared_task(bind=True)
def tell_context(self, number):
    """Set what belongs to a run alone, give others time to disturb it, and tell it."""
    translation.activate(["de", "fr", "en"][number % 3])
    timezone.activate("Asia/Tokyo")
    surroundings.set(number)
    time.sleep(0.05)
    assert timezone.get_current_timezone_name() == "Asia/Tokyo"
    assert self.request.id == current_task.request.id
    return [self.request.id, current_task.name, translation.get_language(), surroundings.get()]


@shared_task(bind=True)
async def tell_context_later(self, number):
    translation.activate("de")
    surroundings.set(number)
    await asyncio.sleep(0.05)
    in_thread = await sync_to_async(lambda: self.request.id)()
    assert self.request.id == in_thread
    return [self.request.id, current_task.name, translation.get_language(), surroundings.get()]


@shared_task
async def block_in_loop(number):
    time.sleep(0.002)
    await asyncio.sleep(0.005)
    time.sleep(0.002)
    assert asyncio.current_task() is not None
    return await sync_to_async(lambda: number)()


@shared_task
async def sleep_later(seconds):
    await asyncio.sleep(seconds)
    return seconds


@shared_task
async def leave_in_the_loop():
    """Let something else in the event loop call sys.exit()."""

    async def leave():
        sys.exit("goodbye")

    task = asyncio.create_task(leave())
    await asyncio.sleep(0.1)
    return "left" if task.done() else "stayed"


@shared_task
def tell_surroundings():
    return [translation.get_language(), timezone.get_current_timezone_name(), surroundings.get()]


_users = {}  # connection → how many use it now


@shared_task
def use_connection(alias, seconds):
    """The number of the connection at its server, and whether nobody else used it meanwhile."""
    connection = connections[alias]
    sql = "SELECT pg_backend_pid()" if connection.vendor == "postgresql" else "SELECT connection_id()"
    if connection.vendor == "sqlite":
        sql = f"SELECT {id(connection)}"
    with connection.cursor() as cursor:
        cursor.execute(sql)
        (number,) = cursor.fetchone()
    _users[number] = _users.get(number, 0) + 1
    time.sleep(seconds)
    alone = _users[number] == 1
    _users[number] -= 1
    return [number, alone]


@shared_task(rate_limit="100/s")
def paced(path):
    note(path, time.time())


@shared_task(rate_limit="20/s", rate_limit_key="account")
def paced_by_account(path, account):
    note(path, f"{account} {time.time()}")


@shared_task(max_concurrency=2)
def few_at_a_time(path, number, seconds=0.0):
    note(path, f"begin {number} {time.time()}")
    time.sleep(seconds)
    note(path, f"end {number} {time.time()}")


@shared_task(max_concurrency=1, max_concurrency_key=lambda path, account, *rest: account)
def one_by_account(path, account, seconds=0.0):
    note(path, f"begin {account} {time.time()}")
    time.sleep(seconds)
    note(path, f"end {account} {time.time()}")


@shared_task(
    bind=True, max_concurrency=2, rate_limit="50/s", acks_late=False, unique=Unique(key="number"), max_retries=1
)
def limited_in_each_way(self, path, number, way="return"):
    note(path, f"begin {number} {time.time()}")
    time.sleep(0.05)
    note(path, f"end {number} {time.time()}")
    if way == "retry" and not self.request.retries:
        raise self.retry(countdown=0.2)
    if way == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@shared_task(batch=Batch(size=5, wait=0.2), unique=True)
def gather_unique(requests):
    note(requests[0].args[0], " ".join(str(each.args[1]) for each in requests))
    return [each.args[1] for each in requests]


@shared_task(bind=True, max_concurrency=1, max_retries=1)
def end_in_many_ways(self, path, way):
    note(path, way)
    if way == "fail":
        raise ValueError(way)
    if way == "retry" and not self.request.retries:
        raise self.retry(countdown=0.1)
    if way == "ignore":
        raise Ignore
    if way == "reject":
        raise Reject(requeue=not self.request.delivery_info["redelivered"])


@shared_task(bind=True, unique=True, max_retries=1)
def only_one(self, path, way="return"):
    note(path, way)
    if way == "fail":
        raise ValueError(way)
    if way == "retry" and not self.request.retries:
        raise self.retry(countdown=0.1)
    if way == "ignore":
        raise Ignore
    if way == "reject":
        raise Reject


@shared_task(unique=Unique(key="path", replace=True))
def only_latest(path, number, seconds):
    note(path, number)
    time.sleep(seconds)


@signals.task_revoked.connect
def note_revocation(sender, request, terminated, signum, expired, **kwargs):
    """Told to the file that DJTASKS_TEST_REVOKED names."""
    if path := os.environ.get("DJTASKS_TEST_REVOKED"):
        note(path, f"{request.id} {sender.name} {terminated} {signum} {expired}")


failpoints.install()


@shared_task(bind=True, max_retries=1)
def try_again(self):
    """Succeed at the second try."""
    if not self.request.retries:
        raise self.retry(countdown=0)


@shared_task(batch=Batch(size=10, wait=0.5))
def gather(requests):
    """Jobs of (path, number): note which came together; what is no number fails."""
    note(requests[0].args[0], f"call {os.getpid()} " + " ".join(str(each.args[1]) for each in requests))
    return [each.args[1] if isinstance(each.args[1], int) else ValueError(each.args[1]) for each in requests]


@shared_task(batch=Batch(size=10, wait=0.5))
async def gather_later(requests):
    await asyncio.sleep(0.01)
    note(requests[0].args[0], f"call {os.getpid()} " + " ".join(str(each.args[1]) for each in requests))
    return [each.args[1] for each in requests]


@shared_task(batch=Batch(size=10, wait=30.0))
def gather_for_long(requests):
    note(requests[0].args[0], "call " + " ".join(str(each.args[1]) for each in requests))


@shared_task(batch=Batch(size=5, wait=0.2))
def gather_and_die(requests):
    """Jobs of (path, word): at "die" the process ends."""
    words = [each.args[1] for each in requests]
    note(requests[0].args[0], "call " + " ".join(words))
    if "die" in words:
        os.kill(os.getpid(), signal.SIGKILL)
    return words


@shared_task(batch=Batch(size=5, wait=0.2), acks_late=False)
def gather_once_and_die(requests):
    note(requests[0].args[0], f"call {len(requests)}")
    os.kill(os.getpid(), signal.SIGKILL)


@shared_task(batch=Batch(size=5, wait=0.2), time_limit=1)
def gather_and_hang(requests):
    note(requests[0].args[0], f"call {len(requests)}")
    time.sleep(60)


@shared_task(batch=Batch(size=3, wait=0.5))
def gather_and_wait(requests):
    """Jobs of (path, number): the first call waits for a file `<path>.go`, the others return at once."""
    path = Path(requests[0].args[0])
    is_first = not path.exists()
    note(path, f"call {os.getpid()} " + " ".join(str(each.args[1]) for each in requests))
    while is_first and not path.with_suffix(".go").exists():
        time.sleep(0.01)
    return [each.args[1] for each in requests]


@shared_task(batch=Batch(size=5, wait=0.2), soft_time_limit=0.3)
def gather_and_be_stopped(requests):
    try:
        while True:
            time.sleep(0.01)
    except SoftTimeLimitExceeded:
        return ["stopped"] * len(requests)
