"""Sign-ins for delegated connections: what is requested from Microsoft, what is accepted, and how it is stored."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction

from connections import audit
from connections.access import permissions, roles
from connections.errors import (
    ApprovalNeeded,
    ConsentMissing,
    MicrosoftRefused,
    NoRefreshToken,
    NotAllowed,
    PortalError,
    SignInFailed,
    WrongAccount,
    WrongTenant,
)
from connections.microsoft import backends, capabilities, token_endpoint
from connections.microsoft.classifier import Verdict
from connections.microsoft.clouds import CONSUMERS_TID
from connections.models import AuditEvent, Connection, SignInLink, User
from connections.models.audit import AuditAction
from connections.models.connections import status_columns
from connections.services.connections import sign_in_links
from connections.services.consent import admin_consent, request_status
from connections.services.incidents import incidents
from connections.services.people import ownership_transfer
from connections.services.policy import approvals
from connections.services.registry import credential_checks
from connections.services.tokens import store


@dataclass(frozen=True, slots=True)
class Account:
    """The Microsoft account that signed in. (tid, oid) identifies it; the names are only displayed."""

    tid: str
    oid: str
    username: str
    name: str


def account_from_claims(claims: dict[str, Any]) -> Account:
    """Return the account in a verified ID token (identity-platform/id-token-claims-reference)."""
    return Account(
        tid=str(claims.get("tid", "")).lower(),
        oid=str(claims.get("oid", "")).lower(),
        username=str(claims.get("preferred_username", ""))[:320],
        name=str(claims.get("name", ""))[:256],
    )


def scopes_to_request(connection: Connection) -> tuple[str, ...]:
    """Return the scopes that the sign-in requests, as short names."""
    return capabilities.sign_in_scopes(connection.capabilities, connection.extra_scopes)


def sign_in_client(connection: Connection) -> backends.SignInClient:
    """Return the client, scopes and parameters; never ``prompt=consent``, which ignores an administrator's consent."""
    live = credential_checks.live_applications(connection.app_registration)
    if not live:
        raise MicrosoftRefused(credential_checks.NO_CREDENTIAL)
    credential, application = live[0]
    # After an ownership transfer, the new owner may choose another account.
    username = "" if ownership_transfer.pending_transfer(connection) else connection.account_username
    extra = {"login_hint": username} if username else {"prompt": "select_account"}
    return backends.SignInClient(application, scopes_to_request(connection), extra, credential.pk)


def begin(connection: Connection, *, actor: User, now: datetime, by_link: SignInLink | None = None) -> None:
    """Record that a sign-in starts, with ``by_link`` if given. Raises NotAllowed, PolicyForbids or ApprovalNeeded."""
    roles.require(permissions.can_reconnect(actor, connection), action="Only its owner can sign in for it.")
    _require_not_disabled_by_admin(connection, actor)
    if not connection.is_delegated:
        raise NotAllowed("An app-only connection has no person who could sign in.", action="Use “Check now” instead.")
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
    """Store the tokens of a sign-in and clear every flag; the connection keeps its ID.

    ``by_link`` is the actor's link if the sign-in used one; it cannot be used again. Raises NoRefreshToken,
    WrongTenant, WrongAccount, ConsentMissing or PolicyForbids and changes nothing, or requests an approval and raises
    ApprovalNeeded, without storing tokens.
    """
    _require_acceptable(connection, answer, account, actor)
    approvals.require_account(connection, account.tid)
    try:
        # Microsoft can grant more than was requested.
        approvals.require_grant(connection, answer.granted)
    except ApprovalNeeded:
        approvals.request_for_grant(connection, answer.granted, actor=actor, now=now)
        raise
    values = {
        "account_tid": account.tid,
        "account_oid": account.oid,
        "account_username": account.username,
        "account_name": account.name,
        "scopes": " ".join(_refresh_scopes(scopes_to_request(connection), answer.granted)),
    }
    with transaction.atomic():
        current = Connection.objects.select_for_update(no_key=True).get(pk=connection.pk)
        if by_link is not None:
            sign_in_links.mark_used(by_link, now=now)
        # Checked again under the lock, because two people may be signing in, or the owner may have just changed.
        _require_acceptable(current, answer, account, actor)
        approvals.require_grant(current, answer.granted)
        first = current.connected_at is None
        changes = audit.changed_fields(current, {**values, "status": Connection.Status.ACTIVE})
        times = {"connected_at": now, "sign_in_started_at": None}
        store.store_sign_in(current, answer=answer, now=now, values=values | times)
        incidents.connections_recovered([current.pk], now=now)
        link = {"sign_in_link": by_link.pk} if by_link is not None else {}
        action = AuditAction.CONNECTION_CONNECTED if first else AuditAction.CONNECTION_RECONNECTED
        audit.record(action, current, changes=changes | link, **_audit_actor(actor, by_link))
        ownership_transfer.signed_in(current, actor=actor, account=account.username, now=now)
    connection.refresh_from_db()
    admin_consent.verify_from_token(connection.app_registration, granted=answer.granted, now=now, tid=account.tid)
    request_status.tokens_received([connection.pk], now=now)


def record_failure(
    connection: Connection,
    *,
    actor: User,
    error: PortalError,
    verdict: Verdict | None,
    now: datetime,
    credential_id: int | None = None,
    by_link: SignInLink | None = None,
) -> PortalError:
    """Record a failed sign-in and return the error to show. A connection that worked before keeps its status.

    If Microsoft rejected the credential ``credential_id`` and there is another one, the next attempt uses that one.
    ``by_link`` is the actor's link, if used: an unknown person's failure is no evidence against the application.
    """
    has_other_credential = False
    if by_link is None and verdict is not None and verdict.credential:
        has_other_credential = _reject_credential(connection, verdict, credential_id, now)
    if has_other_credential:
        error = SignInFailed(
            "Microsoft rejected a credential of the app registration, so this sign-in could not be finished.",
            action="Start again: the portal uses another credential now. The IT admins can see which one failed.",
        )
    with transaction.atomic():
        values: dict[str, Any] = {"sign_in_started_at": None}
        if connection.status == Connection.Status.PENDING:
            values |= status_columns(
                Connection.Status.PENDING,
                code=verdict.code if verdict else error.code,
                cause=error.cause,
                action=error.action,
                who=verdict.who.value if verdict and not has_other_credential else error.who or Connection.Who.OWNER,
                since=now,
            )
        Connection.objects.filter(pk=connection.pk).update(**values)
        audit.record(
            AuditAction.CONNECTION_SIGN_IN_FAILED,
            connection,
            **_audit_actor(actor, by_link),
            outcome=AuditEvent.Outcome.FAILED,
            changes={"code": verdict.code if verdict else error.code},
        )
    if by_link is None and verdict is not None and verdict.app_wide and verdict.certain and not has_other_credential:
        credential_checks.reject_app(connection.app_registration, verdict, now=now)
    return error


def _audit_actor(actor: User, by_link: SignInLink | None) -> dict[str, Any]:
    """Return the actor for audit events: the user, or the link if the person is unknown."""
    return {"actor": actor} if by_link is None else {"actor": None, "actor_name": sign_in_links.actor_name(by_link)}


def _reject_credential(connection: Connection, verdict: Verdict, credential_id: int | None, now: datetime) -> bool:
    """Mark the credential as rejected. Return whether there is another one that Microsoft may accept."""
    live = connection.app_registration.credentials.live().defer("secret", "private_key")
    for credential in live.filter(pk=credential_id or 0):
        credential_checks.credential_refused(credential, verdict, now=now)
    others = live.filter(rejected_at=None)
    return any(not credential_checks.awaits_upload(credential) for credential in others)


def _require_not_disabled_by_admin(connection: Connection, actor: User) -> None:
    roles.require(
        permissions.can_use_again(actor, connection),
        cause="An IT admin has disabled this connection.",
        action="Only an IT admin can enable it again; then sign in.",
    )


def _require_acceptable(connection: Connection, answer: token_endpoint.TokenSet, account: Account, actor: User) -> None:
    roles.require(permissions.can_reconnect(actor, connection))
    _require_not_disabled_by_admin(connection, actor)
    tenant = connection.app_registration.tenant
    if not answer.refresh_token:
        raise NoRefreshToken
    if not account.tid or not account.oid:
        raise WrongAccount(
            "Microsoft did not say which account signed in.",
            action="An IT admin should allow the permission “profile” for this app registration.",
        )
    if tenant.tid and account.tid != tenant.tid:
        home = "a personal Microsoft account" if account.tid == CONSUMERS_TID else "an account of another directory"
        raise WrongTenant(
            f"{account.username or 'This account'} is {home}, but this app registration is for {tenant.name}.",
            action=f"Sign in with an account of {tenant.name}, or choose another app registration.",
        )
    _require_same_account(connection, account, actor)
    needed = set(capabilities.delegated_scopes(connection.capabilities, connection.extra_scopes))
    if needed - token_endpoint.OIDC_SCOPES and not set(answer.granted) - token_endpoint.OIDC_SCOPES:
        raise ConsentMissing(
            "Microsoft granted none of the permissions this connection needs.",
            action="Ask an IT admin to grant consent for this app registration, then connect again.",
        )


def _require_same_account(connection: Connection, account: Account, actor: User) -> None:
    """Allow another account only for a new owner after a transfer, and only from the same directory."""
    known = (connection.account_tid, connection.account_oid)
    if not connection.account_oid or (account.tid, account.oid) == known:
        return
    if not ownership_transfer.may_change_account(connection, actor=actor):
        raise WrongAccount(
            f"You signed in as {account.username}, but this connection belongs to {connection.account_username}. "
            "Nothing was changed.",
            action=f"Sign in again and pick {connection.account_username}, or make a new connection "
            f"for {account.username}.",
        )
    if account.tid != connection.account_tid:
        raise WrongTenant(
            f"{account.username or 'This account'} belongs to another directory than {connection.account_username}, "
            "with which this connection was made. Nothing was changed.",
            action="Sign in with an account of the same directory, or make a new connection.",
        )


def _refresh_scopes(requested: tuple[str, ...], granted: tuple[str, ...]) -> list[str]:
    """Return the scopes for later refreshes. Scopes not granted are omitted, because they would make a refresh fail."""
    lowered = {scope.lower() for scope in granted}
    scopes = [scope for scope in requested if scope not in token_endpoint.OIDC_SCOPES]
    return [*([scope for scope in scopes if scope.lower() in lowered] or scopes), "offline_access"]
