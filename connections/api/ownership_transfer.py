"""Ownership transfers: of one connection, or of everything a person owns, with a preview of the consequences."""

from datetime import datetime
from typing import Annotated, Any, Literal

from django.db.models import QuerySet
from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from django.utils import timezone
from ninja import Query, Router, Schema
from pydantic import Field

from connections.access import permissions, querysets, roles
from connections.api import authentication, key_scoping
from connections.api.field_types import AsText, Label, Number, RequestSchema, Text
from connections.api.hrefs import link_to
from connections.api.idempotency import idempotent
from connections.api.key_scoping import Scope
from connections.api.pagination import Page, PageQuery, page
from connections.api.teams import PersonOut
from connections.errors import InvalidInput, PortalError
from connections.models import Connection, User
from connections.services.people import ownership_transfer
from connections.services.sharing import usage
from connections.validators import KEEP

router = Router(tags=["Handing over"])
AT_ONCE = 50  # connections per call; further calls transfer the rest
Grant = Annotated[
    Literal["keep", "cut"],
    Field(
        description="What becomes of the old account's tokens. keep: they go on until the new owner has signed in, if they "
        "still work. cut: they are deleted now, and there are none until then.",
        examples=["keep"],
    ),
]


class HandOverOut(Schema):
    id: int
    connection_id: int
    connection_name: str = Field(validation_alias="connection.name")
    from_owner: str = Field(validation_alias="from_name")
    from_owner_id: int | None
    to_owner: str = Field(validation_alias="to_name")
    to_owner_id: int | None
    at: datetime
    keeps_grant: bool = Field(description="Whether what there was before goes on until the new owner has signed in.")
    completed_at: datetime | None = Field(
        description="When the new owner had signed in; an app-only connection needs nobody to. Null: they are asked to."
    )
    link: Annotated[str, link_to("connection")] = Field(
        validation_alias="connection_id", description="The connection's page."
    )


class KeyUseOut(Schema):
    """An API key that has fetched tokens within the last 30 days."""

    key_id: int | None = Field(description="Null once the key is deleted.")
    name: str = Field(validation_alias="key_name")
    owner: str = Field(validation_alias="owner_name")
    count: int = Field(description="How often, within these 30 days.")
    last: datetime


class MeaningOut(Schema):
    """What handing a connection over means: what stops, and what goes on."""

    connection_id: int
    connection_name: str
    owner: AsText
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

    id: int = Field(validation_alias="key.pk")
    name: str = Field(validation_alias="key.name")
    fetched: list[str] = Field(description="Names of the connections whose tokens it fetched within 30 days.")


class BelongingsPage(Page[MeaningOut]):
    """What somebody owns: one page of connections, and what cannot be handed over with them."""

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
    new_name: Label = Field("", description="If the new owner has a connection of this name already.")
    seen_owner_id: Number | None = Field(
        None, description="Whose it was when you looked. If it is somebody else's by now, nothing is changed."
    )


class HandOverAllIn(NewOwner):
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


@router.get(
    "/connections/{ref}/hand-over", response=ConnectionMeaningOut, summary="Read what handing a connection over means"
)
def read_hand_over(request: HttpRequest, ref: str) -> Any:
    """For whoever may hand it over: whose keys stop, whose go on, and whether the old sign-in can be kept."""
    key, connection = authentication.key_and_connection(request, Scope.CONNECTIONS_READ, ref)
    roles.require(permissions.can_hand_over(key.owner, connection), action="Ask its owner or an IT admin.")
    return _consequences([connection])[0] | {"unfinished": ownership_transfer.pending_transfer(connection)}


@router.post("/connections/{ref}/hand-over", response=HandOverOut, summary="Hand a connection over")
@idempotent(Scope.CONNECTIONS_WRITE)
def hand_over(request: HttpRequest, ref: str, body: HandOverIn) -> Any:
    """The new owner owns it at once, and is asked to sign in for it. Its number stays, and so do its shares. Whoever
    gave away their own sees it no longer: the next call about it is answered with 404.
    """
    key, connection = authentication.key_and_connection(request, Scope.CONNECTIONS_WRITE, ref)
    roles.require(permissions.can_hand_over(key.owner, connection), action="Ask its owner or an IT admin.")
    owner = _new_owner(body, querysets.possible_owners())
    if connection.owner_id not in (owner.pk, body.seen_owner_id or connection.owner_id):
        raise ownership_transfer.owner_changed_error(connection)
    transfer = ownership_transfer.transfer(
        connection, owner, keep_grant=body.grant == KEEP, new_name=body.new_name, actor=key.owner, now=timezone.now()
    )
    transfer.connection = Connection.objects.only("name").get(pk=connection.pk)
    return transfer


@router.get("/people/{int:person_id}/hand-over", response=BelongingsPage, summary="List what somebody owns")
def read_belongings(request: HttpRequest, person_id: int, query: Query[PageQuery]) -> Any:
    """For IT admins: their connections by name, what stops when these are handed over, and their keys."""
    key = key_scoping.unlimited(request, Scope.ADMIN_READ)
    leaver = _leaver(key.owner, person_id)
    visible = querysets.visible_connections(key.owner).filter(owner=leaver)
    owned = page(visible, query, order=("name", "pk"))
    accounts = querysets.visible_service_accounts(key.owner).filter(responsible=leaver).order_by("pk")
    return {
        "items": _consequences(owned["items"]),
        "next": owned["next"],
        "keys": usage.working_keys(leaver, now=timezone.now()),
        "service_accounts": accounts[:AT_ONCE],
    }


@router.post("/people/{int:person_id}/hand-over", response=HandedOver, summary="Hand over what somebody owns")
@idempotent(Scope.ADMIN_WRITE)
def hand_over_all(request: HttpRequest, person_id: int, body: HandOverAllIn) -> Any:
    """For IT admins: each connection on its own, so that one that cannot be handed over does not hold up the others.
    Doing it twice is harmless.
    """
    key = key_scoping.unlimited(request, Scope.ADMIN_WRITE)
    leaver = _leaver(key.owner, person_id)
    owner = _new_owner(body, querysets.possible_owners().exclude(pk=leaver.pk))
    owned = querysets.visible_connections(key.owner).filter(owner=leaver)
    chosen = owned if body.connection_ids is None else owned.filter(pk__in=body.connection_ids)
    connections = list(chosen.order_by("name", "pk")[:AT_ONCE])
    done, failed = [], []
    for connection in connections:
        try:
            transfer = ownership_transfer.transfer(
                connection, owner, keep_grant=body.grant == KEEP, actor=key.owner, now=timezone.now()
            )
            transfer.connection = connection
            done.append(transfer)
        except PortalError as error:
            reason = {"code": error.code, "detail": error.cause, "action": error.action}
            failed.append({"connection_id": connection.pk, "connection_name": connection.name} | reason)
    known = {connection.pk for connection in connections}
    not_theirs = [pk for pk in dict.fromkeys(body.connection_ids or ()) if pk not in known]
    return {"done": done, "failed": failed, "not_theirs": not_theirs, "left": owned.count()}


def _leaver(user: User, person_id: int) -> User:
    roles.require(permissions.can_manage_people(user), cause="This takes an IT admin.", action="Ask one.")
    return get_object_or_404(querysets.visible_people(user), pk=person_id)


def _new_owner(body: NewOwner, people: QuerySet[User]) -> User:
    """Return the new owner. Raises InvalidInput if there is no such person, or they cannot own a connection."""
    if (body.new_owner_id is None) == (body.new_owner is None):
        raise InvalidInput("Send either new_owner_id or new_owner.", field="new_owner")
    by_id = body.new_owner_id is not None
    owner = people.filter(**({"pk": body.new_owner_id} if by_id else {"username": body.new_owner})).first()
    if owner is None:
        field = "new_owner_id" if by_id else "new_owner"
        raise InvalidInput("Nobody to whom this can be handed over is found under it.", field=field)
    return owner


def _consequences(connections: list[Connection]) -> list[dict[str, Any]]:
    """Return the consequences of transferring each connection, as MeaningOut."""
    used = usage.usage_of([connection.pk for connection in connections], now=timezone.now())
    return [
        {
            "connection_id": connection.pk,
            "connection_name": connection.name,
            "owner": connection.owner,
            "owner_id": connection.owner_id,
            "needs_sign_in": connection.is_delegated,
            "can_keep_grant": connection.is_delegated and ownership_transfer.can_keep_tokens(connection),
            "shares": list(used[connection.pk].shares),
            "keys_that_stop": used[connection.pk].keys_of(connection.owner_id),
            "keys_that_go_on": used[connection.pk].keys_of_others(connection.owner_id),
        }
        for connection in connections
    ]
