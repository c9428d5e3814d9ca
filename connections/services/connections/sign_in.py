"""Sign-ins for delegated connections: build the request to Microsoft, check the result, and store the tokens."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from django.db import transaction

from connections import audit
from connections.access import permissions, roles
from connections.errors import (
    AccountReplaced,
    ApprovalNeeded,
    ConsentMissing,
    MicrosoftRefused,
    NoRefreshToken,
    NotAllowed,
    PortalError,
    SignInCancelled,
    SignInFailed,
    WrongAccount,
    WrongTenant,
)
from connections.microsoft import backends, capabilities, resources, token_endpoint
from connections.microsoft.account_claims import Account
from connections.microsoft.classifier import Verdict
from connections.microsoft.clouds import CONSUMERS_TID
from connections.microsoft.error_types import Kind, Who
from connections.models import AuditEvent, Connection, SignInLink, User
from connections.models.audit import AuditAction
from connections.models.connections import status_columns
from connections.services.connections import directories, sign_in_links
from connections.services.consent import admin_consent, request_status
from connections.services.incidents import incidents
from connections.services.notifications.owner_messages import tell_owner
from connections.services.people import ownership_transfer
from connections.services.policy import account_changes, approvals, permission_drift
from connections.services.registry import credential_checks
from connections.services.tokens import resource_tokens, store

# Statuses that a sign-in for the resource can resolve.
_NEEDS_PERSON = (Connection.Status.CONSENT_NEEDED, Connection.Status.RECONNECT_NEEDED)


def scopes_to_request(connection: Connection, resource: str = "") -> tuple[str, ...]:
    """Return the scopes that a sign-in requests: the OIDC scopes and those of one resource.

    The first step of a sign-in is for the resource of the connection's own token. For a later step, the caller passes
    its ``resource``.
    """
    scopes = capabilities.sign_in_scopes(connection.capabilities, connection.extra_scopes)
    key = resource or main_resource(connection)
    return tuple(name for name in scopes if name in token_endpoint.OIDC_SCOPES or resources.of(name) == key)


def main_resource(connection: Connection) -> str:
    """Return the resource that the connection's own token is for after its next sign-in."""
    return resources.main(permission_drift.required_permissions(connection))


def read_answer(connection: Connection, answer: dict[str, Any], resource: str = "") -> token_endpoint.TokenSet:
    """Parse Microsoft's response to a sign-in for this resource (see ``scopes_to_request``)."""
    requested = scopes_to_request(connection, resource)
    audience = resource_tokens.audience(connection, resource or main_resource(connection))
    return token_endpoint.token_set(answer, requested=requested, audience=audience)


def sign_in_client(connection: Connection, resource: str = "") -> backends.SignInClient:
    """Return what a sign-in needs: the application, the scopes and the parameters.

    We never send ``prompt=consent``, because it ignores an administrator's consent. Raises MicrosoftRefused if there is
    no credential to use, or InvalidInput if the connection has no address for the resource.
    """
    live = credential_checks.live_applications(connection.app_registration, connection.tenant)
    if not live:
        raise MicrosoftRefused(credential_checks.NO_CREDENTIAL)
    credential, application = live[0]
    # After an ownership transfer, the new owner may choose another account.
    username = "" if ownership_transfer.pending_transfer(connection) else connection.account_username
    extra = {"login_hint": username} if username else {"prompt": "select_account"}
    audience = resource_tokens.audience(connection, resource or main_resource(connection))
    return backends.SignInClient(
        application, scopes_to_request(connection, resource), extra, credential.pk, audience=audience
    )


def begin(connection: Connection, *, actor: User, now: datetime, by_link: SignInLink | None = None) -> None:
    """Record the start of a sign-in. ``by_link`` is the sign-in link, if one is used.

    Raises NotAllowed, PolicyForbids or ApprovalNeeded.
    """
    roles.require(permissions.can_reconnect(actor, connection), action="Only its owner can sign in.")
    _require_own_app(connection, actor)
    _require_not_disabled_by_admin(connection, actor)
    if not connection.is_delegated:
        raise NotAllowed("App-only connections don't have a sign-in.", action="Use “Check now” instead.")
    approvals.require_sign_in(connection)
    with transaction.atomic():
        approvals.close_if_unneeded(connection, actor=actor, now=now)
        Connection.objects.filter(pk=connection.pk).update(sign_in_started_at=now)
        audit.record(AuditAction.CONNECTION_SIGN_IN_STARTED, connection, **_audit_actor(actor, by_link))


def complete(
    connection: Connection,
    *,
    actor: User,
    answer: token_endpoint.TokenSet,
    account: Account,
    now: datetime,
    by_link: SignInLink | None = None,
) -> None:
    """Store the tokens of a sign-in and reset the status to active. The connection keeps its ID.

    ``by_link`` is the actor's link if the sign-in used one; the link cannot be used again. No tokens are stored if this
    raises NotAllowed, NoRefreshToken, WrongTenant, WrongAccount, ConsentMissing, PolicyForbids or LinkUnusable. If it
    raises ApprovalNeeded or AccountReplaced, it has also requested the approval.
    """
    _require_or_request(connection, answer, account, actor, now)
    values = {
        "account_tid": account.tid,
        "account_oid": account.oid,
        "account_username": account.username,
        "account_name": account.name,
        "scopes": " ".join(_refresh_scopes(scopes_to_request(connection), answer.granted)),
        "resource": main_resource(connection),
    }
    with transaction.atomic():
        current = Connection.objects.locked().get(pk=connection.pk)
        if by_link is not None:
            sign_in_links.mark_used(by_link, account=account.username, now=now)
        # Check again under the lock, because two people may be signing in, or the owner may have just changed.
        _require_acceptable(current, answer, account, actor)
        approvals.require_grant(current, answer.granted)
        first = current.connected_at is None
        changes = audit.changed_fields(current, {**values, "status": Connection.Status.ACTIVE})
        times = {"connected_at": now, "sign_in_started_at": None}
        store.store_sign_in(current, answer=answer, now=now, values=values | times)
        current.resource = values["resource"]
        resource_tokens.arrange(current, forget_tokens=True, now=now)
        incidents.connections_recovered([current.pk], now=now)
        link = {"sign_in_link": by_link.pk} if by_link is not None else {}
        action = AuditAction.CONNECTION_CONNECTED if first else AuditAction.CONNECTION_RECONNECTED
        event = audit.record(action, current, changes=changes | link, **_audit_actor(actor, by_link))
        tell_owner(current, event, f"signed in again for {current}", actor=actor, now=now)
        ownership_transfer.signed_in(current, actor=actor, account=account.username, now=now)
        directories.signed_in(current, account, actor=actor, now=now)
    connection.refresh_from_db()
    admin_consent.verify_from_token(connection.app_registration, granted=answer.granted, now=now, tid=account.tid)
    request_status.tokens_received([connection.pk], now=now)


def complete_resource(
    connection: Connection,
    resource: str,
    *,
    actor: User,
    answer: token_endpoint.TokenSet,
    account: Account,
    now: datetime,
) -> None:
    """Store the token of a later step of the sign-in, which is for another resource of the connection.

    Raises NotAllowed, WrongAccount, ConsentMissing, PolicyForbids or ApprovalNeeded, without storing anything.
    """
    # Read the row again, because owner and account may have changed since the callback began. store() notices later
    # changes.
    current = Connection.objects.select_related("app_registration__tenant", "owner").get(pk=connection.pk)
    seen = resource_tokens.SeenGrant.of(current)
    roles.require(permissions.can_reconnect(actor, current))
    _require_own_app(current, actor)
    _require_not_disabled_by_admin(current, actor)
    if (account.tid, account.oid) != (current.account_tid, current.account_oid):
        raise WrongAccount(
            f"You signed in as {account.username}, but this connection belongs to {current.account_username}.",
            action=f"Sign in with {current.account_username}.",
        )
    if not resources.of_resource(answer.granted, resource):
        raise ConsentMissing(
            f"Microsoft granted no permissions for {resources.label(resource)}.",
            action="Ask an IT admin to grant consent for this app registration, then grant access again.",
        )
    approvals.require_grant(current, answer.granted)
    resource_tokens.store(connection, resource, answer, seen, now=now)


def next_resource(connection: Connection, *, walked: Collection[str], now: datetime) -> str:
    """Request tokens for the connection's other resources, and return the first one that needs the person's consent.

    ``walked`` are the resources for which the sign-in has already been at Microsoft. Returns "" if no other resource
    needs consent.
    """
    for key in resource_tokens.others_needed(connection):
        if key in walked:
            continue
        resource_tokens.refresh(connection.pk, key, now=now, tell=False)
        row = connection.resource_tokens.filter(resource=key).first()
        if row is not None and row.problem_status in _NEEDS_PERSON:
            return key
    connection.refresh_from_db(fields=["other_granted"])
    granted, tid = connection.granted, connection.account_tid
    admin_consent.verify_from_token(connection.app_registration, granted=granted, now=now, tid=tid)
    request_status.tokens_received([connection.pk], now=now)
    return ""


def _resource_refused(connection: Connection, resource: str, error: PortalError, verdict: Verdict | None) -> Verdict:
    """Return the verdict to show for a resource whose step of the sign-in failed."""
    name = resources.label(resource)
    if isinstance(error, SignInCancelled):
        cause = f"Consent for {name} was cancelled at Microsoft."
        return Verdict(Kind.CONSENT, error.code, cause, "Grant access to it, or remove its permissions.", Who.OWNER)
    if verdict is not None and verdict.flags():
        return verdict
    return Verdict(Kind.CONSENT, error.code, error.cause, error.action, Who(error.who or Who.OWNER))


def record_failure(
    connection: Connection,
    *,
    actor: User,
    error: PortalError,
    verdict: Verdict | None,
    now: datetime,
    credential_id: int | None = None,
    by_link: SignInLink | None = None,
    resource: str = "",
) -> PortalError:
    """Record a failed sign-in and return the error to show. A connection that worked before keeps its status.

    If Microsoft rejected the credential ``credential_id`` and there is another one, the next attempt uses that one.
    ``by_link`` is the actor's link if the sign-in used one. Its user is unknown, so their failure proves nothing about
    the application. ``resource`` is given for a later step of the sign-in; then only that resource is marked as failed.
    """
    has_other_credential = False
    if by_link is None and verdict is not None and verdict.credential:
        has_other_credential = _reject_credential(connection, verdict, credential_id, now)
    if has_other_credential:
        error = SignInFailed(
            "Microsoft rejected a credential of the app registration, so the sign-in failed.",
            action="Start again. The portal now uses another credential. IT admins can see which one failed.",
        )
    with transaction.atomic():
        values: dict[str, Any] = {"sign_in_started_at": None}
        if connection.status == Connection.Status.PENDING:
            values |= _still_pending(error, verdict, None if has_other_credential else verdict, now)
        Connection.objects.filter(pk=connection.pk).update(**values)
        audit.record(
            AuditAction.CONNECTION_SIGN_IN_FAILED,
            connection,
            **_audit_actor(actor, by_link),
            outcome=AuditEvent.Outcome.FAILED,
            changes={"code": verdict.code if verdict else error.code}
            | ({"resource": resources.label(resource)} if resource else {}),
        )
        if resource:
            refusal = _resource_refused(connection, resource, error, verdict)
            resource_tokens.refuse(connection, resource, refusal, now=now, tell=False)
    is_about_app = verdict is not None and verdict.certain and not resource
    if by_link is None and verdict is not None and is_about_app and not has_other_credential:
        credential_checks.reject(connection.app_registration, connection.tenant, verdict, now=now)
    return error


def _still_pending(
    error: PortalError, verdict: Verdict | None, decides: Verdict | None, now: datetime
) -> dict[str, Any]:
    """Return the columns of a connection whose first sign-in failed.

    ``decides`` is the verdict that says who must act. Without it, ``error`` says so.
    """
    return status_columns(
        Connection.Status.PENDING,
        code=verdict.code if verdict else error.code,
        cause=error.cause,
        action=error.action,
        who=decides.who.value if decides else error.who or Connection.Who.OWNER,
        since=now,
    )


def _audit_actor(actor: User, by_link: SignInLink | None) -> dict[str, Any]:
    """Return the actor for audit events: the user or, with a link, the link's name, because the person is unknown."""
    return {"actor": actor} if by_link is None else {"actor": None, "actor_name": sign_in_links.actor_name(by_link)}


def _reject_credential(connection: Connection, verdict: Verdict, credential_id: int | None, now: datetime) -> bool:
    """Mark the credential as rejected. Returns whether there is another one that Microsoft may accept."""
    live = connection.app_registration.credentials.live().defer("secret", "private_key")
    for credential in live.filter(pk=credential_id or 0):
        if credential_checks.unless_propagating(credential, verdict, now=now) is verdict:
            credential_checks.credential_refused(credential, verdict, now=now)
    others = live.filter(rejected_at=None)
    return any(not credential_checks.awaits_upload(credential) for credential in others)


def _require_not_disabled_by_admin(connection: Connection, actor: User) -> None:
    roles.require(
        permissions.can_use_again(actor, connection),
        cause="An IT admin disabled this connection.",
        action="Ask an IT admin to enable it, then sign in.",
    )


def _require_or_request(
    connection: Connection, answer: token_endpoint.TokenSet, account: Account, actor: User, now: datetime
) -> None:
    """Check the result of a sign-in, and request the IT admins' approval where it is needed."""
    try:
        _require_acceptable(connection, answer, account, actor)
    except AccountReplaced:
        account_changes.request(connection, account, actor=actor, now=now)
        raise
    approvals.require_account(connection, account.tid)
    try:
        # Microsoft can grant more than was requested.
        approvals.require_grant(connection, answer.granted)
    except ApprovalNeeded:
        approvals.request_for_grant(connection, answer.granted, actor=actor, now=now)
        raise


def _require_own_app(connection: Connection, actor: User) -> None:
    app = connection.app_registration
    roles.require(
        permissions.can_connect_through(actor, app),
        cause=f"Only the person who added {app} can sign in with it.",
        action="Ask an IT admin to open it to everyone.",
    )


def _require_acceptable(connection: Connection, answer: token_endpoint.TokenSet, account: Account, actor: User) -> None:
    roles.require(permissions.can_reconnect(actor, connection))
    _require_own_app(connection, actor)
    _require_not_disabled_by_admin(connection, actor)
    tenant = connection.tenant
    if not answer.refresh_token:
        raise NoRefreshToken
    if not account.tid or not account.oid:
        raise WrongAccount(
            "Microsoft didn't identify the account.",
            action="An IT admin should add the “profile” permission to this app registration.",
        )
    if tenant.tid and account.tid != tenant.tid:
        home = "a personal Microsoft account" if account.tid == CONSUMERS_TID else "an account from another directory"
        raise WrongTenant(
            f"{account.username or 'This account'} is {home}, but this connection is for {tenant.name}.",
            action=f"Sign in with an account from {tenant.name}, or create a connection to another tenant.",
        )
    _require_same_account(connection, account, actor)
    needed = set(scopes_to_request(connection))
    if needed - token_endpoint.OIDC_SCOPES and not set(answer.granted) - token_endpoint.OIDC_SCOPES:
        raise ConsentMissing(
            "Microsoft granted none of the permissions that this connection needs.",
            action="Ask an IT admin to grant consent for this app registration, then sign in again.",
        )


def _require_same_account(connection: Connection, account: Account, actor: User) -> None:
    """Allow only the known account, unless the connection has a new owner or an IT admin confirmed the other account.

    The other account must be from the same directory.
    """
    known = (connection.account_tid, connection.account_oid)
    if not connection.account_oid or (account.tid, account.oid) == known:
        return
    may_change = ownership_transfer.may_change_account(connection, actor=actor)
    if not may_change and account_changes.is_same_name(connection, account):
        account_changes.require_confirmed(connection, account)
        return
    if not may_change:
        raise WrongAccount(
            f"You signed in as {account.username}, but this connection belongs to {connection.account_username}. "
            "Nothing was changed.",
            action=f"Sign in again with {connection.account_username}, or create a new connection "
            f"for {account.username}.",
        )
    if account.tid != connection.account_tid:
        raise WrongTenant(
            f"{account.username or 'This account'} isn't in the same directory as {connection.account_username}. "
            "Nothing was changed.",
            action="Sign in with an account from the same directory, or create a new connection.",
        )


def _refresh_scopes(requested: tuple[str, ...], granted: tuple[str, ...]) -> list[str]:
    """Return the scopes for later refreshes.

    Omits scopes that were not granted, because they would make a refresh fail.
    """
    lowered = {scope.lower() for scope in granted}
    scopes = [scope for scope in requested if scope not in token_endpoint.OIDC_SCOPES]
    return [*([scope for scope in scopes if scope.lower() in lowered] or scopes), "offline_access"]
