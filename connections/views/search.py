"""The search over everything that the user may see. It is the box above the navigation; the / key focuses it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode
from django.views.decorators.http import require_safe

from connections.access import querysets, roles, search
from connections.models import ConnectionTag, User
from connections.services.api_keys import rate_limit
from connections.views.list_pages import SEARCH_LENGTH

MOST = 8  # results of each kind
PER_MINUTE = 120  # searches per user


@dataclass(frozen=True, slots=True)
class Result:
    url: str
    name: str
    note: str
    item: Any = None  # the object whose status is shown


@dataclass(frozen=True, slots=True)
class Group:
    label: str
    icon: str
    results: list[Result]
    more_url: str = ""  # the list with all matches, if there are more


@dataclass(frozen=True, slots=True)
class Source:
    """One kind of object, with the visible objects and the columns to search. ``page`` is the URL name of their pages."""

    label: str
    icon: str
    visible: Callable[[User], QuerySet[Any]]
    columns: Sequence[str]
    page: str
    note: Callable[[Any], str]
    name: Callable[[Any], str] = field(default=str)
    order: Sequence[str] = ("name", "pk")
    list_page: str = ""  # the URL name of a list that accepts the same ?q=
    has_status: bool = False


SOURCES = (
    Source(
        "Connections",
        "plug",
        querysets.visible_connections,
        ("name",),
        "connection",
        lambda connection: f"{connection.owner} · {connection.app_registration.name}",
        list_page="connections",
        has_status=True,
    ),
    Source(
        "Shared mailboxes",
        "mailbox",
        querysets.visible_mailboxes,
        ("address", "display_name"),
        "mailbox",
        lambda mailbox: mailbox.display_name,
        name=lambda mailbox: str(mailbox.address),
        order=("address", "pk"),
        list_page="mailboxes",
    ),
    Source(
        "App registrations",
        "apps",
        querysets.visible_app_registrations,
        ("name", "client_id"),
        "app",
        lambda app: str(app.tenant),
        list_page="apps",
        has_status=True,
    ),
    Source(
        "Tenants",
        "building-community",
        querysets.visible_tenants,
        ("name", "directory_id"),
        "tenant",
        lambda tenant: str(tenant.directory_id),
        list_page="tenants",
    ),
    Source(
        "People",
        "user",
        querysets.visible_people,
        ("username", "email", "first_name", "last_name"),
        "person",
        lambda person: str(person.username),
        order=("first_name", "last_name", "pk"),
        list_page="people",
        has_status=True,
    ),
    Source(
        "Service accounts",
        "settings",
        querysets.visible_service_accounts,
        ("first_name",),
        "service_account",
        lambda account: str(account.purpose),
        order=("first_name", "pk"),
        has_status=True,
    ),
    Source("Teams", "users", querysets.visible_teams, ("name",), "team", lambda team: "", list_page="teams"),
    Source(
        "References",
        "link",
        querysets.visible_references,
        ("name", "description"),
        "reference",
        # Don't show the connection, because the user may not be allowed to see it.
        lambda reference: str(reference.description),
    ),
    Source(
        "Incidents",
        "alert-triangle",
        querysets.visible_incidents,
        ("title",),
        "incident",
        lambda incident: "",
        order=("-opened_at", "-pk"),
        has_status=True,
    ),
)


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    """Show the matches for ``q``, up to MOST of each kind. They contain every word, ignoring case."""
    user = roles.current_user(request.user)
    query = " ".join(request.GET.get("q", "").replace("\x00", "").split())[:SEARCH_LENGTH]
    words = query.split()[: search.MOST_WORDS]
    context: dict[str, Any] = {"query": query, "is_short": 0 < len(query) < search.LEAST, "groups": []}
    if words and not context["is_short"]:
        state = rate_limit.count(f"search:{user.pk}", limit=PER_MINUTE, now=timezone.now())
        if state is not None and state.is_exceeded:
            context["is_limited"] = True
            response = render(request, "search/index.html", context, status=429)
            response["Retry-After"] = str(state.reset)
            return response
        groups = [_search(source, user, words, query) for source in SOURCES]
        groups.insert(1, _accounts(user, words))
        context["groups"] = [group for group in groups if group.results]
    return render(request, "search/index.html", context)


def _search(source: Source, user: User, words: Sequence[str], query: str) -> Group:
    rows = source.visible(user)
    matches = rows.filter(_contains_all(source.columns, words)).order_by(*source.order)
    items = list(matches[: MOST + 1])
    if source.page == "connection":
        items = _by_number_or_tag(rows, query) + items
    items = list({item.pk: item for item in items}.values())
    more = f"{reverse(source.list_page)}?{urlencode({'q': query})}" if source.list_page and len(items) > MOST else ""
    return Group(source.label, source.icon, [_result(source, item) for item in items[:MOST]], more)


def _by_number_or_tag(rows: QuerySet[Any], query: str) -> list[Any]:
    """Return the connection with this ID and those with this tag. The names are searched separately, to use indexes."""
    numbered = rows.filter(pk=int(query)) if query.isascii() and query.isdigit() and len(query) < 19 else rows.none()
    tagged = rows.filter(pk__in=ConnectionTag.objects.filter(name=query.lower()).values("connection"))
    return [*numbered, *tagged.order_by("name", "pk")[:MOST]]


def _result(source: Source, item: Any) -> Result:
    url = reverse(source.page, args=[item.pk])
    return Result(url, source.name(item), source.note(item), item if source.has_status else None)


def _accounts(user: User, words: Sequence[str]) -> Group:
    """Return Microsoft accounts, found through the connections that they signed in to."""
    visible = querysets.visible_connections(user).exclude(account_username="")
    matching = visible.filter(_contains_all(("account_username", "account_name"), words))
    rows = matching.order_by("account_username").values_list("account_username", "account_name").distinct()[:MOST]
    url = reverse("connections")
    results = [Result(f"{url}?{urlencode({'q': username})}", username, name) for username, name in rows]
    return Group("Microsoft accounts", "brand-windows", results)


def _contains_all(columns: Sequence[str], words: Sequence[str]) -> Q:
    condition = Q()
    for word in words:
        condition &= search.contains(columns, word)
    return condition
