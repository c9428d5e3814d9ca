"""Whether the audit trail is proven: its seals, where they are published, and verifications."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from connections import access
from connections.models import AuditSeal, AuditVerification, User
from connections.services import audit_checks, audit_publishing, audit_seals, audit_verification
from connections.views import listing

RUNS = 10


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    """All seals, newest first, and the latest verifications."""
    user = _reader(request)
    context = {
        "page": listing.page(request, AuditSeal.objects.defer("marks"), order=("-pk",)),
        "filters": listing.Filters(request),
        "unsealed": audit_seals.unsealed(most=listing.COUNT_LIMIT + 1),
        "publications": audit_publishing.states(),
        "runs": list(AuditVerification.objects.all()[:RUNS]),
        "unguarded": audit_checks.unguarded(),
        "pruned_upto": audit_checks.pruned_upto(),
        "may_verify": access.can_export_audit(user),
    }
    return render(request, "audit/seals.html", context)


@require_POST
def verify(request: HttpRequest) -> HttpResponse:
    """Have the whole trail verified; a worker does it, the page that follows tells how far it is."""
    user = _reader(request)
    asked = audit_verification.ask(actor=user, now=timezone.now())
    return redirect("audit_verification", pk=asked.pk)


@require_safe
def verification(request: HttpRequest, pk: int) -> HttpResponse:
    """One verification: how far it is, or what came of it."""
    user = _reader(request)
    run = get_object_or_404(AuditVerification, pk=pk)
    context = {
        "run": run,
        "percent": 100 if run.finished_at else 100 * run.checked // max(run.upto, 1),
        "may_verify": access.can_export_audit(user),
    }
    return render(request, "audit/verification.html", context)


def _reader(request: HttpRequest) -> User:
    user = access.signed_in(request.user)
    access.require(access.can_read_audit(user), action="Ask an IT admin or an auditor.")
    return user
