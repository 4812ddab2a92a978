#!/usr/bin/env python
"""Django's command line for the demo site: `python manage.py demo` is the place to begin."""

from __future__ import annotations

import os
import sys

EXTRAS = {"django": "demo", "environ": "demo", "PIL": "demo", "rich": "demo", "pymysql": "demo,mysql"}


def main() -> None:
    """Run the command; what is missing or set wrongly is said in one sentence."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "demo_project.settings")
    if sys.argv[1:2] == ["demo"]:
        # The demo serves the machine that it runs on, and no other.
        os.environ.setdefault("DEBUG", "true")
    try:
        run()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in EXTRAS:
            raise
        sys.exit(f'The demo needs the package {missing}: pip install "djtasks[{EXTRAS[missing]}]"')


def run() -> None:
    from django.core.exceptions import ImproperlyConfigured  # noqa: PLC0415 - may be missing
    from django.core.management import execute_from_command_line  # noqa: PLC0415

    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        sys.exit(f"The demo's settings: {error}")


if __name__ == "__main__":
    main()
