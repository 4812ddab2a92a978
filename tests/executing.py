"""One execution of a job in this process, without a broker or a database."""

from djtasks import publish
from djtasks.execution import Execution
from djtasks.message import Delivery


def execute(task, *args, delivery=None, begin=None, report=None, **options):
    """Run a job of `task` once and return the finished Execution. `delivery` are fields of its Delivery."""
    kwargs = options.pop("kwargs", {})
    message = publish.build(task.name, args, kwargs, options, task)
    return execute_message(message, begin=begin, report=report, **(delivery or {}))


def execute_message(message, begin=None, report=None, **delivery):
    execution = Execution(
        Delivery(message, "worker", delivery.pop("token", 1), **delivery), hostname="here", begin=begin, report=report
    )
    execution.run()
    return execution
