"""A value as HTML: short ones in a line, the others as a tree that opens and closes without a script."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from djtasks.admin.presentation import DEEPEST, WIDTH, pretty

CONTAINERS: Final = (dict, list, tuple, set, frozenset)
MOST_ENTRIES: Final = 500  # of all containers of one value together
LONGEST_LINE: Final = 200  # characters of a text that stands as a line
OPEN_AT_FIRST: Final = 25  # entries that a container may have, to be open
CLOSED_FROM: Final = 3  # levels down, whatever the container has


def value_tree(value: Any) -> SafeString:
    """`value` as its reader sees it; what is too much is cut, and says so."""
    return _Tree().write(value, 0)


class _Tree:
    def __init__(self) -> None:
        self.left = MOST_ENTRIES

    def write(self, value: Any, depth: int) -> SafeString:
        if isinstance(value, CONTAINERS) and len(value) > 0 and depth < DEEPEST and not _is_short(value):
            return self.container(value, depth)
        return _scalar(pretty(value))

    def container(self, value: Any, depth: int) -> SafeString:
        count = ngettext("%(count)d entry", "%(count)d entries", len(value)) % {"count": len(value)}
        is_open = depth < CLOSED_FROM and (depth == 0 or len(value) <= OPEN_AT_FIRST)
        return format_html(
            '<details class="djtasks-value"{}><summary><code>{}</code> <span class="djtasks-quiet">{}</span></summary>'
            "<ul>{}</ul></details>",
            SafeString(" open") if is_open else "",
            type(value).__name__,
            count,
            format_html_join("", "<li>{}{}</li>", self.entries(value, depth)),
        )

    def entries(self, value: Any, depth: int) -> Iterator[tuple[SafeString | str, SafeString | str]]:
        pairs = value.items() if isinstance(value, dict) else ((None, each) for each in value)
        for position, (key, each) in enumerate(pairs):
            if self.left <= 0:
                yield "", _("… %(count)d more") % {"count": len(value) - position}
                return
            self.left -= 1
            label: SafeString | str = ""
            if isinstance(value, dict):
                label = format_html("<code>{}</code>: ", pretty(key))
            elif isinstance(value, (list, tuple)):
                label = format_html('<span class="djtasks-quiet">{}</span> ', position)
            yield label, self.write(each, depth + 1)


def _is_short(value: Any) -> bool:
    """Whether it stands in one line; big ones are not written to be told."""
    if len(value) > WIDTH:
        return False
    text = pretty(value)
    return len(text) <= WIDTH and "\n" not in text


def _scalar(text: str) -> SafeString:
    if len(text) <= LONGEST_LINE and "\n" not in text:
        return format_html("<code>{}</code>", text)
    return format_html(
        '<details class="djtasks-value"><summary><code>{}…</code></summary>'
        '<pre class="djtasks-text">{}</pre></details>',
        text[:WIDTH].replace("\n", " "),
        text,
    )
