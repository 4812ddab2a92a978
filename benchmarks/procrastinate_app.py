"""The job as a task of procrastinate, in the session's database."""

from procrastinate import App, PsycopgConnector

from benchmarks import work
from benchmarks.settings import DATABASES

_given = DATABASES["default"]
NAMES = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}
app = App(connector=PsycopgConnector(kwargs={NAMES[name]: _given[name] for name in NAMES if _given[name]}))


@app.task(name="mark")
def mark(number: int, seconds: float = 0.0) -> int:
    """Note the start of job `number`."""
    return work.mark(number, seconds)
