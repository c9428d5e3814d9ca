"""The list of connections, with its filters, orders, columns, row menus and download."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST

from connections import csv_export, effective_status, keyset, presentation
from connections.access import permissions, querysets, roles
from connections.effective_status import EffectiveStatus
from connections.errors import InvalidInput
from connections.fresh_sign_in import fresh_sign_in_required
from connections.models import Connection, User
from connections.models.app_registrations import AuthenticationType
from connections.services.audit import recorded_export
from connections.services.expiry import forecast
from connections.services.people import preferences
from connections.services.policy.next_steps import AWAITS_NEW_OWNER
from connections.validators import parse_tags
from connections.views import list_pages

PAGE = "connections"  # the list's name in saved views and chosen columns
COLUMNS = {
    "owner": "Owner",
    "type": "Type",
    "app": "App registration",
    "created": "Created",
    "refreshed": "Last refreshed",
    "expires": "Expires",
}
DEFAULT_COLUMNS = ("owner", "app", "refreshed", "expires")
_BY_OWNER = ("owner__first_name", "owner__last_name", "owner__pk")
# See "What the list of connections is sorted by" in docs/decisions.md.
_BY_STATUS = tuple(
    keyset.Part(("name", "pk"), partial(effective_status.condition, status))
    for status in (
        *effective_status.BROKEN,
        *effective_status.WAITING,
        EffectiveStatus.DISABLED,
        EffectiveStatus.ACTIVE,
    )
)
SORTS = (
    *list_pages.name_sorts("name"),
    list_pages.Sort("status", "Status: problems first", _BY_STATUS),
    list_pages.Sort("-status", "Status: active first", _BY_STATUS[::-1]),
    list_pages.Sort.by("owner", "Owner: A to Z", *_BY_OWNER, "name", "pk"),
    list_pages.Sort.by("-owner", "Owner: Z to A", *(f"-{name}" for name in _BY_OWNER), "-name", "-pk"),
    # IDs increase in the order of creation.
    list_pages.Sort.by("-created", "Newest first", "-pk"),
    list_pages.Sort.by("created", "Oldest first", "pk"),
)
CHUNK = 500  # rows of a download that are read at a time
Status = Connection.Status


def filters_of(request: HttpRequest) -> list_pages.Filters:
    """Return the filters from the query string. Bulk actions on all matching connections use them, too."""
    return list_pages.Filters(
        request,
        model=Connection,
        search=("name", "account_username", "app_registration__name", "owner__username"),
        placeholder="Name, account, app registration or owner",
        choices=(
            list_pages.Choice("status", "Status", EffectiveStatus.choices, _by_state),
            list_pages.Choice("type", "Type", AuthenticationType.choices, list_pages.by("authentication_type")),
        ),
        words=(list_pages.Word("tag", "Tag", _tagged),),
        sorts=SORTS,
    )


def _by_state(connections: QuerySet[Connection], value: str) -> QuerySet[Connection]:
    return connections.filter(effective_status.condition(EffectiveStatus(value)))


def _tagged(connections: QuerySet[Connection], tag: str) -> QuerySet[Connection]:
    try:
        names = parse_tags([tag])
    except InvalidInput:
        return connections.none()  # an invalid tag matches no connection
    return connections.filter(tags__name=names[0]) if names else connections


def layout(user: User) -> dict[str, Any]:
    """Return the context for the columns: those that are shown, and all available ones."""
    chosen = preferences.columns_of(user, PAGE, DEFAULT_COLUMNS)
    return {"columns": [name for name in COLUMNS if name in chosen], "all_columns": COLUMNS}


def menus(user: User, connections: Iterable[Connection]) -> dict[int, dict[str, bool]]:
    """Return the items of each row's menu by connection ID, with one query for all rows.

    An item that the policy or the connection's state doesn't allow is still offered. Choosing it explains why.
    """
    rows = list(connections)
    managed = permissions.managed_among(user, rows)
    is_admin = roles.person(user).is_admin
    menus = {}
    for row in rows:
        manages, owns = row.pk in managed, permissions.owns(user, row)
        is_off = row.status == Status.DISABLED
        menu = {
            "check": (manages or is_admin)
            and row.status not in (Status.PENDING, Status.DISABLED)
            and row.status_code != AWAITS_NEW_OWNER,
            "sign_in": manages and row.is_delegated and not is_off,
            "share": manages or is_admin,
            "disable": (owns or is_admin) and not is_off,
            "enable": (owns or is_admin) and is_off and (is_admin or not row.disabled_by_admin),
        }
        menus[row.pk] = menu if any(menu.values()) else {}
    return menus


@require_POST
def columns(request: HttpRequest) -> HttpResponse:
    """Save which columns the user wants to see."""
    user = roles.current_user(request.user)
    chosen = [name for name in request.POST.getlist("column") if name in COLUMNS]
    preferences.choose_columns(user, PAGE, chosen)
    return redirect(f"{reverse('connections')}?{list_pages.query_without_page(request).urlencode()}")


@require_POST
@fresh_sign_in_required()
def export(request: HttpRequest) -> HttpResponseBase:
    """Download all connections that match the filters, as CSV. This is a POST because the download is recorded."""
    user = roles.current_user(request.user)
    filters = filters_of(request)
    matching = filters.apply(querysets.visible_connections(user).prefetch_related("tags"))
    header = ("ID", "Name", "Account", "Status", *COLUMNS.values(), "Tenant", "Tags")
    rows = _lines(matching, filters, user)
    rows = recorded_export.of_list(rows, name="Connections", filters=filters.given, actor=user)
    return csv_export.as_csv("connections.csv", header, rows)


def _lines(matching: QuerySet[Connection], filters: list_pages.Filters, user: User) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a download, reading CHUNK at a time."""
    parts = (filters.sort or SORTS[0]).parts
    key: keyset.PartKey | None = None
    while True:
        rows = keyset.page_rows_in_parts(matching, parts, CHUNK, key=key)
        shown = [row for _, row in rows[:CHUNK]]
        effective_status.load(shown)
        expirations = forecast.next_expirations(shown, now=timezone.now(), reader=user)
        for row in shown:
            expires = expirations.get(row.pk)
            yield (
                row.pk,
                row.name,
                row.account_username,
                presentation.connection_badge(row).word,
                row.owner.username,
                row.get_authentication_type_display(),
                row.app_registration.name,
                csv_time(row.created_at),
                csv_time(row.refreshed_at),
                csv_time(expires.at if expires else None),
                row.tenant.name,
                ", ".join(tag.name for tag in row.tags.all()),
            )
        if len(rows) <= CHUNK:
            return
        key = keyset.decode_in_parts(keyset.encode_in_parts(*rows[CHUNK - 1], parts), Connection, parts)


def csv_time(moment: Any) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else ""
