"""Where a process of a test kills itself: at just the point that the test is about.

`DJTASKS_TEST_DIE_AT` is JSON, [module, attribute path, number of the call, file]: at that call the process
writes the file and dies of SIGKILL. Once the file is there, nobody dies any more.
"""

import functools
import importlib
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

from djtasks.execution import Execution
from djtasks.message import Message


def variables(target, path, call=1):
    """The environment of a process that dies at the `call`-th call of `target` ("module:Class.method")."""
    module, _, attribute = target.partition(":")
    return {"DJTASKS_TEST_DIE_AT": json.dumps([module, attribute, call, str(path)])}


def install():
    """Arm what the environment asks for."""
    order = os.environ.get("DJTASKS_TEST_DIE_AT")
    if order is None:
        return
    module, attribute, call, path = json.loads(order)
    *parents, name = attribute.split(".")
    holder = functools.reduce(getattr, parents, importlib.import_module(module))
    setattr(holder, name, _deadly(getattr(holder, name), call, Path(path)))
    Execution.conclude = _with_follow_up(Execution.conclude)


def _deadly(function, call, path):
    calls = 0

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        nonlocal calls
        # Of the ledger only the calls count that have something to do.
        if not args or getattr(args[0], "pending", 1):
            calls += 1
        if calls >= call and not path.exists():
            path.write_text("dead")
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    return wrapped


def _with_follow_up(conclude):
    """What a task says in its headers is to come after it: {"then": [id, path]} is one more job of `journal`."""

    @functools.wraps(conclude)
    def wrapped(self):
        outcome = conclude(self)
        following = self.request.headers.get("then")
        if following:
            job_id, path = following
            message = Message(id=job_id, task="tests.tasks.journal", args=json.dumps([path, "follow-up"]))
            self.outcome = outcome = replace(outcome, follow_ups=(message,))
        return outcome

    return wrapped
