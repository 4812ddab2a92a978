"""What the caller holds: handles on jobs and on groups of them."""

from djtasks.result.eager import EagerResult
from djtasks.result.group import GroupResult, ResultSet, result_from_tuple
from djtasks.result.job import AsyncResult, allow_join_result, exception_of, handle_on, line_of

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
