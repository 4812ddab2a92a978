"""Sends all of a site's mail in the background: `EMAIL_BACKEND = "djtasks.mail.EmailBackend"`.

`DJTASKS["EMAIL_BACKEND"]` is the backend that then delivers, in the worker. From Django 6.1 on, where MAILERS takes
the place of EMAIL_BACKEND, the option `mailer` names the one that delivers:
`{"default": {"BACKEND": "djtasks.mail.EmailBackend", "OPTIONS": {"mailer": "smtp"}}, "smtp": {"BACKEND": …}}`.
"""

from __future__ import annotations

import email
import email.policy
from collections.abc import Sequence
from email.message import Message as MIMEMessage
from email.message import MIMEPart
from email.mime.base import MIMEBase
from typing import Any

from django.core import mail
from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.core.mail.backends.base import BaseEmailBackend
from django.utils.module_loading import import_string

from djtasks.conf import settings
from djtasks.declare import shared_task
from djtasks.exceptions import BrokerUnavailable, ImproperlyConfigured

_FIELDS = ("subject", "body", "from_email", "to", "cc", "bcc", "reply_to")


class EmailBackend(BaseEmailBackend):
    """Makes a job of each message, to be delivered by the mailer `mailer`, or by `DJTASKS["EMAIL_BACKEND"]`."""

    def __init__(self, fail_silently: bool = False, *, mailer: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fail_silently = fail_silently
        self.mailer = mailer

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        """Queue the messages and return how many.

        Raises TypeError for one that cannot be carried, and, unless `fail_silently`, BrokerUnavailable.
        """
        alias = getattr(self, "alias", None)  # set where MAILERS made us
        if alias is not None and not self.mailer:
            raise ImproperlyConfigured(
                f"MAILERS[{alias!r}] queues mail, but does not say what delivers it: give it "
                f'"OPTIONS": {{"mailer": "<the alias of a mailer that delivers>"}}.'
            )
        packed = [pack(message) for message in email_messages if message.recipients()]
        try:
            send_mail.enqueue_many([(each, self.mailer) for each in packed])
        except BrokerUnavailable:
            if not self.fail_silently:
                raise
            return 0
        return len(packed)

    def deliverer(self) -> Any:
        """The backend that delivers, for mail that is not to become a job."""
        return _deliverer(self.mailer)


@shared_task(
    name="djtasks.mail.send",
    autoretry_for=(OSError,),
    retry_backoff=10,
    max_retries=8,
    sensitive_arguments=("packed",),
)
def send_mail(packed: dict[str, Any], mailer: str = "") -> int:
    """Deliver one message; a server that cannot be reached is tried again."""
    return _deliverer(mailer).send_messages([unpack(packed)]) or 0


def _deliverer(mailer: str) -> Any:
    return mail.mailers[mailer] if mailer else import_string(settings.EMAIL_BACKEND)()


def pack(message: EmailMessage) -> dict[str, Any]:
    """`message` as plain data, attachments included."""
    packed = {name: getattr(message, name) for name in _FIELDS}
    packed["headers"] = dict(message.extra_headers)
    packed["subtype"] = message.content_subtype
    packed["encoding"] = message.encoding if isinstance(message.encoding, str) else None
    packed["attachments"] = [_pack_attachment(each) for each in message.attachments]
    if isinstance(message, EmailMultiAlternatives):
        packed["alternatives"] = [[str(each[0]), each[1]] for each in message.alternatives]
    return packed


def unpack(packed: dict[str, Any]) -> EmailMessage:
    """The message that `pack` took apart."""
    fields = {name: packed[name] for name in _FIELDS}
    message = EmailMultiAlternatives(**fields, headers=packed["headers"], alternatives=packed.get("alternatives"))
    message.content_subtype = packed["subtype"]
    message.encoding = packed["encoding"]
    for attachment in packed["attachments"]:
        if isinstance(attachment, dict):
            message.attachments.append(_unpack_part(attachment))
        else:
            message.attach(*attachment)
    return message


def _pack_attachment(attachment: Any) -> dict[str, Any] | list[Any]:
    if isinstance(attachment, MIMEMessage):  # with headers of its own, such as the Content-ID of an inline image
        return {"part": attachment.as_bytes(), "modern": isinstance(attachment, MIMEPart)}
    name, content, mimetype = (*attachment, None)[:3]
    if isinstance(content, EmailMessage):
        content = content.message()
    return [name, content.as_bytes() if isinstance(content, MIMEMessage) else content, mimetype]


def _unpack_part(packed: dict[str, Any]) -> Any:
    if packed["modern"]:
        return email.message_from_bytes(packed["part"], policy=email.policy.default)
    return email.message_from_bytes(packed["part"], _class=_Part)


class _Part(MIMEBase):
    """What the parser makes, in the class that Django takes for a part."""

    def __init__(self, policy: Any = email.policy.compat32) -> None:
        MIMEMessage.__init__(self, policy=policy)
