"""The group: how many of the jobs that were sent together have not ended yet, and what follows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from django.db import models
from django.utils.translation import gettext_lazy as _

from djtasks.message import Message, NewGroup
from djtasks.models.fields import UTCDateTimeField, utc_now
from djtasks.models.managers import AppManager

BATCH = 500  # rows


class JobGroupQuerySet(models.QuerySet["JobGroup"]):
    """Groups by where they stand."""

    def unfinished(self) -> JobGroupQuerySet:
        """Members of them are still to end."""
        return self.filter(remaining__gt=0)

    def forsaken(self, seconds: float) -> JobGroupQuerySet:
        """Open groups of which their senders have said nothing for `seconds`: they died while they sent."""
        return self.filter(open_at__lt=utc_now() - timedelta(seconds=seconds))

    def begin(self, groups: Sequence[NewGroup]) -> None:
        """Store groups whose members are sent in the same transaction; one that is there already stays as it is."""
        rows = [
            self.model(
                id=each.id,
                size=each.size,
                remaining=each.size,
                body=f"[{','.join(message.to_json() for message in each.body)}]" if each.body else None,
                open_at=utc_now() if each.is_open else None,
            )
            for each in groups
        ]
        self.bulk_create(rows, batch_size=BATCH, ignore_conflicts=True)

    def count_down(
        self, ended: Sequence[tuple[str, str | None]], grown: Sequence[tuple[str, int]] = ()
    ) -> list[Message]:
        """Count members as ended, (group, job) each, and groups as larger, (group, members) each.

        To be called in a transaction. Returns what follows the groups that are done; the parent of a body is the last
        job to end.
        """
        more: Counter[str] = Counter()
        for group_id, members in grown:
            more[group_id] += members
        counts = Counter(group_id for group_id, _job in ended)
        lasts = dict(ended)
        ids = {*counts, *more}
        rows = self.filter(pk__in=ids).select_for_update().order_by("pk").values_list("pk", "size", "remaining")
        done = []
        for group_id, size, remaining in rows:
            left = max(0, remaining + more[group_id] - counts[group_id])
            self.filter(pk=group_id).update(
                size=size + more[group_id], remaining=left, finished_at=None if left else utc_now()
            )
            if remaining and not left:
                done.append(group_id)
        return self._bodies(done, lasts)

    def _bodies(self, done: Sequence[str], lasts: Mapping[str, str | None]) -> list[Message]:
        bodies = self.filter(pk__in=done).exclude(body=None).order_by("pk").values_list("pk", "body") if done else []
        return [
            replace(message, parent_id=lasts.get(group_id))
            for group_id, body in bodies
            for message in Message.several_from_json(body or "[]")
        ]

    def prune(self, seconds: float, limit: int) -> int:
        """Delete up to `limit` groups that ended longer than `seconds` ago. Returns how many."""
        ended = self.filter(finished_at__lt=utc_now() - timedelta(seconds=seconds)).order_by("finished_at")
        ids = list(ended.values_list("pk", flat=True)[:limit])
        return int(self.filter(pk__in=ids).delete()[0]) if ids else 0


class JobGroup(models.Model):
    """The members of a group or of a chord's header, and how many have not ended yet."""

    id = models.CharField(max_length=64, primary_key=True)
    size = models.IntegerField(_("members"))
    remaining = models.IntegerField(_("not ended yet"))
    body = models.TextField(null=True, editable=False)  # noqa: DJ001 - null: a group without a body
    results = models.TextField(null=True, editable=False)  # noqa: DJ001 - null: GroupResult.save was not called
    created_at = UTCDateTimeField(_("created at"), default=utc_now)
    finished_at = UTCDateTimeField(_("finished at"), null=True)
    open_at = UTCDateTimeField(_("still sent at"), null=True)  # while its sender sends it, bit by bit

    objects = AppManager.from_queryset(JobGroupQuerySet)()

    class Meta:
        verbose_name = _("group")
        verbose_name_plural = _("groups")
        default_permissions = ("view",)

    def __str__(self) -> str:
        return self.id
