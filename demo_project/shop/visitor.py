"""A visitor of the site: as much of a browser as signing in and looking at pages takes."""

from __future__ import annotations

import http.cookiejar
import urllib.parse
import urllib.request
from urllib.error import HTTPError

TIMEOUT = 10.0  # seconds


class Visitor:
    """Keeps cookies between its requests to the site at `address` (`http://127.0.0.1:8000`)."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.cookies = http.cookiejar.CookieJar()
        # Without the proxies that the environment may name.
        self.opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(self.cookies)
        )

    def status(self, path: str, fields: dict[str, str] | None = None) -> tuple[int, str]:
        """Request a page, or post `fields` to it. Returns the status and the path that it was led to.

        Raises OSError if nobody answers.
        """
        data = urllib.parse.urlencode(fields).encode() if fields else None
        request = urllib.request.Request(self.address + path, data)
        try:
            with self.opener.open(request, timeout=TIMEOUT) as answer:
                return answer.status, urllib.parse.urlsplit(answer.url).path
        except HTTPError as error:
            return error.code, path

    def sign_in(self, username: str, password: str) -> bool:
        """Sign in to the admin. Returns whether that let us in."""
        self.status("/admin/login/")
        token = next((cookie.value or "" for cookie in self.cookies if cookie.name == "csrftoken"), "")
        fields = {"username": username, "password": password, "csrfmiddlewaretoken": token, "next": "/admin/"}
        return self.status("/admin/login/", fields) == (200, "/admin/")
