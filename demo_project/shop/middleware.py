"""What each answer says of itself."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

POLICY = "default-src 'self'; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
Respond = Callable[[HttpRequest], HttpResponse]


def content_security_policy(get_response: Respond) -> Respond:
    """Forbid inline scripts and styles on all pages, the admin's too; Django's own error pages need theirs."""

    def respond(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        if response.status_code < 400:
            response.headers.setdefault("Content-Security-Policy", POLICY)
        return response

    return respond
