from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from connections.access import permissions
from connections.models import AuditSeal, AuditVerification
from connections.services.audit import guards, pruning, publishing, restores, sealing, streaming, verification_records
from connections.services.audit import verification as audit_verification
from connections.time_zones import in_utc
from connections.views import list_pages
from connections.views.audit import audit_reader

RUNS = 10


@require_safe
@in_utc
def index(request: HttpRequest) -> HttpResponse:
    user = audit_reader(request)
    context = {
        "page": list_pages.page(request, AuditSeal.objects.defer("marks"), order=("-pk",)),
        "filters": list_pages.Filters(request),
        "unsealed": sealing.count_unsealed(most=list_pages.COUNT_LIMIT + 1),
        "publications": [*publishing.publication_states(), *streaming.states()],
        "runs": list(AuditVerification.objects.all()[:RUNS]),
        "unguarded": guards.unguarded_tables(),
        "pruned_upto": pruning.last_pruned_seal(),
        "restores": restores.declared(),
        "may_verify": permissions.can_export_audit(user),
    }
    return render(request, "audit/seals.html", context)


@require_POST
def verify(request: HttpRequest) -> HttpResponse:
    """Request a verification of the whole trail, which a worker carries out."""
    user = audit_reader(request)
    run = audit_verification.request_verification(actor=user, now=timezone.now())
    return redirect("audit_verification", pk=run.pk)


@require_safe
def verification(request: HttpRequest, pk: int) -> HttpResponse:
    user = audit_reader(request)
    run = get_object_or_404(AuditVerification, pk=pk)
    context = {
        "run": run,
        "outcome": _outcome(run),
        "is_signed": verification_records.is_signed(run),
        "percent": 100 if run.finished_at else 100 * run.checked // max(run.upto, 1),
        "may_verify": permissions.can_export_audit(user),
    }
    return render(request, "audit/verification.html", context)


def _outcome(run: AuditVerification) -> str:
    match run.state:
        case AuditVerification.State.INTACT if run.since:
            return f"Every row after seal {run.since} matches its seal, and every seal the one before."
        case AuditVerification.State.INTACT if run.upto:
            return "All rows match their seals, and the chain of seals is intact."
        case AuditVerification.State.INTACT:
            return "There are no seals to verify yet."
        case AuditVerification.State.BROKEN:
            return f"Broken at seal {run.findings[0]['seal'] if run.findings else ''}."
        case AuditVerification.State.WAITING:
            return "The verification will start within a few seconds."
    return "Verification in progress."
