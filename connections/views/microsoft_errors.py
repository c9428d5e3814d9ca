from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_http_methods

from connections import presentation
from connections.microsoft import pasted_errors


@login_not_required
@require_http_methods(["GET", "HEAD", "POST"])
def explain(request: HttpRequest) -> HttpResponse:
    """Explain a pasted error. It is sent as POST, because it may contain a sign-in code, and it is never shown again."""
    context = {}
    if request.method == "POST":
        answer = pasted_errors.explain(request.POST.get("shown", ""))
        context = {"answer": answer, "who": presentation.ERROR_ASSIGNEES[answer.who]}
        if getattr(request, "htmx", False):
            return render(request, "microsoft_errors/_answer.html", context)
    return render(request, "microsoft_errors/detail.html", context)
