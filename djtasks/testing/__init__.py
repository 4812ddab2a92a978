"""For a site's own tests: see what was queued, run it in this very process, or have a real worker run it.

The pytest fixtures `djtasks_eager`, `djtasks_jobs` and `djtasks_worker` (pytest_plugin) give the same.
"""

from djtasks.testing.captured import CapturedJob, CapturedJobs
from djtasks.testing.running import eager, run_jobs
from djtasks.testing.worker import worker

__all__ = ["CapturedJob", "CapturedJobs", "eager", "run_jobs", "worker"]
