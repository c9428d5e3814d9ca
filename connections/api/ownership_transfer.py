"""Handing over, over the API: one connection, or everything somebody owns; and what it means, before it is done."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from django.db.models import QuerySet
from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from django.utils import timezone
from ninja import Query, Router, Schema
from pydantic import Field

from connections.access import permissions, querysets, roles
from connections.api import authentication, key_scoping, problems
from connections.api.field_types import Label, Number, RequestSchema, Text
from connections.api.hrefs import page_link
from connections.api.idempotency import idempotent
from connections.api.key_scoping import Scope
from connections.api.pagination import Page, PageQuery, page
from connections.api.teams import PersonOut, describe_person
from connections.errors import InvalidInput, PortalError
from connections.models import Connection, HandOver, User
from connections.services.people import ownership_transfer
from connections.services.sharing import usage
from connections.validators import KEEP

router = Router(tags=["Handing over"])
AT_ONCE = 50  # connections in one call; the next ones follow with another
Grant = Annotated[
    Literal["keep", "cut"],
    Field(
        description="What becomes of the old account's tokens. keep: they go on until the new owner has signed in, if they "
        "still work. cut: they are deleted now, and there are none until then.",
        examples=["keep"],
    ),
]


class HandOverOut(Schema):
    """One change of owner."""

    id: int
    connection_id: int
    connection_name: str
    from_owner: str
    from_owner_id: int | None
    to_owner: str
    to_owner_id: int | None
    at: datetime
    keeps_grant: bool = Field(description="Whether what there was before goes on until the new owner has signed in.")
    completed_at: datetime | None = Field(
        description="When the new owner had signed in; an app-only connection needs nobody to. Null: they are asked to."
    )
    link: str = Field(description="The connection's page.")


class KeyUseOut(Schema):
    """An API key that has fetched tokens within the last 30 days."""

    key_id: int | None = Field(description="Null once the key is deleted.")
    name: str
    owner: str
    count: int = Field(description="How often, within these 30 days.")
    last: datetime


class MeaningOut(Schema):
    """What handing a connection over means: what stops, and what goes on."""

    connection_id: int
    connection_name: str
    owner: str
    owner_id: int
    needs_sign_in: bool = Field(description="Whether the new owner must sign in at Microsoft for it.")
    can_keep_grant: bool = Field(description="Whether the old sign-in still works, so that it can be kept until then.")
    shares: list[str] = Field(description="With whom it is shared. These stay; the new owner can end them.")
    keys_that_stop: list[KeyUseOut] = Field(description="Keys of its owner: a key acts as its owner.")
    keys_that_go_on: list[KeyUseOut] = Field(description="Keys of others, who reach it through a share.")


class ConnectionMeaningOut(MeaningOut):
    """The same for one connection, and whether an earlier hand-over is still unfinished."""

    unfinished: HandOverOut | None = Field(description="The hand-over whose new owner has not signed in yet.")


class WorkingKeyOut(Schema):
    """An API key that still works. It acts as its owner, and cannot be handed over."""

    id: int
    name: str
    fetched: list[str] = Field(description="Names of the connections whose tokens it fetched within 30 days.")


class BelongingsPage(Page):
    """What somebody owns: one page of connections, and what cannot be handed over with them."""

    items: list[MeaningOut]
    keys: list[WorkingKeyOut] = Field(description="Their keys that work, at most 100.")
    service_accounts: list[PersonOut] = Field(description="Those they are responsible for, at most 50.")


class NewOwner(RequestSchema):
    """Who gets it: a number, or a name to sign in with."""

    new_owner_id: Number | None = Field(None, description="Their number. Send either this or new_owner.")
    new_owner: Text | None = Field(
        None, min_length=1, max_length=150, description="The name they sign in with.", examples=["carol"]
    )
    grant: Grant = "keep"


class HandOverIn(NewOwner):
    """One connection to be handed over."""

    new_name: Label = Field("", description="If the new owner has a connection of this name already.")
    seen_owner_id: Number | None = Field(
        None, description="Whose it was when you looked. If it is somebody else's by now, nothing is changed."
    )


class HandOverAllIn(NewOwner):
    """What of a person's is to be handed over."""

    connection_ids: list[Number] | None = Field(
        None, min_length=1, max_length=AT_ONCE, description=f"Only these; null: the next {AT_ONCE} by name."
    )


class NotHandedOver(Schema):
    """A connection that stays where it is, and why."""

    connection_id: int
    connection_name: str
    code: str = Field(description="Stable, for programs.")
    detail: str
    action: str


class HandedOver(Schema):
    """What came of handing over a person's connections, each on its own."""

    done: list[HandOverOut]
    failed: list[NotHandedOver] = Field(description="Hand these over one by one, for example under another name.")
    not_theirs: list[int] = Field(description="Of connection_ids: what the person does not own (any more).")
    left: int = Field(description="How many connections they still own. Call again if there are more than failed.")


# --- One connection -------------------------------------------------------------------------------


@router.get(
    "/connections/{ref}/hand-over",
    response={200: ConnectionMeaningOut} | problems.responses(404, 409),
    summary="Read what handing a connection over means",
)
def read_hand_over(request: HttpRequest, ref: str) -> Any:
    """For whoever may hand it over: whose keys stop, whose go on, and whether the old sign-in can be kept."""
    key = authentication.require_scope(request, Scope.CONNECTIONS_READ)
    found = authentication.find_connection(key, ref)
    roles.require(permissions.can_hand_over(key.owner, found), action="Ask its owner or an IT admin.")
    waiting = ownership_transfer.pending_transfer(found)
    return _meaning([found])[0] | {"unfinished": describe(waiting, found) if waiting else None}


@router.post(
    "/connections/{ref}/hand-over",
    response={200: HandOverOut} | problems.responses(404, *problems.CREATING),
    summary="Hand a connection over",
)
@idempotent(Scope.CONNECTIONS_WRITE)
def hand_over(request: HttpRequest, ref: str, entry: HandOverIn) -> Any:
    """The new owner owns it at once, and is asked to sign in for it. Its number stays, and so do its shares. Whoever
    gave away their own sees it no longer: the next call about it is answered with 404.
    """
    key = authentication.require_scope(request, Scope.CONNECTIONS_WRITE)
    found = authentication.find_connection(key, ref)
    roles.require(permissions.can_hand_over(key.owner, found), action="Ask its owner or an IT admin.")
    owner = _chosen(entry, querysets.possible_owners())
    if found.owner_id not in (owner.pk, entry.seen_owner_id or found.owner_id):
        raise ownership_transfer.owner_changed_error(found)
    made = ownership_transfer.transfer(
        found,
        owner,
        keep_grant=entry.grant == KEEP,
        new_name=entry.new_name,
        actor=key.owner,
        now=timezone.now(),
    )
    return describe(made, Connection.objects.only("name").get(pk=found.pk))


# --- Everything somebody owns ---------------------------------------------------------------------


@router.get(
    "/people/{int:person_id}/hand-over",
    response={200: BelongingsPage} | problems.responses(404),
    summary="List what somebody owns",
)
def read_belongings(request: HttpRequest, person_id: int, wanted: Query[PageQuery]) -> Any:
    """For IT admins: their connections by name, what stops when these are handed over, and their keys."""
    key = key_scoping.unlimited(request, Scope.ADMIN_READ)
    leaver = _leaver(key.owner, person_id)
    found = page(_owned(key.owner, leaver), wanted, describe=lambda one: {"row": one}, order=("name", "pk"))
    accounts = querysets.visible_service_accounts(key.owner).filter(responsible=leaver).order_by("pk")[:AT_ONCE]
    return {
        "items": _meaning([one["row"] for one in found["items"]]),
        "next": found["next"],
        "keys": [
            {"id": working_key.key.pk, "name": working_key.key.name, "fetched": list(working_key.fetched)}
            for working_key in usage.working_keys(leaver, now=timezone.now())
        ],
        "service_accounts": [describe_person(account) for account in accounts],
    }


@router.post(
    "/people/{int:person_id}/hand-over",
    response={200: HandedOver} | problems.responses(404, *problems.CREATING),
    summary="Hand over what somebody owns",
)
@idempotent(Scope.ADMIN_WRITE)
def hand_over_all(request: HttpRequest, person_id: int, entry: HandOverAllIn) -> Any:
    """For IT admins: each connection on its own, so that one that cannot be handed over does not hold up the others.
    Doing it twice is harmless.
    """
    key = key_scoping.unlimited(request, Scope.ADMIN_WRITE)
    leaver = _leaver(key.owner, person_id)
    owner = _chosen(entry, querysets.possible_owners().exclude(pk=leaver.pk))
    owned = _owned(key.owner, leaver)
    wanted = owned if entry.connection_ids is None else owned.filter(pk__in=entry.connection_ids)
    found = list(wanted.order_by("name", "pk")[:AT_ONCE])
    done, failed = [], []
    for one in found:
        try:
            made = ownership_transfer.transfer(
                one, owner, keep_grant=entry.grant == KEEP, actor=key.owner, now=timezone.now()
            )
            done.append(describe(made, one))
        except PortalError as error:
            failed.append(_refused(one, error))
    known = {one.pk for one in found}
    not_theirs = [pk for pk in dict.fromkeys(entry.connection_ids or ()) if pk not in known]
    return {"done": done, "failed": failed, "not_theirs": not_theirs, "left": owned.count()}


# --- Parts ----------------------------------------------------------------------------------------


def _leaver(user: User, person_id: int) -> User:
    roles.require(permissions.can_manage_people(user), cause="This takes an IT admin.", action="Ask one.")
    return get_object_or_404(querysets.visible_people(user), pk=person_id)


def _owned(user: User, leaver: User) -> QuerySet[Connection]:
    return querysets.visible_connections(user).filter(owner=leaver)


def _chosen(entry: NewOwner, people: QuerySet[User]) -> User:
    """The new owner. Raises InvalidInput if there is no such person, or they cannot own a connection."""
    if (entry.new_owner_id is None) == (entry.new_owner is None):
        raise InvalidInput("Send either new_owner_id or new_owner.", field="new_owner")
    if entry.new_owner_id is not None:
        field, found = "new_owner_id", people.filter(pk=entry.new_owner_id)
    else:
        field, found = "new_owner", people.filter(username=entry.new_owner)
    chosen = found.first()
    if chosen is None:
        raise InvalidInput("Nobody to whom this can be handed over is found under it.", field=field)
    return chosen


def _meaning(connections: list[Connection]) -> list[dict[str, Any]]:
    used = usage.usage_of([connection.pk for connection in connections], now=timezone.now())
    return [
        {
            "connection_id": connection.pk,
            "connection_name": connection.name,
            "owner": str(connection.owner),
            "owner_id": connection.owner_id,
            "needs_sign_in": connection.is_delegated,
            "can_keep_grant": connection.is_delegated and ownership_transfer.can_keep_tokens(connection),
            "shares": list(used[connection.pk].shares),
            "keys_that_stop": [_describe_use(use) for use in used[connection.pk].keys_of(connection.owner_id)],
            "keys_that_go_on": [_describe_use(use) for use in used[connection.pk].keys_of_others(connection.owner_id)],
        }
        for connection in connections
    ]


def _describe_use(use: usage.KeyUse) -> dict[str, Any]:
    return {
        "key_id": use.key_id,
        "name": use.key_name,
        "owner": use.owner_name,
        "count": use.count,
        "last": use.last,
    }


def _refused(connection: Connection, error: PortalError) -> dict[str, Any]:
    return {
        "connection_id": connection.pk,
        "connection_name": connection.name,
        "code": error.code,
        "detail": error.cause,
        "action": error.action,
    }


def describe(transfer: HandOver, connection: Connection) -> dict[str, Any]:
    """A hand-over of ``connection`` as HandOverOut."""
    return {
        "id": transfer.pk,
        "connection_id": connection.pk,
        "connection_name": connection.name,
        "from_owner": transfer.from_name,
        "from_owner_id": transfer.from_owner_id,
        "to_owner": transfer.to_name,
        "to_owner_id": transfer.to_owner_id,
        "at": transfer.at,
        "keeps_grant": transfer.keeps_grant,
        "completed_at": transfer.completed_at,
        "link": page_link("connection", connection.pk),
    }
