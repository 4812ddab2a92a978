"""The times of the broker under USE_TZ=False: the same contract, in a process that is set so."""

import os
import subprocess
import sys

from tests.processes import ROOT

TIMES = "scheduled or eta or expires or promotion or rescheduled or release or order or comes_out"


def test_the_contract_holds_without_time_zones():
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DJTASKS_TEST_SUFFIX")}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/brokers/test_contract.py", "-k", TIMES],
        cwd=ROOT,
        env={**environment, "DJTASKS_TEST_USE_TZ": "0"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-5000:]
    assert " passed" in run.stdout
