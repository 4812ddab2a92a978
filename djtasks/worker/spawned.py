"""Processes that are new programs, not copies: where a fork cannot go on (macOS), or must begin otherwise (gevent).

The forked process becomes `manage.py runworker` once more, told by `--spawned` what it is. What it shares with its
supervisor it finds by descriptors that it has inherited.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final, NoReturn

from djtasks.limits import Limits
from djtasks.worker.child import Child, run_child
from djtasks.worker.keeping import keep
from djtasks.worker.options import WorkerOptions
from djtasks.worker.processes import die_with_parent
from djtasks.worker.slots import Slots

# The monkey patch has to come before all that it patches, and so before whatever settings import.
_PROGRAM: Final = """
import json, sys
order = json.loads(sys.argv[1])
sys.path[:] = order["path"]
if order["patched"]:
    from gevent import monkey
    monkey.patch_all()
sys.argv = order["argv"]
from django.core.management import execute_from_command_line
execute_from_command_line([sys.argv[0], "runworker", "--loglevel", order["loglevel"], "--spawned", order["process"]])
"""


def become_child(owner: str, index: int, slots: Slots, options: WorkerOptions, life_end: int) -> NoReturn:
    """Let this process, which was forked a moment ago, go on as a new program that is this child."""
    _become({"owner": owner, "index": index}, slots, options, life_end)


def become_keeper(
    worker: str, number: int, slots: Slots, options: WorkerOptions, life_end: int, source: int, sink: int
) -> NoReturn:
    """The same for the keeper; `source` is where it hears its supervisor, `sink` where it speaks to it."""
    _become({"worker": worker, "number": number, "source": source, "sink": sink}, slots, options, life_end)


def _become(process: dict[str, Any], slots: Slots, options: WorkerOptions, life_end: int) -> NoReturn:
    descriptors = {"slots": slots.descriptors(), "life": life_end}
    shared = [*slots.descriptors(), life_end, *(process[name] for name in ("source", "sink") if name in process)]
    shared += (options.scrape or ())[0 if "worker" in process else 2 :]
    for descriptor in shared:
        os.set_inheritable(descriptor, True)
    order = {
        "path": sys.path,
        "argv": sys.argv[:1],
        "patched": options.pool == "gevent" and "owner" in process,
        "loglevel": logging.getLevelName(logging.getLogger("djtasks").getEffectiveLevel()),
        "process": json.dumps(
            {**process, **descriptors, "shared": shared, "parent": os.getppid(), "options": asdict(options)}
        ),
    }
    os.execv(sys.executable, [sys.executable, "-c", _PROGRAM, json.dumps(order)])


def run(text: str) -> None:
    """Run what was described by `become_child` or `become_keeper`, in this process, to its end."""
    order: Mapping[str, Any] = json.loads(text)
    for descriptor in order["shared"]:
        os.set_inheritable(descriptor, False)
    die_with_parent(order["parent"], order["life"])
    options, slots = _options(order["options"]), Slots.shared(*order["slots"])
    if "owner" in order:
        run_child(Child(order["owner"], order["index"], slots, options))
    else:
        keep(order["worker"], order["number"], slots, options, order["source"], order["sink"])


def _options(given: Mapping[str, Any]) -> WorkerOptions:
    lists = {name: tuple(given[name]) for name in ("queues", "excluded", "scrape") if given[name] is not None}
    limits = Limits(**given["limits"]) if given["limits"] is not None else None
    return WorkerOptions(**{**given, **lists, "limits": limits})
