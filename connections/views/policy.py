from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_safe

from connections import keyset
from connections.access import permissions, querysets, roles
from connections.errors import Conflict, InvalidInput
from connections.forms.policy import ImpactForm, OrganisationRulesForm, RulesForm
from connections.fresh_sign_in import fresh_sign_in_required
from connections.models import AppRegistration, Connection, Policy, Share, User
from connections.services.governance import policy
from connections.services.governance import violations as policy_violations
from connections.services.policy import describe, evaluate, loosening
from connections.services.policy import rules as policy_rules
from connections.services.policy.rules import Rules
from connections.views.audit import history
from connections.views.form_handling import render_form

SHOWN = 200  # app registrations
VIOLATIONS = 50  # of each kind on a page


@require_http_methods(["GET", "HEAD", "POST"])
@fresh_sign_in_required()
def organisation(request: HttpRequest) -> HttpResponse:
    return _page(request, None)


@require_http_methods(["GET", "HEAD", "POST"])
@fresh_sign_in_required()
def of_app(request: HttpRequest, pk: int) -> HttpResponse:
    user = roles.current_user(request.user)
    return _page(request, get_object_or_404(querysets.visible_app_registrations(user), pk=pk))


def _page(request: HttpRequest, app: AppRegistration | None) -> HttpResponse:
    user = roles.current_user(request.user)
    if permissions.can_change_policy(user):
        return _edit(request, user, app)
    roles.require(request.method != "POST", cause="Only IT admins can change the policy.", action="Ask an IT admin.")
    if permissions.can_read_policy(user):
        return render(request, "policy/read.html", _context(user, app, policy.stored_policy(app)))
    summary = describe.summary(_effective(app, policy.stored_policy(app).rules))
    return render(request, "policy/summary.html", {"app": app, "summary": summary, "apps": _apps()})


def _effective(app: AppRegistration | None, rules: Rules) -> Rules:
    return policy_rules.stricter(policy.stored_policy().rules, rules) if app else rules


def _edit(request: HttpRequest, user: User, app: AppRegistration | None) -> HttpResponse:
    stored = policy.stored_policy(app)
    data = request.POST or None
    form = (
        RulesForm(stored.rules, data, organisation=policy.stored_policy().rules)
        if app
        else OrganisationRulesForm(stored.rules, data)
    )
    version = request.POST.get("version", "")
    is_number = version.isascii() and version.isdigit() and len(version) < 10
    context = _context(user, app, stored) | {"version": int(version) if is_number else stored.version}
    if form.is_valid() and "back" not in request.POST:
        try:
            return _save(request, user, app, form, context)
        except (InvalidInput, Conflict) as error:
            form.add_error(error.field if error.field in form.fields else None, str(error))
    return render_form(request, "policy/edit.html", form, context)


def _save(
    request: HttpRequest, user: User, app: AppRegistration | None, form: RulesForm, context: dict[str, Any]
) -> HttpResponse:
    """Save the rules. If existing objects would violate them, show the impact first, unless it has been shown."""
    # The form data as submitted, so that the preview can submit it again.
    context["carried"] = [
        (name, value) for name, values in request.POST.lists() if name in form.fields for value in values
    ]
    rules, now = form.rules(), timezone.now()
    impact = policy.preview(app, rules, now=now)
    seen = request.POST.get("seen", "")
    choice = ImpactForm(request.POST if seen else None)
    context |= {
        "impact": impact,
        "choice": choice if choice.is_bound else ImpactForm(),
        "changes": describe.differences(context["stored"].rules, rules),
    }
    if "preview" in request.POST or (impact and not choice.is_valid()):
        return render(request, "policy/preview.html", context)
    choices = choice.cleaned_data if choice.is_valid() else {}
    try:
        outcome = policy.change(
            app, rules, actor=user, now=now, version=context["version"], seen=seen or impact.fingerprint, **choices
        )
    except Conflict as error:
        messages.warning(request, str(error))
        return render(request, "policy/preview.html", context, status=409)
    messages.success(request, _describe(outcome))
    return redirect("policy_app", pk=app.pk) if app else redirect("policy")


def _describe(outcome: policy.Outcome) -> str:
    parts = ["Saved." if outcome.changed else "No changes were made."]
    for count, what in (
        (outcome.disabled, "connection{s} disabled"),
        (outcome.ended, "share{s} removed"),
        (outcome.shortened, "share{s} shortened"),
        (outcome.left_connections + outcome.left_shares, "flagged as policy violations"),
    ):
        if count:
            parts.append(f"{count} {what.format(s='' if count == 1 else 's')}.")
    return " ".join(parts)


def _context(user: User, app: AppRegistration | None, stored: policy.StoredPolicy) -> dict[str, Any]:
    row = Policy.objects.filter(app_registration=app).first()
    names = describe.tenant_names()
    return {
        "app": app,
        "stored": stored,
        "lines": describe.lines(stored.rules, tenants=names, of_app=app is not None),
        "effective": describe.lines(_effective(app, stored.rules), tenants=names) if app else {},
        "apps": _apps(),
        "created_while_loose": loosening.created_since_loosening(row),
        "events": history(user, row) if row else [],
    }


def _apps() -> list[tuple[AppRegistration, bool]]:
    """Return app registrations, and whether each has its own rules."""
    rules = evaluate.load_policies().apps
    apps = AppRegistration.objects.select_related("tenant").order_by("name", "pk")[:SHOWN]
    return [(app, app.pk in rules and rules[app.pk].restricts) for app in apps]


@require_safe
def violations(request: HttpRequest) -> HttpResponse:
    user = roles.current_user(request.user)
    roles.require(
        permissions.can_read_policy(user),
        cause="Only IT admins and auditors can view policy violations.",
        action="Ask an IT admin.",
    )
    policies, order = evaluate.load_policies(), policy_violations.IN_ORDER
    connections = policy_violations.check_connections(
        policies, after=keyset.decode(request.GET.get("after", ""), Connection, order), most=VIOLATIONS
    )
    shares = policy_violations.check_shares(
        policies,
        after=keyset.decode(request.GET.get("shares_after", ""), Share, ("pk",)),
        most=VIOLATIONS,
        now=timezone.now(),
    )
    context = {
        "impact": policy_violations.Impact(
            connections.violations, shares.violations, len(connections.violations), len(shares.violations)
        ),
        "steps": [
            {"what": what, "checked": step.checked, "url": _next_url(request, name, step.next)}
            for what, name, step in (("connections", "after", connections), ("shares", "shares_after", shares))
            if step.next
        ],
        "is_later_page": any(name in request.GET for name in ("after", "shares_after")),
    }
    return render(request, "policy/violations.html", context)


def _next_url(request: HttpRequest, name: str, key: list[Any]) -> str:
    query = request.GET.copy()
    query[name] = keyset.pack(key)
    return f"?{query.urlencode()}"
