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

router = Router(tags=["Transfer ownership"])
AT_ONCE = 50  # connections per call; further calls transfer the rest
Grant = Annotated[
    Literal["keep", "cut"],
    Field(
        description="keep: working tokens of the old account stay in use until the new owner signs in. "
        "cut: they are deleted immediately, and there are none until then.",
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
    keeps_grant: bool = Field(description="Whether the old sign-in stays in use until the new owner signs in.")
    completed_at: datetime | None = Field(
        description="When the new owner signed in. App-only connections need no sign-in. Null: not signed in yet."
    )
    link: Annotated[str, link_to("connection")] = Field(
        validation_alias="connection_id", description="The connection's page."
    )


class KeyUseOut(Schema):
    """An API key that has requested tokens within the last 30 days."""

    key_id: int | None = Field(description="Null if the key was deleted.")
    name: str = Field(validation_alias="key_name")
    owner: str = Field(validation_alias="owner_name")
    count: int = Field(description="Number of token requests within these 30 days.")
    last: datetime


class MeaningOut(Schema):
    """The consequences of a transfer: what stops working, and what continues."""

    connection_id: int
    connection_name: str
    owner: AsText
    owner_id: int
    needs_sign_in: bool = Field(description="Whether the new owner needs to sign in at Microsoft.")
    can_keep_grant: bool = Field(description="Whether the old sign-in still works and can be kept until then.")
    shares: list[str] = Field(
        description="The people and teams it is shared with. These shares stay. The new owner can remove them."
    )
    keys_that_stop: list[KeyUseOut] = Field(description="The owner's keys. They stop working for this connection.")
    keys_that_go_on: list[KeyUseOut] = Field(
        description="Keys of people with access through a share. They keep working."
    )


class ConnectionMeaningOut(MeaningOut):
    """The consequences for one connection, and whether an earlier transfer is still incomplete."""

    unfinished: HandOverOut | None = Field(description="The transfer whose new owner hasn't signed in yet.")


class WorkingKeyOut(Schema):
    """A valid API key. It acts as its owner, so you can't transfer it."""

    id: int = Field(validation_alias="key.pk")
    name: str = Field(validation_alias="key.name")
    fetched: list[str] = Field(description="Names of the connections whose tokens it requested within 30 days.")


class BelongingsPage(Page[MeaningOut]):
    """What a person owns: one page of connections, and keys and service accounts, which are not transferred."""

    keys: list[WorkingKeyOut] = Field(description="Their active keys, at most 100.")
    service_accounts: list[PersonOut] = Field(description="The service accounts they are responsible for, at most 50.")


class NewOwner(RequestSchema):
    """The new owner, by ID or by user name."""

    new_owner_id: Number | None = Field(None, description="The new owner's ID. Send either this or new_owner.")
    new_owner: Text | None = Field(
        None, min_length=1, max_length=150, description="The new owner's user name.", examples=["carol"]
    )
    grant: Grant = "keep"


class HandOverIn(NewOwner):
    new_name: Label = Field("", description="A new name, if the new owner already has a connection with this name.")
    seen_owner_id: Number | None = Field(
        None, description="The owner you last saw. If the owner has changed, the request fails."
    )


class HandOverAllIn(NewOwner):
    connection_ids: list[Number] | None = Field(
        None, min_length=1, max_length=AT_ONCE, description=f"Only these connections; null: the next {AT_ONCE} by name."
    )


class NotHandedOver(Schema):
    """A connection that was not transferred, and why."""

    connection_id: int
    connection_name: str
    code: str = Field(description="Stable, for programs.")
    detail: str
    action: str


class HandedOver(Schema):
    """The result of transferring a person's connections. Each one succeeds or fails independently."""

    done: list[HandOverOut]
    failed: list[NotHandedOver] = Field(description="Transfer these one by one, for example under another name.")
    not_theirs: list[int] = Field(description="The connection_ids that the person doesn't own.")
    left: int = Field(
        description="Number of connections they still own. Call again if it is higher than the number of failed ones."
    )


@router.get("/connections/{ref}/hand-over", response=ConnectionMeaningOut, summary="Preview an ownership transfer")
def read_hand_over(request: HttpRequest, ref: str) -> Any:
    """For those who may transfer it: which keys stop working or continue, and whether the old sign-in can be kept."""
    key, connection = authentication.key_and_connection(request, Scope.CONNECTIONS_READ, ref)
    roles.require(permissions.can_hand_over(key.owner, connection), action="Ask its owner or an IT admin.")
    return _consequences([connection])[0] | {"unfinished": ownership_transfer.pending_transfer(connection)}


@router.post("/connections/{ref}/hand-over", response=HandOverOut, summary="Transfer a connection")
@idempotent(Scope.CONNECTIONS_WRITE)
def hand_over(request: HttpRequest, ref: str, body: HandOverIn) -> Any:
    """Transfer a connection to a new owner. This takes effect immediately, and we ask the new owner to sign in.

    The connection keeps its ID and its shares. If you give away your own connection, you can no longer see it, and
    further calls return 404.
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


@router.get(
    "/people/{int:person_id}/hand-over", response=BelongingsPage, summary="List a person's connections and keys"
)
def read_belongings(request: HttpRequest, person_id: int, query: Query[PageQuery]) -> Any:
    """For IT admins: a person's connections by name, what stops working if they are transferred, and their keys."""
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


@router.post("/people/{int:person_id}/hand-over", response=HandedOver, summary="Transfer a person's connections")
@idempotent(Scope.ADMIN_WRITE)
def hand_over_all(request: HttpRequest, person_id: int, body: HandOverAllIn) -> Any:
    """For IT admins: transfer connections one by one. A failed transfer does not stop the others. Safe to repeat."""
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
    roles.require(permissions.can_manage_people(user), cause="Only IT admins can do this.", action="Ask an IT admin.")
    return get_object_or_404(querysets.visible_people(user), pk=person_id)


def _new_owner(body: NewOwner, people: QuerySet[User]) -> User:
    """Return the new owner. Raises InvalidInput if this person does not exist or cannot own a connection."""
    if (body.new_owner_id is None) == (body.new_owner is None):
        raise InvalidInput("Send either new_owner_id or new_owner.", field="new_owner")
    by_id = body.new_owner_id is not None
    owner = people.filter(**({"pk": body.new_owner_id} if by_id else {"username": body.new_owner})).first()
    if owner is None:
        field = "new_owner_id" if by_id else "new_owner"
        raise InvalidInput("This person doesn't exist or can't own connections.", field=field)
    return owner


def _consequences(connections: list[Connection]) -> list[dict[str, Any]]:
    """Return the consequences of transferring each connection, as input for MeaningOut."""
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
