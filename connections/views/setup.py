from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.views.decorators.http import require_POST

from connections import undo
from connections.access import roles
from connections.services.operations import setup_checklist
from connections.views.form_handling import done, errors_as_messages


@require_POST
def confirm(request: HttpRequest, step: str) -> HttpResponse:
    """Confirm a step of the setup checklist, or dismiss the list ("checklist")."""
    with errors_as_messages(request):
        setup_checklist.confirm(step, actor=roles.current_user(request.user), now=timezone.now())
        undo.offer(request, "setup_reopen", kwargs={"step": step})
        is_dismissed = step == setup_checklist.Key.CHECKLIST
        return done(request, "Setup checklist dismissed." if is_dismissed else "Step confirmed.", "home")
    return redirect("home")


@require_POST
def reopen(request: HttpRequest, step: str) -> HttpResponse:
    setup_checklist.reopen(step, actor=roles.current_user(request.user), now=timezone.now())
    return redirect("home")
