"""Pictures of every page of the admin, in the light and the dark theme, wide and narrow.

`python -m docs.screenshots FOLDER [page …]` runs the demo shop on a new SQLite file in a temporary folder, with an hour
of history that is the same each time, a worker and a site. It takes the packages of the extra `demo`, playwright, and a
Chromium: `pip install playwright`, then `playwright install chromium` or `apt-get install chromium`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any, Final

import django
from django.core.management import call_command
from PIL import Image
from playwright.sync_api import sync_playwright

from demo_project.shop.processes import Child, free_port, stopping
from tests.waiting import wait_until

LOGIN: Final = "ann"  # and the password
WIDTHS: Final = {"wide": 1280, "narrow": 390}
THEMES: Final = ("light", "dark")
PROGRAMS: Final = ("chromium", "chromium-browser", "google-chrome", "chrome")


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(prog="python -m docs.screenshots", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("pages", nargs="*", help="Only these. Default: all")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, _site(Path(folder)) as (address, pages):
        chosen = {name: page for name, page in pages.items() if not given.pages or name in given.pages}
        for path in _pictures(address, chosen, given.folder):
            print(path)


@contextmanager
def _site(folder: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    """The demo site with its history, a worker beside it: its address, and the addresses of its pages by name."""
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "demo_project.settings",
        "DEBUG": "true",
        "SECRET_KEY": "of the pictures",
        "DATABASE_URL": f"sqlite:///{folder / 'demo.sqlite3'}",
        "MEDIA_ROOT": str(folder / "media"),
        "ALLOWED_HOSTS": "127.0.0.1",
        "DJTASKS_RUNSERVER_WORKER": "false",
    }
    django.setup()
    call_command("migrate", verbosity=0)
    history = import_module("docs.history")  # its models may be imported from here on
    history.make()
    address, children = f"http://127.0.0.1:{free_port(8300)}", list[Child]()
    with stopping(children):
        for name, *arguments in (
            ("worker", "runworker", "-c", "2", "-n", "shop-1", "-Q", "default,payments,pictures,mail"),
            ("site", "runserver", "--noreload", address.removeprefix("http://")),
        ):
            command = [sys.executable, "manage.py", *arguments]
            children.append(Child(name, command, dict(os.environ), folder / f"{name}.log"))
        wait_until(lambda: _answers(address, children), 60)
        yield address, history.pages()


def _answers(address: str, children: list[Child]) -> bool:
    for child in children:
        child.check()
    try:
        with urllib.request.urlopen(f"{address}/admin/login/", timeout=5) as answer:  # noqa: S310 - our own
            return bool(answer.status == 200)
    except OSError:
        return False


def _pictures(address: str, pages: Mapping[str, str], folder: Path) -> Iterator[Path]:
    with sync_playwright() as driver:
        own = driver.chromium.executable_path
        program = own if Path(own).exists() else next(filter(None, map(shutil.which, PROGRAMS)))
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        for theme, (size, width) in product(THEMES, WIDTHS.items()):
            context = browser.new_context(
                base_url=address, color_scheme=theme, viewport={"width": width, "height": 844}, locale="en-GB"
            )
            shown = context.new_page()
            _log_in(shown)
            for name, page in pages.items():
                shown.goto(page)
                path = folder / f"{name}-{theme}-{size}.png"
                shown.screenshot(path=path, full_page=True)
                _shrink(path)
                yield path
            context.close()
        browser.close()


def _log_in(shown: Any) -> None:
    shown.goto("/admin/login/?next=/admin/djtasks/")
    shown.fill("#id_username", LOGIN)
    shown.fill("#id_password", LOGIN)
    shown.press("#id_password", "Enter")
    shown.wait_for_url("**/admin/djtasks/")


def _shrink(path: Path) -> None:
    """To 256 colours: no eye sees it in such pictures, and they are a third of the size."""
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


if __name__ == "__main__":
    main()
