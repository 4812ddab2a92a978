"""A short run of the fault harness on each broker. `make soak` makes long ones; docs/reliability.md tells of them."""

import os
import random
import subprocess
import sys

import pytest

from tests import servers
from tests.faults.faults import STORE_FAULTS
from tests.own_servers import NotInstalled
from tests.processes import ROOT
from tests.redis_servers import skip_or_fail

SECONDS = "5"
SEED = os.environ.get("DJTASKS_TEST_FAULTS_SEED") or str(random.randrange(10**6))


@pytest.mark.parametrize("store", STORE_FAULTS)
def test_nothing_is_lost_whatever_goes_wrong(store):
    command = ["-m", "tests.faults", "--broker", store, "--seconds", SECONDS, "--seed", SEED, "--lost-after", "2"]
    # It has databases of its own, so it need not know which of several processes of pytest this is.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    ended = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110
    )
    print(ended.stdout, ended.stderr)
    if NotInstalled.__name__ in ended.stderr:
        skip_or_fail(f"{ended.stderr.splitlines()[-1]}. {servers.REMEDIES[store]}")
    assert ended.returncode == 0
