"""The pages: each has a button that queues a job, and shows how far that job is."""

from __future__ import annotations

from typing import Any

from django import forms
from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import redirect
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from django.views.generic import FormView, TemplateView
from django.views.static import serve

from demo_project.shop import tasks
from demo_project.shop.forms import PaymentForm, SignUpForm, SumForm
from demo_project.shop.signup import sign_up
from djtasks import AsyncResult, EagerResult, states


class JobPage(FormView):
    """A page with one button. Its address with a job's id shows that job."""

    slug: str
    title: str
    teaser: str
    button: str
    task: str  # its name; the page shows jobs of no other task
    form_class = forms.Form

    def get_template_names(self) -> list[str]:
        return [f"shop/{self.slug}.html"]

    def send(self, values: dict[str, Any]) -> AsyncResult[Any] | None:
        """Queue the job that the form's `values` ask for."""
        raise NotImplementedError

    def form_valid(self, form: forms.Form) -> HttpResponse:
        result = self.send(form.cleaned_data)
        if result is None or isinstance(result, EagerResult):  # it ran at once and left no row to show
            return redirect(self.slug)
        return redirect(self.slug, job_id=result.id)

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        job_id = self.kwargs.get("job_id")
        return super().get_context_data(page=self, job=self.job(job_id) if job_id else None, **kwargs)

    def job(self, job_id: str) -> dict[str, Any]:
        result: AsyncResult[Any] = AsyncResult(job_id)
        if result.name not in (None, self.task):
            raise Http404
        outcome = result.result if result.ready() else None
        return {
            **standing(result),
            "value": outcome if result.successful() else None,
            "error": outcome if isinstance(outcome, BaseException) else None,
            "error_name": type(outcome).__name__,
            "args": result.args or (),
        }


class SignUp(JobPage):
    slug = "sign-up"
    title = "Sign up"
    teaser = "The welcome mail goes out in the background: one setting does that for all mail of a site."
    button = "Sign up"
    task = "djtasks.mail.send"
    form_class = SignUpForm

    def send(self, values: dict[str, Any]) -> AsyncResult[Any] | None:
        return sign_up(**values)


class Export(JobPage):
    slug = "export"
    title = "Order export"
    teaser = "A CSV file of 20,000 orders. The task says how far it is, and this site shows it."
    button = "Export the orders"
    task = tasks.export_orders.name

    def send(self, values: dict[str, Any]) -> AsyncResult[Any]:
        return tasks.export_orders.delay()


class ExportInParts(JobPage):
    slug = "export-in-parts"
    title = "Order export in parts"
    teaser = "Eight jobs write a part each, side by side, and one more joins them. The admin draws their tree."
    button = "Export in parts"
    task = tasks.export_in_parts.name

    def send(self, values: dict[str, Any]) -> AsyncResult[Any]:
        return tasks.export_in_parts.delay()


class Thumbnails(JobPage):
    slug = "thumbnails"
    title = "Thumbnails"
    teaser = "Six large pictures are drawn and shrunk with Pillow, away from the web process."
    button = "Make thumbnails"
    task = tasks.make_thumbnails.name

    def send(self, values: dict[str, Any]) -> AsyncResult[Any]:
        return tasks.make_thumbnails.delay()


class Payment(JobPage):
    slug = "payment"
    title = "Flaky payment"
    teaser = "The payment provider fails twice. The task is tried again, later each time, and succeeds."
    button = "Pay"
    task = tasks.charge_card.name
    form_class = PaymentForm

    def send(self, values: dict[str, Any]) -> AsyncResult[Any]:
        return tasks.charge_card.delay(values["amount"])


class Failure(JobPage):
    slug = "failure"
    title = "A task that fails"
    teaser = "No try would help this one. Its exception and traceback are kept, and the worker goes on."
    button = "Reserve a teapot"
    task = tasks.reserve_item.name

    def send(self, values: dict[str, Any]) -> AsyncResult[Any]:
        return tasks.reserve_item.delay("The teapot")


class HeavySum(JobPage):
    slug = "sum"
    title = "A heavy sum"
    teaser = "Seconds of computing. The page answers at once; the answer comes when it is there."
    button = "Add them up"
    task = tasks.sum_primes.name
    form_class = SumForm

    def send(self, values: dict[str, Any]) -> AsyncResult[Any]:
        return tasks.sum_primes.delay(values["below"])


PAGES: tuple[type[JobPage], ...] = (SignUp, Export, ExportInParts, Thumbnails, Payment, Failure, HeavySum)


class Start(TemplateView):
    """Says what there is."""

    template_name = "shop/start.html"
    extra_context = {"pages": PAGES}


@never_cache
@require_safe
def job_standing(request: HttpRequest, job_id: str) -> HttpResponse:
    """Answer how far a job of the shop is, as JSON: see `standing`."""
    result: AsyncResult[Any] = AsyncResult(job_id)
    if result.name not in (None, *(page.task for page in PAGES)):
        raise Http404
    return JsonResponse(standing(result))


def standing(result: AsyncResult[Any]) -> dict[str, Any]:
    """How far a job is: id, state, ready, retries, done and total (None unless it says so)."""
    ready = result.ready()  # asked first: then what follows is final
    state = result.state
    said = result.info if state not in states.READY_STATES else None
    progress = said if isinstance(said, dict) else {}
    return {
        "id": result.id,
        "state": state,
        "ready": ready,
        "retries": result.retries or 0,
        "done": progress.get("done"),
        "total": progress.get("total"),
    }


@require_safe
def download(request: HttpRequest, name: str) -> HttpResponseBase:
    """Hand out a file that a job has written, by its name below MEDIA_ROOT."""
    return serve(request, name, document_root=settings.MEDIA_ROOT)
