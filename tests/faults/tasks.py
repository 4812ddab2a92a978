"""Tasks of the fault harness. Each run says in a file that it began, and that it ended: one line, one write."""

import ctypes
import os
import signal
import time
from contextlib import contextmanager

from djtasks import shared_task
from djtasks.signals import worker_process_init

JOURNAL = "DJTASKS_FAULTS_JOURNAL"  # the environment variable that names the file


def note(word, job="-", retries=0):
    """Append `word id retries process parent time`; the time is that of CLOCK_MONOTONIC, one for all processes."""
    line = f"{word} {job} {retries} {os.getpid()} {os.getppid()} {time.monotonic():.4f}\n"
    file = os.open(os.environ[JOURNAL], os.O_WRONLY | os.O_APPEND)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


@contextmanager
def noted(task):
    note("begin", task.request.id, task.request.retries)
    try:
        yield
    finally:
        note("end", task.request.id, task.request.retries)


@worker_process_init.connect
def _be_born(**_):
    note("born")


@shared_task(bind=True)
def work(self, value, seconds=0.0):
    with noted(self):
        time.sleep(seconds)
        return value


@shared_task(bind=True, ignore_result=True)
def forgotten(self, seconds=0.0):
    with noted(self):
        time.sleep(seconds)


@shared_task(bind=True, acks_late=False)
def early(self, value, seconds=0.0):
    with noted(self):
        time.sleep(seconds)
        return value


@shared_task(bind=True, max_retries=5)
def stubborn(self, value, tries):
    with noted(self):
        if self.request.retries + 1 < tries:
            raise self.retry(countdown=0.1)
        return value


@shared_task(bind=True)
def total(self, values):
    with noted(self):
        return sum(values)


@shared_task(bind=True)
def poison(self):
    """Kills its process, each time."""
    with noted(self):
        note("dies", self.request.id, self.request.retries)
        os.kill(os.getpid(), signal.SIGKILL)


@shared_task(bind=True)
def hold(self, value, seconds):
    """Hold the GIL: a call into C that does not let go of it."""
    with noted(self):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:  # a signal ends it early
            ctypes.PyDLL(None).usleep(int((deadline - time.monotonic()) * 1_000_000) + 1)
        return value


@shared_task(bind=True)
def hungry(self, value, mebibytes, seconds):
    """Take much memory, and be seen with it for a while."""
    with noted(self):
        taken = bytearray(os.urandom(1)) * (mebibytes * 1024 * 1024)
        time.sleep(seconds)
        return value + len(taken) * 0
