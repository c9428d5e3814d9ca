from typing import Any

from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from connections.access import permissions, querysets, roles
from connections.errors import InvalidInput
from connections.forms.references import ReferenceDetailsForm, ReferenceForm, TargetForm
from connections.models import Connection, ConnectionReference, Team, User
from connections.services.sharing import references
from connections.views import list_pages
from connections.views.audit import history
from connections.views.form_handling import done, errors_on, get_visible, render_form

SHOWN = 50  # references shown on a connection's page


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    user = roles.current_user(request.user)
    filters = list_pages.Filters(
        request,
        search=("name", "description"),
        placeholder="Name or description",
        sorts=list_pages.name_sorts("name"),
    )
    page = list_pages.page(request, filters.apply(querysets.visible_references(user)), order=filters.order)
    context = {
        "page": page,
        "filters": filters,
        "visible": _visible_targets(user, page.items),
        "may_create": permissions.can_create_reference(user),
    }
    return render(request, "references/list.html", context)


def _visible_targets(user: User, rows: list[ConnectionReference]) -> set[int]:
    """Return the IDs of these references' connections, as far as the user may see them."""
    ids = [row.connection_id for row in rows if row.connection_id]
    return set(querysets.visible_connections(user).filter(pk__in=ids).values_list("pk", flat=True))


def panel(user: User, connection: Connection) -> dict[str, Any]:
    """Return the context for references/_panel.html: references to the connection, and whether it is a default."""
    pointing = querysets.visible_references(user).filter(connection=connection)
    mine = {row.connector for row in pointing.filter(owner=user).exclude(connector="")}
    may_use = permissions.can_fetch_token(user, connection)
    return {
        "references": list(pointing.filter(connector="")[:SHOWN]),
        "defaults": [(key, label, key in mine) for key, label in references.connectors_of(connection)]
        if may_use
        else [],
        "may_create": permissions.can_create_reference(user) and permissions.can_point_at(user, connection),
    }


@require_http_methods(["GET", "HEAD", "POST"])
def add(request: HttpRequest) -> HttpResponse:
    user = roles.current_user(request.user)
    roles.require(
        permissions.can_create_reference(user), cause="Auditors have read-only access.", action="Ask a member."
    )
    initial = {"connection": request.GET.get("connection", "")[:120]}
    form = ReferenceForm(request.POST or None, initial=initial, teams=_teams(user))
    if form.is_valid():
        data = form.cleaned_data
        with errors_on(form):
            connection = _target(user, data.pop("connection"))
            name = data.pop("name")
            reference = references.create(name, connection, **data, actor=user, now=timezone.now())
            return done(request, f"Reference {reference} was created.", "reference", pk=reference.pk)
    return render_form(request, "references/form.html", form)


def _teams(user: User, reference: ConnectionReference | None = None) -> QuerySet[Team]:
    """Return the user's own teams and the current team of the reference."""
    return querysets.any_of(Team.objects.all(), Q(members=user), Q(pk=reference.team_id if reference else None))


def _target(user: User, ref: str) -> Connection:
    """Return the visible connection with this ID or name. Raises InvalidInput unless there is exactly one."""
    visible = querysets.visible_connections(user)
    is_number = ref.isascii() and ref.isdigit() and len(ref) < 19
    matches = list(visible.filter(pk=int(ref))) if is_number else []
    matches = matches or list(visible.filter(name=ref)[:2])
    if len(matches) == 1:
        return matches[0]
    cause = "Several connections have this name." if matches else "There is no connection with this ID or name."
    raise InvalidInput(cause, action="Enter the connection ID from its page.", field="connection")


@require_safe
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    user, reference = get_visible(request, querysets.visible_references, pk)
    context = {
        "reference": reference,
        "connection_visible": reference.connection_id in _visible_targets(user, [reference]),
        "keys": references.keys_of(reference, now=timezone.now()) if _sees_keys(user, reference) else None,
        "may_point": permissions.can_point_reference(user, reference),
        "may_own": permissions.can_own_reference(user, reference),
        "form": TargetForm(),
        "events": history(user, reference),
    }
    return render(request, "references/detail.html", context)


def _sees_keys(user: User, reference: ConnectionReference) -> bool:
    """Whether the user may see which keys use the reference: IT admins, auditors and those who may point it."""
    return permissions.can_point_reference(user, reference) or permissions.can_read_audit(user)


@require_http_methods(["GET", "HEAD", "POST"])
def edit(request: HttpRequest, pk: int) -> HttpResponse:
    user, reference = get_visible(request, querysets.visible_references, pk)
    roles.require(permissions.can_own_reference(user, reference), action="Ask its owner or an IT admin.")
    initial = {"description": reference.description, "team": reference.team}
    form = ReferenceDetailsForm(request.POST or None, initial=initial, teams=_teams(user, reference))
    if form.is_valid():
        with errors_on(form):
            references.change(reference, **form.cleaned_data, actor=user)
            return done(request, "The reference was changed.", "reference", pk=pk)
    return render_form(request, "references/form.html", form, {"reference": reference})


@require_http_methods(["GET", "HEAD", "POST"])
def point(request: HttpRequest, pk: int) -> HttpResponse:
    """Point the reference at another connection.

    The user chooses the connection, sees which keys use the reference and which of them would lose access, and
    confirms.
    """
    user, reference = get_visible(request, querysets.visible_references, pk)
    roles.require(permissions.can_point_reference(user, reference), action="Ask its owner or an IT admin.")
    form = TargetForm(request.POST or request.GET or None)
    context: dict[str, Any] = {"reference": reference}
    if form.is_valid():
        with errors_on(form):
            target, now = _target(user, form.cleaned_data["connection"]), timezone.now()
            roles.require(permissions.can_point_at(user, target), cause=references.NO_TARGET)
            if request.method == "POST":
                seen = request.POST.get("seen", "")
                seen_id = int(seen) if seen.isascii() and seen.isdigit() and len(seen) < 19 else None
                references.point(reference, target, actor=user, now=now, seen=seen_id)
                return done(request, f"{reference} now points at {target}.", "reference", pk=pk)
            keys = references.keys_of(reference, now=now)
            context |= {"target": target, "keys": keys, "lacking": references.without_access(keys, target)}
    return render_form(request, "references/point.html", form, context)


@require_http_methods(["GET", "HEAD", "POST"])
def remove(request: HttpRequest, pk: int) -> HttpResponse:
    user, reference = get_visible(request, querysets.visible_references, pk)
    roles.require(permissions.can_own_reference(user, reference), action="Ask its owner or an IT admin.")
    if request.method == "POST":
        references.remove(reference, actor=user, now=timezone.now())
        return done(request, f"Reference {reference} was removed.", "references")
    keys = references.keys_of(reference, now=timezone.now())
    return render(request, "references/remove.html", {"reference": reference, "keys": keys})


@require_POST
def set_default(request: HttpRequest, pk: int) -> HttpResponse:
    """Make a connection the user's default for a connector. With ``remove`` in the form, remove the default."""
    user, connection = get_visible(request, querysets.visible_connections, pk)
    roles.require(permissions.can_fetch_token(user, connection), cause="This connection isn't shared with you.")
    connector, now = request.POST.get("connector", ""), timezone.now()
    labels = dict(references.connectors_of(connection))
    if connector not in labels:
        return redirect("connection", pk=pk)
    if "remove" in request.POST:
        own = ConnectionReference.objects.filter(owner=user, connector=connector, connection=connection)
        for reference in own:
            references.remove(reference, actor=user, now=now)
        return done(request, f"{connection} is no longer your default for {labels[connector]}.", "connection", pk=pk)
    references.set_default(connection, connector, actor=user, now=now)
    return done(request, f"{connection} is your default for {labels[connector]}.", "connection", pk=pk)
