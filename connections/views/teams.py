from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from connections import undo
from connections.access import counts, permissions, querysets, roles
from connections.forms.shares import MemberForm, TeamForm
from connections.models import Share, Team, TeamMember, User
from connections.models.connections import without_tokens
from connections.services.sharing import teams
from connections.views import list_pages
from connections.views.audit import history
from connections.views.form_handling import done, errors_on, get_visible, render_form


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    user = roles.current_user(request.user)
    filters = list_pages.Filters(
        request, search=("name",), placeholder="Team name", sorts=list_pages.name_sorts("name")
    )
    teams_with_count = querysets.visible_teams(user).annotate(count=counts.related(TeamMember.objects.all(), "team"))
    context = {
        "page": list_pages.page(request, filters.apply(teams_with_count), order=filters.order),
        "filters": filters,
        "may_manage": permissions.can_manage_teams(user),
    }
    return render(request, "teams/list.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
def add(request: HttpRequest) -> HttpResponse:
    user = roles.current_user(request.user)
    roles.require(
        permissions.can_manage_teams(user), cause="Only IT admins can manage teams.", action="Ask an IT admin."
    )
    form = TeamForm(request.POST or None)
    if form.is_valid():
        with errors_on(form):
            team = teams.add(**form.cleaned_data, actor=user)
            return redirect("team", pk=team.pk)
    return render_form(request, "teams/form.html", form)


@require_safe
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    user, team = get_visible(request, querysets.visible_teams, pk)
    return _detail(request, user, team)


def _detail(request: HttpRequest, user: User, team: Team, form: MemberForm | None = None) -> HttpResponse:
    may_manage = permissions.can_manage_teams(user)
    mine = querysets.visible_connections(user).values("pk")
    shares = Share.objects.active().filter(team=team, connection__in=mine).select_related("connection__owner")
    context = {
        "team": team,
        "members": team.memberships.select_related("user")[:200],
        "shares": without_tokens(shares)[:200],
        "may_manage": may_manage,
        "by_hand": teams.members_can_be_changed(team),
        "form": form or (MemberForm(people=querysets.people()) if may_manage else None),
        "events": history(user, team) if permissions.can_read_audit(user) else [],
    }
    return render(request, "teams/detail.html", context, status=422 if form else 200)


def _managed_team(request: HttpRequest, pk: int) -> tuple[User, Team]:
    """Return the user and a team that they may change. Raises Http404 or NotAllowed."""
    user, team = get_visible(request, querysets.visible_teams, pk)
    roles.require(permissions.can_manage_teams(user), action="Ask an IT admin.")
    return user, team


@require_http_methods(["GET", "HEAD", "POST"])
def edit(request: HttpRequest, pk: int) -> HttpResponse:
    user, team = _managed_team(request, pk)
    form = TeamForm(request.POST or None, initial={"name": team.name, "entra_group": team.entra_group})
    if form.is_valid():
        with errors_on(form):
            teams.change(team, **form.cleaned_data, actor=user)
            return done(request, "Saved.", "team", pk=pk)
    return render_form(request, "teams/form.html", form, {"team": team})


@require_http_methods(["GET", "HEAD", "POST"])
def remove(request: HttpRequest, pk: int) -> HttpResponse:
    user, team = _managed_team(request, pk)
    if request.method == "POST":
        teams.remove(team, actor=user)
        return done(request, f"{team} was removed.", "teams")
    shared = Share.objects.active().filter(team=team).count()
    return render(request, "teams/remove.html", {"team": team, "shared": shared, "members": team.members.count()})


@require_POST
def add_member(request: HttpRequest, pk: int) -> HttpResponse:
    user, team = _managed_team(request, pk)
    form = MemberForm(request.POST, people=querysets.people())
    if not form.is_valid():
        return _detail(request, user, team, form)
    teams.add_member(team, form.cleaned_data["user"], actor=user)
    return done(request, f"{form.cleaned_data['user']} was added to {team}.", "team", pk=pk)


@require_POST
def remove_member(request: HttpRequest, pk: int, user_pk: int) -> HttpResponse:
    user, team = get_visible(request, querysets.visible_teams, pk)
    member = get_object_or_404(User, pk=user_pk)
    teams.remove_member(team, member, actor=user)
    if permissions.can_manage_teams(user):
        undo.offer(request, "team_member_add", kwargs={"pk": pk}, fields={"user": [f"person:{member.pk}"]})
    return done(request, f"{member} was removed from {team}.", "team", pk=pk)
