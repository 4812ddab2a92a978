"""Logs that tell of which job a line is: a filter that adds it, and a formatter that writes lines of JSON.

Both are named in LOGGING, which is read before the apps are loaded: nothing here needs models.
"""

from __future__ import annotations

import json
import logging
import math
from datetime import UTC, datetime
from typing import Any, Final

from djtasks.request import current_job

OF_JOB: Final = ("task_id", "task_name", "root_id", "worker")
_STANDARD: Final = frozenset(
    {*vars(logging.LogRecord("", 0, "", 0, "", None, None)), "message", "asctime", "taskName"}
)  # what each record has; all else was given by `extra` or a filter


class JobFilter(logging.Filter):
    """Lets all through, and adds `task_id`, `task_name`, `root_id` and `worker` of the job that runs here, "" of none.

    `root_id` is the id of the job from which all others of a workflow came, so it finds all lines about them.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        job = current_job()
        record.task_id = "" if job is None else job.id or ""
        record.task_name = "" if job is None else job.task or ""
        record.root_id = "" if job is None else job.root_id or ""
        record.worker = "" if job is None else job.hostname or ""
        return True


class JSONFormatter(logging.Formatter):
    """A JSON object in a line: time (UTC), level, logger, message, process, the job, what `extra` gave, any error."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
        }
        line.update((key, value) for key, value in vars(record).items() if key not in _STANDARD and value != "")
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        try:
            return json.dumps(line, default=str, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError):  # of what `extra` gave: the line is not to be lost for that
            return json.dumps({key: _plain(value) for key, value in line.items()}, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """A value that any parser takes, in words where JSON has none."""
    if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    try:
        return repr(value)
    except Exception as error:
        return f"<its __repr__ raised {type(error).__name__}>"
