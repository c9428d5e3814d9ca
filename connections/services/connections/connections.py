"""Connections: made, changed, switched off and on, removed. Signing in is in sign_ins, refreshing in keepalive."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone

from connections import audit
from connections.access import permissions, roles
from connections.errors import (
    AlreadyExists,
    ApprovalNeeded,
    InvalidInput,
    MicrosoftRefused,
    NotAllowed,
    PolicyForbids,
    PortalError,
)
from connections.microsoft import capabilities, token_endpoint
from connections.models import AppRegistration, Connection, SharedMailbox, User
from connections.models.app_registrations import AuthenticationType
from connections.models.audit import AuditAction
from connections.models.connections import status_columns
from connections.services.connections import permission_changes, sign_in_links
from connections.services.consent import request_status
from connections.services.incidents import incidents
from connections.services.mailboxes import mailboxes, probes
from connections.services.people import ownership_transfer
from connections.services.policy import approvals, evaluate, permission_drift
from connections.services.policy.evaluate import Decision
from connections.services.registry import credential_checks
from connections.services.sharing import history
from connections.services.tokens import apply_results, batch_client, store


def start_delegated(
    app_registration: AppRegistration,
    *,
    name: str,
    chosen: Sequence[str],
    extra_scopes: Sequence[str] = (),
    shared_mailboxes: Sequence[SharedMailbox] = (),
    actor: User,
    now: datetime | None = None,
    reason: str = "",
) -> Connection:
    """Make a connection that waits for its owner's sign-in; nothing is authorised yet.

    Where the policy wants an approval, it is asked for with ``reason``, and nobody can sign in before it is given.
    Raises NotAllowed, PolicyForbids, InvalidInput, or AlreadyExists if the owner has a connection of that name.
    """
    roles.require(permissions.can_connect(actor), cause="Auditors only look.", action="Ask a member to connect.")
    made = _new(app_registration, AuthenticationType.AUTHORIZATION_CODE, name, chosen, extra_scopes, actor)
    made.created_at = now or made.created_at
    decision, _ = approvals.evaluate_approval(made)
    evaluate.refuse_forbidden(decision)
    with transaction.atomic():
        _insert(made, shared_mailboxes, actor)
        if decision.approval:
            approvals.request_approval(made, decision.approval, reason=reason, actor=actor, now=now or timezone.now())
    return made


def connect_app_only(
    app_registration: AppRegistration,
    *,
    name: str,
    chosen: Sequence[str],
    extra_scopes: Sequence[str] = (),
    shared_mailboxes: Sequence[SharedMailbox] = (),
    actor: User,
    now: datetime,
    reason: str = "",
) -> Connection:
    """Get an app-only token at Microsoft and store the connection with it.

    Where the policy wants an approval, it is asked for with ``reason``, and the connection waits as "pending" without
    Microsoft being asked; finish_app_only goes on after it. A token that carries none of the permissions is stored as "consent needed", because an administrator can mend
    it without anything being typed again, unless it reaches one of the mailboxes. Raises NotAllowed, PolicyForbids,
    InvalidInput, AlreadyExists, MicrosoftRefused (nothing is stored) or MicrosoftUnavailable (nothing is stored).
    """
    roles.require(
        permissions.can_connect_app_only(actor),
        cause="An app-only connection reaches the whole tenant.",
        action="Ask an IT admin to make it.",
    )
    made = _new(app_registration, AuthenticationType.CLIENT_CREDENTIALS, name, chosen, extra_scopes, actor)
    decision, _ = approvals.evaluate_approval(made)
    evaluate.refuse_forbidden(decision)
    answer = None if decision.approval else _first_token(app_registration, now)
    if answer is not None:
        decision, _ = approvals.evaluate_approval(made, answer.granted)
        evaluate.refuse_forbidden(decision)
    with transaction.atomic():
        _insert(made, shared_mailboxes, actor)
        if answer is None or decision.approval:
            _ask(made, decision, reason=reason, actor=actor, now=now)
            return _as_stored(made)
        _authorise(made, answer, actor, now)
    return _tried_in_mailboxes(made, answer, actor, now)


def finish_app_only(connection: Connection, *, actor: User, now: datetime) -> Connection:
    """Get the first token of an app-only connection that waited for its approval; doing it twice is harmless.

    Raises NotAllowed, PolicyForbids, ApprovalNeeded, and what Microsoft answers as connect_app_only does.
    """
    roles.require(permissions.can_reconnect(actor, connection))
    if connection.is_delegated or connection.status != Connection.Status.PENDING:
        return connection
    approvals.require(connection)
    answer = _first_token(connection.app_registration, now)
    with transaction.atomic():
        current = Connection.objects.select_for_update(of=("self",), no_key=True).select_related(
            "app_registration__tenant"
        )
        made = current.get(pk=connection.pk)
        roles.require(permissions.can_reconnect(actor, made))
        decision, missing = approvals.evaluate_approval(made, answer.granted)
        evaluate.refuse_forbidden(decision)
        if made.status != Connection.Status.PENDING:
            return made
        if not missing:
            _authorise(made, answer, actor, now)
    if missing:
        _ask(made, Decision(missing), reason="", actor=actor, now=now)
        raise ApprovalNeeded(" ".join(Decision(missing).sentences), action="It waits for another approval.")
    return _tried_in_mailboxes(made, answer, actor, now)


def _ask(connection: Connection, decision: Decision, *, reason: str, actor: User, now: datetime) -> None:
    granted = [one.item for one in decision.approval if one.rule == "permissions"]
    approvals.request_approval(connection, decision.approval, reason=reason, actor=actor, now=now, also=granted)


def _authorise(connection: Connection, answer: token_endpoint.TokenSet, actor: User, now: datetime) -> None:
    approvals.close_if_unneeded(connection, actor=actor, now=now)
    store.store_sign_in(connection, answer=answer, now=now, values={"connected_at": now})
    audit.record(
        AuditAction.CONNECTION_CONNECTED, connection, actor=actor, changes={"roles": audit.join_values(answer.granted)}
    )


def _tried_in_mailboxes(made: Connection, answer: token_endpoint.TokenSet, actor: User, now: datetime) -> Connection:
    """The connection as it stands after its first token; with an empty one, what its mailboxes say counts."""
    made = _as_stored(made)
    if made.scopes and not answer.granted:
        # Exchange may let it into its mailboxes all the same; only asking tells.
        probe_mailboxes(made, actor=actor, now=now)
        apply_results.settle_without_roles(made.pk, now=now, version=made.token_version)
        made = _as_stored(made)
    return made


def _as_stored(connection: Connection) -> Connection:
    """The connection as it stands in the database, tokens unread; refresh_from_db() keeps what deferred columns had."""
    return Connection.objects.select_related("app_registration__tenant", "owner").get(pk=connection.pk)


def change(
    connection: Connection,
    *,
    name: str,
    chosen: Sequence[str],
    extra_scopes: Sequence[str],
    actor: User,
    now: datetime | None = None,
    reason: str = "",
) -> bool:
    """Change name and capabilities. Returns whether a new sign-in (or consent) is needed to get what was added.

    What was granted stays: until the owner has signed in again, the connection goes on with the old permissions.
    What is added must be allowed by the policy, and where that wants an approval it is asked for with ``reason``.
    Raises NotAllowed, PolicyForbids, AlreadyExists.
    """
    moment = now or timezone.now()
    values: dict[str, Any] = {
        "name": name,
        "capabilities": list(chosen),
        "extra_scopes": " ".join(extra_scopes),
    }
    if not connection.is_delegated:
        values["scopes"] = " ".join(capabilities.application_roles(chosen, extra_scopes))
    changes = audit.changed_fields(connection, values)
    before = {field: getattr(connection, field) for field in values}
    try:
        with transaction.atomic():
            _lock(connection)
            roles.require(permissions.can_reconnect(actor, connection))
            if changes:
                for field, value in values.items():
                    setattr(connection, field, value)
                missing = permission_changes.check_policy(connection, before)
                Connection.objects.filter(pk=connection.pk).update(**values)
                audit.record(AuditAction.CONNECTION_CHANGED, connection, actor=actor, changes=changes)
                if not changes.keys().isdisjoint(permission_changes.REQUESTED_COLUMNS):
                    sign_in_links.revoke_open(connection, now=moment)
                permission_changes.update_approval(connection, missing, before, reason=reason, actor=actor, now=moment)
    except IntegrityError as taken:
        raise _duplicate(name) from taken
    except PolicyForbids:
        for field, value in before.items():
            setattr(connection, field, value)
        raise
    return bool(missing_permissions(connection))


def probe_mailboxes(connection: Connection, *, actor: User, now: datetime) -> None:
    """Probe the mailboxes of a connection that has just been authorised.

    What cannot be told now is left to the routine probe: connecting has succeeded either way.
    """
    try:
        probes.probe(connection, actor=actor, now=now)
    except PortalError:
        connection.mailbox_accesses.update(probe_after=now)


def missing_permissions(connection: Connection) -> tuple[str, ...]:
    """Permissions the connection's capabilities need and Microsoft has not granted, as short names."""
    return capabilities.missing(permission_drift.required_permissions(connection), connection.granted)


def disable(connection: Connection, *, actor: User, now: datetime) -> None:
    """Stop using the connection; its grant is kept. Doing it twice is harmless.

    By an IT admin, its owner cannot enable it again, also if they had switched it off themselves before.
    """
    with transaction.atomic():
        _lock(connection)
        roles.require(permissions.can_disable(actor, connection))
        by_admin = actor.pk != connection.owner_id
        values = {
            **status_columns(
                Connection.Status.DISABLED,
                code="disabled",
                cause=f"{actor}{', an IT admin,' if by_admin else ''} disabled this connection.",
                action="Only an IT admin can enable it again." if by_admin else "Enable it to use it again.",
                who=Connection.Who.IT_ADMIN if by_admin else Connection.Who.OWNER,
                since=now,
            ),
            "disabled_by": actor,
            "disabled_by_admin": by_admin,
            "refresh_after": None,
        }
        connection.refresh_from_db(fields=["status", "disabled_by_admin"])
        if permissions.can_keep_disabled(actor, connection):
            facts = {"enabled_by": ["the owner", "IT admins only"]}
            audit.record(AuditAction.CONNECTION_DISABLED, connection, actor=actor, changes=facts)
            Connection.objects.filter(pk=connection.pk).update(**values)
            connection.refresh_from_db()
        _switch(connection, Connection.Status.DISABLED, AuditAction.CONNECTION_DISABLED, actor, values)
        incidents.connection_disabled(connection, now=now)


def enable(connection: Connection, *, actor: User, now: datetime) -> None:
    """Use a disabled connection again. The next sweep finds out whether its grant still lives.

    Raises NotAllowed, also for the owner of a connection that an IT admin has disabled, and PolicyForbids or
    ApprovalNeeded where the policy is (by now) against it.
    """
    with transaction.atomic():
        _lock(connection)
        connection.refresh_from_db(fields=["status", "disabled_by_admin", "connected_at"])
        roles.require(permissions.can_disable(actor, connection))
        roles.require(
            permissions.can_use_again(actor, connection),
            cause="An IT admin has disabled this connection.",
            action="Only an IT admin can enable it again.",
        )
        if connection.status != Connection.Status.DISABLED:
            return
        if connection.connected_at is not None:
            approvals.require(connection)
            approvals.require_account(connection, connection.account_tid)
        values: dict[str, Any] = {**store.healthy_columns(now), "refresh_after": now}
        waiting = ownership_transfer.pending_transfer(connection)
        if connection.connected_at is None:
            values |= {"status": Connection.Status.PENDING, "refresh_after": None}
        elif waiting is not None and not waiting.keeps_grant:
            from_name = waiting.from_name.partition(" <")[0]
            values |= {"refresh_after": None, **ownership_transfer.awaiting_sign_in(from_name=from_name, now=now)}
        _switch(connection, values["status"], AuditAction.CONNECTION_ENABLED, actor, values)
        ownership_transfer.remind_new_owner(connection, now=now)


def remove(connection: Connection, *, actor: User, now: datetime) -> None:
    """Delete the connection and its tokens. Microsoft is not told: there is no call to revoke one refresh token
    (identity-platform/refresh-tokens), the page says how to withdraw the consent itself.
    """
    with transaction.atomic():
        _lock(connection, to_remove=True)
        roles.require(permissions.can_disable(actor, connection))
        incidents.connection_removed(connection, now=now)
        history.connection_removed(connection, actor=actor, now=now)
        request_status.connection_removed(connection, actor=actor, now=now)
        approvals.connection_removed(connection, actor=actor, now=now)
        audit.record(
            AuditAction.CONNECTION_REMOVED,
            connection,
            actor=actor,
            at=now,
            changes={"account": connection.account_username, "app_registration": str(connection.app_registration)},
        )
        connection.delete()


# --- Parts ----------------------------------------------------------------------------------------


def _lock(connection: Connection, *, to_remove: bool = False) -> None:
    """Let an answer that is just being written down finish first; it could open an incident nothing would close.

    Its owner is read anew: it may just have been handed over, so ask only now who may do what with it.
    ``to_remove``: what is about to refer to it waits as well, and then fails; otherwise that must not wait.
    """
    connections = Connection.objects.select_for_update(no_key=not to_remove).filter(pk=connection.pk)
    connection.owner_id = connections.values_list("owner", flat=True).first() or connection.owner_id


def _new(
    app_registration: AppRegistration,
    authentication_type: str,
    name: str,
    chosen: Sequence[str],
    extra_scopes: Sequence[str],
    owner: User,
) -> Connection:
    if not app_registration.allows(authentication_type):
        kind = AuthenticationType(authentication_type).label.partition(":")[0].lower()
        raise NotAllowed(
            f"{app_registration} is not registered for {kind} connections.",
            action="Choose another app registration, or ask an IT admin to allow it.",
        )
    app_only = authentication_type == AuthenticationType.CLIENT_CREDENTIALS
    if app_only and app_registration.tenant.is_shared_endpoint:
        raise InvalidInput(
            f"“{app_registration.tenant.directory_id}” cannot work app-only: nobody signs in, so Microsoft cannot know "
            "which directory is meant.",
            action="Use an app registration whose tenant has a directory ID.",
        )
    unknown = [key for key in chosen if key not in capabilities.CAPABILITIES]
    if unknown:
        raise InvalidInput("One of the capabilities is not known (any more).", field="capabilities")
    return Connection(
        name=name,
        app_registration=app_registration,
        owner=owner,
        authentication_type=authentication_type,
        capabilities=list(chosen),
        extra_scopes=" ".join(extra_scopes),
        scopes=" ".join(capabilities.application_roles(chosen, extra_scopes)) if app_only else "",
    )


def _insert(connection: Connection, shared_mailboxes: Sequence[SharedMailbox], actor: User) -> Connection:
    try:
        with transaction.atomic():
            connection.save(force_insert=True)
            history.ownership_began(connection, actor=actor, now=connection.created_at)
            audit.record(
                AuditAction.CONNECTION_CREATED,
                connection,
                actor=actor,
                at=connection.created_at,
                changes={
                    "owner": audit.recorded_name(connection.owner),
                    "app_registration": str(connection.app_registration),
                    "authentication_type": connection.authentication_type,
                    "capabilities": audit.join_values(connection.capabilities),
                    "extra_scopes": connection.extra_scopes,
                },
            )
            for mailbox in shared_mailboxes:
                mailboxes.attach(connection, mailbox, actor=actor)
    except IntegrityError as taken:
        raise _duplicate(connection.name) from taken
    return connection


def _first_token(app_registration: AppRegistration, now: datetime) -> token_endpoint.TokenSet:
    """A token with the first credential that Microsoft accepts."""
    live = credential_checks.live_applications(app_registration)
    refused: MicrosoftRefused = MicrosoftRefused(batch_client.NO_CREDENTIAL)
    for credential, application in live:
        try:
            return token_endpoint.request_app_only_token(application)
        except MicrosoftRefused as error:
            if not error.verdict.credential:
                raise
            credential_checks.credential_refused(credential, error.verdict, now=now)
            refused = error
    raise refused


def _switch(connection: Connection, status: str, action: AuditAction, actor: User, values: dict[str, Any]) -> None:
    if connection.status == status:
        return
    with transaction.atomic():
        audit.record(action, connection, actor=actor, changes={"status": [connection.status, status]})
        Connection.objects.filter(pk=connection.pk).update(**{**values, "status": status})
    connection.refresh_from_db()


def _duplicate(name: str) -> AlreadyExists:
    return AlreadyExists(f"You already have a connection called “{name}”.", action="Choose another name.", field="name")
