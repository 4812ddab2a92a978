"""A traceback as it is read: the frames of the site's own code stand out from those of what it is built on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Final

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

MOST_LINES: Final = 5_000  # in which frames are told apart; what comes after them stands as it is
_FRAME: Final = re.compile(r'^\s*(?:\+ |\| )*\s*File "([^"]*)", line \d+')
# The worker's paths, not this process's: they are told by what they look like.
_LIBRARY: Final = re.compile(r"[/\\](?:site|dist)-packages[/\\]|[/\\][Ll]ib(?:64)?[/\\]python\d[^/\\]*[/\\]|^<")
_STANDARD_ON_WINDOWS: Final = re.compile(r"\\Python\d+\\Lib\\", re.IGNORECASE)
_OURS: Final = str(Path(__file__).parent.parent)


def marked(traceback: str) -> SafeString:
    """`traceback` as HTML in which the frames of the site's own code are marked."""
    groups = groupby(_lines(traceback), itemgetter(0))
    parts = ((is_own, "".join(text for _own, text in lines)) for is_own, lines in groups)
    return format_html_join(
        "",
        "{}",
        ((format_html('<mark class="djtasks-own">{}</mark>', text) if is_own else text,) for is_own, text in parts),
    )


def is_own(path: str) -> bool:
    """Whether a file is the site's own: neither of Python, nor of a package that was installed, nor of this app."""
    return not (_LIBRARY.search(path) or _STANDARD_ON_WINDOWS.search(path) or path.startswith(_OURS))


def _lines(traceback: str) -> Iterator[tuple[bool, str]]:
    """Each line, and whether it belongs to a frame of the site's own."""
    within = False
    for number, line in enumerate(traceback.splitlines(keepends=True)):
        if frame := _FRAME.match(line):
            within = number < MOST_LINES and is_own(frame[1])
        elif not line.startswith("    "):  # what a frame has below it stands deeper than its head
            within = within and line.lstrip().startswith(("|", "+")) and bool(line.lstrip("|+ ").strip())
        yield within, line
