"""What docs/monitoring.md says holds: its metrics are there, its rules and its dashboard ask for none that are not."""

import json
import re
from argparse import Namespace
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from djtasks import states
from djtasks.brokers import get_broker
from djtasks.models import Metric
from djtasks.models.fields import utc_now
from djtasks.models.metric import Figures
from djtasks.monitoring.site import SiteCollector
from djtasks.statistics import ENQUEUED
from djtasks.worker.counters import Counters, pair
from djtasks.worker.options import WorkerOptions
from djtasks.worker.scrape import WorkerCollector
from djtasks.worker.slots import Slots
from tests import tasks
from tests.monitoring.scraping import Samples
from tests.monitoring.test_worker_port import outcome
from tests.site import Site

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGE = (DOCS / "monitoring.md").read_text()
RULES = yaml.safe_load((DOCS / "files" / "djtasks-alerts.yml").read_text())
DASHBOARD = json.loads((DOCS / "files" / "djtasks-dashboard.json").read_text())


def scraped(collector):
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return Samples(generate_latest(registry).decode())


@pytest.fixture
def site(database):
    """Of a site where there is something of each kind."""
    tasks.add.delay(1, 1)
    claimed = get_broker().claim("default", limit=1, worker="w.1")
    get_broker().defer(claimed, "tests.tasks.add", 600.0, ahead=0.0, most=10)
    start = utc_now().replace(second=0, microsecond=0) - timedelta(minutes=2)
    Metric.objects.begin(start, 60)
    figures = Figures(counts={"SUCCESS": 1}, runs={0: 1}, waits={0: 1})
    Metric.objects.add(start, 60, {("tests.tasks.add", "default"): figures, ("", "default"): Figures({ENQUEUED: 1})})
    return scraped(SiteCollector())


@pytest.fixture
def worker(tmp_path):
    """Of a worker that has run something."""
    hears, sends = pair()
    counters = Counters(sends)
    counters.add([outcome()])
    counters.send(at_once=True)
    slots = Slots(1)
    slots.give(0, "w.0")
    slots.beat()
    return scraped(WorkerCollector(Namespace(options=WorkerOptions(), slots=slots, memory=7), hears))


def in_page(heading):
    """The metrics that the table below a heading names."""
    section = PAGE.partition(f"### {heading}")[2].partition("\n##")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`(djtasks_\w+)`", row.split("|")[1])}


def names_of(samples):
    """As the page has them: of a counter its sample, of a histogram its family."""
    return {f"{each.name}_total" if each.type == "counter" else each.name for each in samples.families}


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_the_page_names_each_metric_of_the_view_and_no_other(site):
    assert names_of(site) == in_page("The whole site")


def test_the_page_names_each_metric_of_a_worker_and_no_other(worker):
    names = {f"{name}_info" if name == "djtasks_worker" else name for name in names_of(worker)}
    assert names == in_page("One worker")


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_rules_and_dashboard_ask_for_metrics_that_there_are(site):
    rules = [rule for group in RULES["groups"] for rule in group["rules"]]
    asked = [rule["expr"] for rule in rules]
    asked += [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    metrics = {name for each in asked for name in re.findall(r"djtasks_\w+", each)}
    assert len(metrics) > 15
    assert metrics <= site.names()
    labels = {key for family in site.families for sample in family.samples for key in sample.labels}
    grouped = {
        name for each in asked for group in re.findall(r"(?:by|on) \(([^)]*)\)", each) for name in group.split(", ")
    }
    assert grouped <= labels
    named = {state for each in asked for found in re.findall(r'state=~?"([^"]*)"', each) for state in found.split("|")}
    assert named <= set(states.FINISHED)


def test_each_rule_says_what_to_do_and_is_on_the_page():
    rules = [rule for group in RULES["groups"] for rule in group["rules"]]
    assert all(rule["annotations"].keys() == {"summary", "action"} for rule in rules)
    assert re.findall(r"\*\*(Djtasks\w+)\*\*", PAGE) == [rule["alert"] for rule in rules]


def test_the_recipe_for_logs_writes_json_from_the_first_line_on(tmp_path):
    recipe = re.search(r"```python\n(LOGGING = .*?)```", PAGE, re.DOTALL)[1]
    site = Site(tmp_path)
    site.settings(more=recipe, IMPORTS=["shop"])
    site.write(
        {
            "shop.py": "import logging\nfrom djtasks import shared_task\n\n@shared_task\n"
            "def order():\n    logging.getLogger('shop').warning('sold out')\n"
        }
    )
    done = site.run("-c", "import django; django.setup(); from shop import order; print(order.apply().id)")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    (line,) = [each for each in lines if each["logger"] == "shop"]
    assert (line["task_id"], line["task_name"], line["message"]) == (done.stdout.strip(), "shop.order", "sold out")


def test_what_is_not_asked_for_is_not_imported(tmp_path):
    site = Site(tmp_path)
    site.settings()
    code = """if True:
        import django, sys
        django.setup()
        import djtasks.management.commands.runworker, djtasks.worker.supervisor
        print({"prometheus_client", "opentelemetry", "sentry_sdk"} & sys.modules.keys())
    """
    done = site.run("-c", code)
    assert (done.stdout.strip(), done.returncode) == ("set()", 0), done.stderr
