"""Which tasks a site finds, and what stops its start."""

import pytest

from djtasks import registry
from djtasks.exceptions import NotRegistered
from tests import tasks
from tests.site import Site

TASK = "from djtasks import shared_task\n\n\n@shared_task\ndef {}():\n    pass\n"


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def test_the_tasks_of_all_installed_apps_are_found_and_apps_without_any_are_passed_over(site):
    site.settings(apps=["shop", "blog", "quiet"])
    site.write({"shop/tasks.py": TASK.format("sell"), "blog/tasks.py": TASK.format("post"), "quiet/models.py": ""})
    assert site.task_names() == ["blog.tasks.post", "shop.tasks.sell"]


def test_tasks_may_be_a_package_whose_modules_are_found_but_for_its_tests(site):
    site.settings(apps=["shop"])
    site.write(
        {
            "shop/tasks/__init__.py": TASK.format("top"),
            "shop/tasks/mail.py": TASK.format("send"),
            "shop/tasks/deep/far.py": TASK.format("dig"),
            "shop/tasks/tests/test_mail.py": "raise RuntimeError('not for a start')",
            "shop/tasks/test_more.py": "raise RuntimeError('not for a start')",
            "shop/tasks/conftest.py": "raise RuntimeError('not for a start')",
        }
    )
    assert site.task_names() == ["shop.tasks.deep.far.dig", "shop.tasks.mail.send", "shop.tasks.top"]


def test_other_modules_may_be_searched(site):
    site.settings(apps=["shop"], AUTODISCOVER_MODULES=["jobs", "background.jobs"])
    site.write(
        {
            "shop/tasks.py": TASK.format("no"),
            "shop/jobs.py": TASK.format("yes"),
            "shop/background/jobs.py": TASK.format("also"),
        }
    )
    assert site.task_names() == ["shop.background.jobs.also", "shop.jobs.yes"]


@pytest.mark.parametrize("imports", ["lib.work", ["lib.work"], ("lib.work",)])
def test_imports_is_a_text_or_an_iterable(site, imports):
    site.settings(IMPORTS=imports)
    site.write({"lib/work.py": TASK.format("work"), "lib/other.py": "raise RuntimeError('not asked for')"})
    assert site.task_names() == ["lib.work.work"]


def test_a_broken_tasks_module_fails_the_start_with_its_own_traceback(site):
    site.settings(apps=["shop"])
    site.write({"shop/tasks.py": "import json\n\n1 / 0\n"})
    finished = site.manage("check")
    assert finished.returncode != 0
    assert 'shop/tasks.py", line 3' in finished.stderr
    assert finished.stderr.rstrip().endswith("ZeroDivisionError: division by zero")


def test_an_import_that_fails_inside_a_tasks_module_is_not_taken_for_a_missing_one(site):
    site.settings(apps=["shop"], AUTODISCOVER_MODULES="background.tasks")
    site.write({"shop/background/__init__.py": "import not_installed\n", "shop/background/tasks.py": ""})
    finished = site.manage("check")
    assert finished.returncode != 0
    assert "No module named 'not_installed'" in finished.stderr


def test_a_missing_module_of_imports_fails_the_start(site):
    site.settings(IMPORTS=["no_such_module"])
    finished = site.manage("check")
    assert finished.returncode != 0
    assert "DJTASKS['IMPORTS'] names the module 'no_such_module', which there is not." in finished.stderr


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('DJTASKS = ["database://"]', "DJTASKS must be a dict, not list."),
        ("DJTASKS = {'IMPORTS': 5}", "(djtasks.E007) DJTASKS['IMPORTS'] must be a module's name"),
        ("DJTASKS = {'IMPORTS': ['.jobs']}", "(djtasks.E007) DJTASKS['IMPORTS'] must be a module's name"),
        ("DJTASKS = {'AUTODISCOVER_MODULES': 5}", "(djtasks.E007) DJTASKS['AUTODISCOVER_MODULES'] must be a module's"),
    ],
)
@pytest.mark.parametrize("command", [["check"], ["check", "--deploy", "--database", "default"], ["runworker"]])
def test_settings_that_cannot_be_read_are_told_by_a_check_and_not_by_a_traceback(site, more, said, command):
    site.settings(more=more)
    finished = site.manage(*command)
    assert finished.returncode != 0
    assert said in finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_name_taken_twice_fails_the_start_and_names_both(site):
    site.settings(apps=["shop", "blog"])
    named = "from djtasks import shared_task\n\n\n@shared_task(name='same')\ndef {}():\n    pass\n"
    site.write({"shop/tasks.py": named.format("sell"), "blog/tasks.py": named.format("post")})
    finished = site.manage("check")
    assert finished.returncode != 0
    assert "'same'" in finished.stderr
    assert "shop.tasks.sell (line 4)" in finished.stderr
    assert "blog.tasks.post (line 4)" in finished.stderr


def test_an_unknown_name_is_not_registered():
    with pytest.raises(NotRegistered, match=r"^No task named 'no\.such' is registered here\.$"):
        registry.get("no.such")
    with pytest.raises(NotRegistered):
        registry.unregister("no.such")
    assert registry.find("no.such") is None


@pytest.mark.usefixtures("own_tasks")
def test_an_unregistered_task_is_forgotten():
    registry.unregister("tests.tasks.add")
    assert registry.find("tests.tasks.add") is None


def test_all_tasks_come_in_the_order_of_their_names():
    names = [task.name for task in registry.all_tasks()]
    assert names == sorted(names) == registry.names()
    assert tasks.add.name in names
