"""Create app-only connections, which get their tokens without a person signing in."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from django.db import transaction

from connections import audit
from connections.access import permissions, roles
from connections.errors import ApprovalNeeded
from connections.microsoft import resources, token_endpoint
from connections.models import AppRegistration, Connection, SharedMailbox, Tenant, User
from connections.models.app_registrations import AuthenticationType
from connections.models.audit import AuditAction
from connections.services.connections import connections
from connections.services.notifications.owner_messages import tell_owner
from connections.services.policy import approvals, evaluate
from connections.services.policy.evaluate import Decision
from connections.services.registry import credential_checks
from connections.services.tokens import apply_results, resource_tokens, store


def connect(
    app_registration: AppRegistration,
    *,
    name: str,
    chosen: Sequence[str],
    extra_scopes: Sequence[str] = (),
    hosts: Mapping[str, str] | None = None,
    shared_mailboxes: Sequence[SharedMailbox] = (),
    actor: User,
    now: datetime,
    reason: str = "",
    tenant: Tenant | None = None,
) -> Connection:
    """Request an app-only token in ``tenant`` (default: the app registration's own), and store the connection with it.

    If the policy requires an approval, it is requested with ``reason``, and the connection stays pending without a
    token until ``finish`` is called. If the token has no role and the connection reaches no mailbox, its status is
    "consent needed", which an administrator can fix later.

    Raises NotAllowed, PolicyForbids, InvalidInput, AlreadyExists, MicrosoftRefused or MicrosoftUnavailable, without
    storing the connection.
    """
    connection = _new(app_registration, name, chosen, extra_scopes, hosts, tenant, actor)
    decision, _ = approvals.evaluate_approval(connection)
    evaluate.refuse_forbidden(decision)
    answer = None if decision.approval else _request_token(connection, now)
    with transaction.atomic():
        connection = _insert(connection, answer, shared_mailboxes, reason=reason, actor=actor, now=now)
    return settle(connection, answer, actor=actor, now=now)


def connect_with(
    app_registration: AppRegistration,
    answer: token_endpoint.TokenSet,
    *,
    name: str,
    chosen: Sequence[str],
    extra_scopes: Sequence[str] = (),
    hosts: Mapping[str, str] | None = None,
    shared_mailboxes: Sequence[SharedMailbox] = (),
    actor: User,
    now: datetime,
    reason: str = "",
) -> Connection:
    """Create the connection with the token in ``answer``, in the caller's transaction. Call ``settle`` afterwards.

    The token is not stored if the policy requires an approval. Raises NotAllowed, PolicyForbids, InvalidInput or
    AlreadyExists.
    """
    connection = _new(app_registration, name, chosen, extra_scopes, hosts, None, actor)
    return _insert(connection, answer, shared_mailboxes, reason=reason, actor=actor, now=now)


def _new(
    app_registration: AppRegistration,
    name: str,
    chosen: Sequence[str],
    extra_scopes: Sequence[str],
    hosts: Mapping[str, str] | None,
    tenant: Tenant | None,
    actor: User,
) -> Connection:
    roles.require(
        permissions.can_connect_app_only(actor),
        cause="App-only connections cover the whole tenant.",
        action="Ask an IT admin to create it.",
    )
    return connections.build(
        app_registration,
        AuthenticationType.CLIENT_CREDENTIALS,
        name,
        chosen,
        extra_scopes,
        actor,
        hosts=hosts,
        tenant=tenant,
    )


def _insert(
    connection: Connection,
    answer: token_endpoint.TokenSet | None,
    shared_mailboxes: Sequence[SharedMailbox],
    *,
    reason: str,
    actor: User,
    now: datetime,
) -> Connection:
    """Insert the connection with its token. If an approval is missing, request it instead and store no token."""
    decision, _ = approvals.evaluate_approval(connection, answer.granted if answer is not None else ())
    evaluate.refuse_forbidden(decision)
    connections.insert(connection, shared_mailboxes, actor)
    if answer is None or decision.approval:
        _request_approval(connection, decision, reason=reason, actor=actor, now=now)
    else:
        _authorize(connection, answer, actor, now)
    return _reload(connection)


def finish(connection: Connection, *, actor: User, now: datetime) -> Connection:
    """Request the first token after an approval. Safe to repeat.

    Raises ApprovalNeeded and the errors of ``connect``.
    """
    roles.require(permissions.can_reconnect(actor, connection))
    if connection.is_delegated or connection.status != Connection.Status.PENDING:
        return connection
    approvals.require(connection)
    answer = _request_token(connection, now)
    with transaction.atomic():
        connection = Connection.objects.locked().get(pk=connection.pk)
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
        raise ApprovalNeeded(" ".join(decision.sentences), action="It is awaiting another approval.")
    return settle(_reload(connection), answer, actor=actor, now=now)


def _request_token(connection: Connection, now: datetime) -> token_endpoint.TokenSet:
    audience = resource_tokens.audience(connection, connection.resource)
    app, tenant = connection.app_registration, connection.tenant
    return credential_checks.request_app_only_token(app, tenant=tenant, now=now, audience=audience)


def _request_approval(connection: Connection, decision: Decision, *, reason: str, actor: User, now: datetime) -> None:
    granted = [rule.item for rule in decision.approval if rule.rule == "permissions"]
    approvals.request_approval(connection, decision.approval, reason=reason, actor=actor, now=now, also=granted)


def _authorize(connection: Connection, answer: token_endpoint.TokenSet, actor: User, now: datetime) -> None:
    approvals.close_if_unneeded(connection, actor=actor, now=now)
    store.store_sign_in(connection, answer=answer, now=now, values={"connected_at": now})
    resource_tokens.arrange(connection, forget_tokens=True, now=now)
    changes = {"roles": audit.join_values(answer.granted)}
    event = audit.record(AuditAction.CONNECTION_CONNECTED, connection, actor=actor, changes=changes)
    tell_owner(connection, event, f"connected {connection}", actor=actor, now=now)


def settle(connection: Connection, answer: token_endpoint.TokenSet | None, *, actor: User, now: datetime) -> Connection:
    """Request tokens for the connection's other resources, and return the connection.

    If the token in ``answer`` contains no roles, the mailboxes are probed. If none can be reached, the connection is
    flagged.
    """
    if answer is None or connection.status == Connection.Status.PENDING:
        return connection
    for key in resource_tokens.others_needed(connection):
        resource_tokens.refresh(connection.pk, key, now=now)
    connection = _reload(connection)
    if resources.of_resource(connection.scopes.split(), connection.resource) and not answer.granted:
        # Exchange may grant access without a role, and only a probe can tell.
        connections.probe_mailboxes(connection, actor=actor, now=now)
        apply_results.settle_without_roles(connection.pk, now=now, version=connection.token_version)
        connection = _reload(connection)
    return connection


def _reload(connection: Connection) -> Connection:
    """Return the stored connection with its tokens deferred, which refresh_from_db() does not support."""
    return Connection.objects.with_related().get(pk=connection.pk)
