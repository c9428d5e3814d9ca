from collections import defaultdict
from typing import Any

from django.db.models import Count, Exists, OuterRef, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe
from social_django.models import UserSocialAuth

from connections import effective_status, keyset
from connections.access import counts, permissions, querysets
from connections.access import roles as access_roles
from connections.fresh_sign_in import fresh_sign_in_required
from connections.models import ApiKey, Connection, Share, User
from connections.models.accounts import AUDITORS, IT_ADMINS
from connections.models.connections import without_tokens
from connections.services.people import accounts, ownership_transfer
from connections.views import access_history, list_pages
from connections.views.audit import history
from connections.views.form_handling import done

NAMED = 50  # listed objects of each kind on a person's page

_BY_NAME = ("first_name", "last_name")
_NEVER_SIGNED_IN = keyset.Part((*_BY_NAME, "pk"), Q(last_login=None))
SORTS = (
    *list_pages.name_sorts(*_BY_NAME),
    *(
        list_pages.Sort(name, label, (keyset.Part(order, Q(last_login__isnull=False)), _NEVER_SIGNED_IN))
        for name, label, order in (
            ("-signed_in", "Last sign-in: newest first", ("-last_login", "-pk")),
            ("signed_in", "Last sign-in: oldest first", ("last_login", "pk")),
        )
    ),
)


def _reader(request: HttpRequest) -> User:
    user = access_roles.current_user(request.user)
    cause = "Only IT admins and auditors can view people."
    access_roles.require(
        permissions.can_read_people(user), cause=cause, action="To view your own account, open the account menu."
    )
    return user


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    user = _reader(request)
    filters = list_pages.Filters(
        request,
        search=("username", "first_name", "last_name", "email"),
        placeholder="Name, user name or email",
        choices=(
            list_pages.Choice(
                "left",
                "Status",
                (("1", "Have left"), ("0", "Current")),
                lambda people, value: people.filter(left_at__isnull=value == "0"),
            ),
            list_pages.Choice("role", "Role", (("admin", "IT admins"), ("auditor", "Auditors")), _by_role),
            list_pages.Choice(
                "groups",
                "Groups",
                (("left-out", "Not included in sign-in"),),
                lambda people, _: people.filter(groups_left_out_at__isnull=False),
            ),
        ),
        sorts=SORTS,
    )
    page = list_pages.page(request, filters.apply(querysets.visible_people(user)), order=filters.order)
    context = {"page": page, "rows": _rows(page.items), "filters": filters}
    return render(request, "people/list.html", context)


def _by_role(people: QuerySet[User], value: str) -> QuerySet[User]:
    if value == "admin":
        return people.filter(pk__in=querysets.it_admins().values("pk"))
    return people.filter(groups__name=AUDITORS)


def _rows(people: list[User]) -> list[dict[str, Any]]:
    """Return the data of people, such as roles and counts, with a fixed number of queries."""
    pks = [person.pk for person in people]
    roles: defaultdict[int, set[str]] = defaultdict(set)
    for pk, name in User.groups.through.objects.filter(user__in=pks).values_list("user_id", "group__name"):
        roles[pk].add(name)
    with_microsoft = set(UserSocialAuth.objects.filter(user__in=pks).values_list("user_id", flat=True))
    number = counts.related(Connection.objects.all(), "owner")
    owned = dict(User.objects.filter(pk__in=pks).annotate(number=number).order_by().values_list("pk", "number"))
    keys = dict(_live_keys().filter(owner__in=pks).order_by().values_list("owner").annotate(Count("pk")))
    rows = []
    for person in people:
        ways = ["Microsoft"] if person.pk in with_microsoft else []
        ways += ["local password" if ways else "Local password"] if person.has_usable_password() else []
        row = {
            "person": person,
            "role": _role(person, roles[person.pk]),
            "ways": " or ".join(ways) or "None",
            "connections": owned.get(person.pk, 0),
            "keys": keys.get(person.pk, 0),
        }
        rows.append(row)
    return rows


def _live_keys() -> QuerySet[ApiKey]:
    return ApiKey.objects.filter(Q(expires_at=None) | Q(expires_at__gt=timezone.now()), revoked_at=None)


def _role(person: User, groups: set[str]) -> str:
    """Return an account's role, even if the account is disabled."""
    if person.is_superuser or IT_ADMINS in groups:
        return "IT admin"
    return "Auditor" if AUDITORS in groups else "Member"


@require_safe
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    user = _reader(request)
    person = get_object_or_404(querysets.visible_people(user), pk=pk)
    context = {
        "row": _rows([person])[0],
        "person": person,
        "connections": effective_status.load(querysets.visible_connections(user).filter(owner=person)[:NAMED]),
        # Shares of the person's own connections, no matter who created them.
        "given": _shares(Q(connection__owner=person)),
        "got": _shares(Q(person=person), Q(team__in=person.teams.values("pk"))),
        "keys": list(_live_keys().filter(owner=person)[:NAMED]),
        "consents": list(without_tokens(querysets.visible_consent_requests(user).filter(requester=person))[:NAMED]),
        "teams": list(person.teams.all()[:NAMED]),
        "service_accounts": list(querysets.visible_service_accounts(user).filter(responsible=person)[:NAMED]),
        "tasks": ownership_transfer.tasks_of(person),
        "may_disable": permissions.can_disable_person(user, person),
        "may_hand_over": permissions.can_manage_people(user),
        "events": history(user, person),
        "access_url": access_history.link("person", pk) if permissions.can_read_audit(user) else "",
    }
    return render(request, "people/detail.html", context)


def _shares(*conditions: Q) -> list[Share]:
    shares = querysets.any_of(Share.objects.active(), *conditions).select_related("connection__owner", "person", "team")
    return list(without_tokens(shares).order_by("connection__name", "pk")[:NAMED])


@require_http_methods(["GET", "HEAD", "POST"])
def disable(request: HttpRequest, pk: int) -> HttpResponse:
    user = access_roles.current_user(request.user)
    access_roles.require(
        permissions.can_manage_people(user), cause="Only IT admins can disable accounts.", action="Ask an IT admin."
    )
    person = get_object_or_404(querysets.visible_people(user), pk=pk)
    if request.method == "POST":
        accounts.disable_person(person, actor=user, now=timezone.now())
        return done(request, f"{person}'s account is disabled.", "person", pk=pk)
    context = {"row": _rows([person])[0], "person": person, "may_disable": permissions.can_disable_person(user, person)}
    return render(request, "people/disable.html", context)


@require_POST
@fresh_sign_in_required()
def enable(request: HttpRequest, pk: int) -> HttpResponse:
    user = access_roles.current_user(request.user)
    access_roles.require(
        permissions.can_manage_people(user), cause="Only IT admins can enable accounts.", action="Ask an IT admin."
    )
    person = get_object_or_404(querysets.visible_people(user), pk=pk)
    accounts.enable_person(person, actor=user, now=timezone.now())
    return done(request, f"{person}'s account is enabled.", "person", pk=pk)


def notices() -> dict[str, Any]:
    left = User.objects.filter(left_at__isnull=False)
    return {
        "leavers": {
            "people": counts.capped(left.filter(Exists(Connection.objects.filter(owner=OuterRef("pk"))))),
            "connections": counts.capped(Connection.objects.filter(owner__left_at__isnull=False)),
        },
        "groups_left_out": User.objects.filter(groups_left_out_at__isnull=False, is_active=True).count(),
    }
