"""Create app-only connections, which get their tokens without a person signing in."""

from collections.abc import Sequence
from datetime import datetime

from django.db import transaction

from connections import audit
from connections.access import permissions, roles
from connections.errors import ApprovalNeeded
from connections.microsoft import token_endpoint
from connections.models import AppRegistration, Connection, SharedMailbox, User
from connections.models.app_registrations import AuthenticationType
from connections.models.audit import AuditAction
from connections.services.connections import connections
from connections.services.policy import approvals, evaluate
from connections.services.policy.evaluate import Decision
from connections.services.registry import credential_checks
from connections.services.tokens import apply_results, store


def connect(
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
    """Request an app-only token and store the connection with it.

    If the policy requires an approval, it is requested with ``reason``, and the connection stays pending without a
    token until finish is called. If the token has no role and the connection reaches no mailbox, its status is "consent
    needed", which an administrator can fix later. Raises NotAllowed, PolicyForbids, InvalidInput, AlreadyExists,
    MicrosoftRefused or MicrosoftUnavailable, without storing the connection.
    """
    roles.require(
        permissions.can_connect_app_only(actor),
        cause="An app-only connection reaches the whole tenant.",
        action="Ask an IT admin to make it.",
    )
    connection = connections.build(
        app_registration, AuthenticationType.CLIENT_CREDENTIALS, name, chosen, extra_scopes, actor
    )
    decision, _ = approvals.evaluate_approval(connection)
    evaluate.refuse_forbidden(decision)
    answer = None if decision.approval else credential_checks.request_app_only_token(app_registration, now=now)
    if answer is not None:
        decision, _ = approvals.evaluate_approval(connection, answer.granted)
        evaluate.refuse_forbidden(decision)
    with transaction.atomic():
        connections.insert(connection, shared_mailboxes, actor)
        if answer is None or decision.approval:
            _request_approval(connection, decision, reason=reason, actor=actor, now=now)
            return _reload(connection)
        _authorize(connection, answer, actor, now)
    return _settle(connection, answer, actor, now)


def finish(connection: Connection, *, actor: User, now: datetime) -> Connection:
    """Request the first token after an approval. Safe to repeat. Raises ApprovalNeeded, or as connect does."""
    roles.require(permissions.can_reconnect(actor, connection))
    if connection.is_delegated or connection.status != Connection.Status.PENDING:
        return connection
    approvals.require(connection)
    answer = credential_checks.request_app_only_token(connection.app_registration, now=now)
    with transaction.atomic():
        locked = Connection.objects.select_for_update(of=("self",), no_key=True)
        connection = locked.select_related("app_registration__tenant").get(pk=connection.pk)
        roles.require(permissions.can_reconnect(actor, connection))
        decision, missing = approvals.evaluate_approval(connection, answer.granted)
        evaluate.refuse_forbidden(decision)
        if connection.status != Connection.Status.PENDING:
            return connection
        if not missing:
            _authorize(connection, answer, actor, now)
    if missing:
        decision = Decision(missing)
        _request_approval(connection, decision, reason="", actor=actor, now=now)
        raise ApprovalNeeded(" ".join(decision.sentences), action="It waits for another approval.")
    return _settle(connection, answer, actor, now)


def _request_approval(connection: Connection, decision: Decision, *, reason: str, actor: User, now: datetime) -> None:
    granted = [rule.item for rule in decision.approval if rule.rule == "permissions"]
    approvals.request_approval(connection, decision.approval, reason=reason, actor=actor, now=now, also=granted)


def _authorize(connection: Connection, answer: token_endpoint.TokenSet, actor: User, now: datetime) -> None:
    approvals.close_if_unneeded(connection, actor=actor, now=now)
    store.store_sign_in(connection, answer=answer, now=now, values={"connected_at": now})
    changes = {"roles": audit.join_values(answer.granted)}
    audit.record(AuditAction.CONNECTION_CONNECTED, connection, actor=actor, changes=changes)


def _settle(connection: Connection, answer: token_endpoint.TokenSet, actor: User, now: datetime) -> Connection:
    """Return the stored connection. If its token contains no roles, flag it unless it reaches a mailbox."""
    connection = _reload(connection)
    if connection.scopes and not answer.granted:
        # Exchange may grant access without a role, which only a probe shows.
        connections.probe_mailboxes(connection, actor=actor, now=now)
        apply_results.settle_without_roles(connection.pk, now=now, version=connection.token_version)
        connection = _reload(connection)
    return connection


def _reload(connection: Connection) -> Connection:
    """Return the stored connection with its tokens deferred, which refresh_from_db() would not do."""
    return Connection.objects.select_related("app_registration__tenant", "owner").get(pk=connection.pk)
