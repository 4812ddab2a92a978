"""What the caller holds: handles on jobs and on groups of them."""

from djtasks.result.eager import EagerResult
from djtasks.result.handles import AsyncResult, GroupResult, handle_on, line_of, result_from_tuple
from djtasks.result.result_set import ResultSet
from djtasks.result.row import exception_of
from djtasks.result.waiting import allow_join_result

__all__ = [
    "AsyncResult",
    "EagerResult",
    "GroupResult",
    "ResultSet",
    "allow_join_result",
    "exception_of",
    "handle_on",
    "line_of",
    "result_from_tuple",
]
