"""Whether the audit trail is proven: its seals, where they are published, and verifications."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from connections.access import permissions, roles
from connections.models import AuditSeal, AuditVerification, User
from connections.services.audit import publishing, sealing, verification_checks
from connections.services.audit import verification as audit_verification
from connections.views import list_pages

RUNS = 10


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    """All seals, newest first, and the latest verifications."""
    user = _reader(request)
    context = {
        "page": list_pages.page(request, AuditSeal.objects.defer("marks"), order=("-pk",)),
        "filters": list_pages.Filters(request),
        "unsealed": sealing.count_unsealed(most=list_pages.COUNT_LIMIT + 1),
        "publications": publishing.publication_states(),
        "runs": list(AuditVerification.objects.all()[:RUNS]),
        "unguarded": verification_checks.tables_without_triggers(),
        "pruned_upto": verification_checks.last_pruned_seal(),
        "may_verify": permissions.can_export_audit(user),
    }
    return render(request, "audit/seals.html", context)


@require_POST
def verify(request: HttpRequest) -> HttpResponse:
    """Have the whole trail verified; a worker does it, the page that follows tells how far it is."""
    user = _reader(request)
    asked = audit_verification.request_verification(actor=user, now=timezone.now())
    return redirect("audit_verification", pk=asked.pk)


@require_safe
def verification(request: HttpRequest, pk: int) -> HttpResponse:
    """One verification: how far it is, or what came of it."""
    user = _reader(request)
    run = get_object_or_404(AuditVerification, pk=pk)
    context = {
        "run": run,
        "percent": 100 if run.finished_at else 100 * run.checked // max(run.upto, 1),
        "may_verify": permissions.can_export_audit(user),
    }
    return render(request, "audit/verification.html", context)


def _reader(request: HttpRequest) -> User:
    user = roles.current_user(request.user)
    roles.require(permissions.can_read_audit(user), action="Ask an IT admin or an auditor.")
    return user
