"""Tokens for a connection's other resources, requested when a caller needs them, with its one refresh token.

The scheduler keeps the connection's own token alive and so notices when the grant ends; nothing here changes the
connection's status. Microsoft is called outside any transaction.
"""

import time
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction

from connections import audit
from connections.errors import ApprovalNeeded, InvalidInput, PolicyForbids, UnreadableSecret
from connections.fields import secret_field
from connections.microsoft import http, resources, token_endpoint
from connections.microsoft.classifier import Verdict
from connections.microsoft.error_types import Kind, Who
from connections.microsoft.token_endpoint import Audience, TokenSet
from connections.models import AppCredential, Connection, ResourceToken
from connections.models.audit import AuditAction
from connections.models.connections import APP_REJECTED, RELATED
from connections.services.incidents import incidents
from connections.services.policy import approvals, permission_drift
from connections.services.registry import app_consents, credential_checks, tenants
from connections.services.tokens import apply_results, batch, batch_client, scheduler

# Microsoft is asked again for a resource that it refused after this time, because consent may be granted meanwhile.
RETRY_REFUSED = timedelta(minutes=1)
_NO_PROBLEM = {
    "problem_code": "",
    "problem_status": "",
    "problem_cause": "",
    "problem_action": "",
    "problem_who": "",
    "problem_at": None,
}
Answer = TokenSet | Verdict


def audience(connection: Connection, resource: str) -> Audience:
    """Return what a token for the resource is for. Raises InvalidInput if the connection has no address for it."""
    cloud = tenants.cloud_of(connection.tenant)
    return resources.audience(cloud, resource, connection.hosts)


def others_needed(connection: Connection) -> list[str]:
    """Return the resources that the connection's permissions need besides that of its own token."""
    keys = resources.needed(permission_drift.required_permissions(connection))
    return [key for key in keys if key != connection.resource]


def arrange(connection: Connection, *, forget_tokens: bool, now: datetime) -> None:
    """Make one row for each other resource that is needed, and remove all others. Call it in the transaction that grants.

    ``forget_tokens`` removes the tokens of the remaining ones, too, because they come from another sign-in.
    """
    keys = others_needed(connection)
    _remove_except(connection, keys, now)
    rows = ResourceToken.objects.filter(connection=connection)
    if forget_tokens:
        # The policy is asked about the first token after each sign-in.
        forgotten = {"access_token": None, "expires_at": None, "refreshed_at": None, "trouble_at": None}
        rows.update(granted_scopes="", **forgotten, **_NO_PROBLEM)
    known = set(rows.values_list("resource", flat=True))
    for key in keys:
        if key not in known:
            ResourceToken.objects.create(connection=connection, resource=key)
    _sum_up(connection)


def drop_unneeded(connection: Connection, *, now: datetime) -> None:
    """Remove the tokens of resources that the connection's permissions no longer include."""
    _remove_except(connection, others_needed(connection), now)
    _sum_up(connection)


def _remove_except(connection: Connection, keys: Collection[str], now: datetime) -> None:
    for row in ResourceToken.objects.filter(connection=connection).exclude(resource__in=keys):
        incidents.resource_accepted(connection, row.resource, now=now)
        row.delete()


def _sum_up(connection: Connection) -> None:
    texts = ResourceToken.objects.filter(connection=connection).values_list("granted_scopes", flat=True)
    granted = " ".join(sorted({name for text in texts for name in text.split()}))
    Connection.objects.filter(pk=connection.pk).exclude(other_granted=granted).update(other_granted=granted)
    connection.other_granted = granted


@dataclass(frozen=True, slots=True)
class SeenGrant:
    """A connection's grant as read before the request to Microsoft."""

    pk: int
    token_version: int
    connected_at: datetime | None
    refresh_token: str | None = field(repr=False)

    @classmethod
    def of(cls, connection: Connection) -> "SeenGrant":
        return cls(connection.pk, connection.token_version, connection.connected_at, connection.refresh_token)


def refresh(pk: int, resource: str, *, now: datetime, tell: bool = True) -> None:
    """Request a token for the resource and store the result. Does nothing unless the connection is active.

    Without ``tell``, a refusal opens no incident, because whoever can act is about to see it.
    """
    rows = Connection.objects.select_related(*RELATED, "owner")
    connection = rows.filter(pk=pk, status=Connection.Status.ACTIVE, resource_tokens__resource=resource).first()
    if connection is None:
        return
    began = time.monotonic()
    try:
        seen = SeenGrant.of(connection)
        answer = _request(connection, seen, resource, now=now)
    except UnreadableSecret:
        # The sweep meets the same value, and tells who can repair it.
        _note_trouble(connection, resource, now)
        return
    if isinstance(answer, TokenSet):
        forbidden = _why_forbidden(connection, resource, answer)
        if forbidden is None:
            store(connection, resource, answer, seen, now=now)
        else:
            refuse(connection, resource, forbidden, now=now, tell=tell)
        return
    if answer.app_wide or answer.credential or answer.kind is Kind.REAUTH:
        # This may be about the whole grant or app registration: the refresh of the connection's own token decides.
        apply_results.apply(batch_client.request_tokens(scheduler.claim_one(pk, now=now)), now=now)
        if Connection.objects.exclude(status=Connection.Status.ACTIVE).filter(pk=pk).exists():
            return
        if Connection.objects.filter(APP_REJECTED, pk=pk).exists():
            return
    if answer.flags():
        refuse(connection, resource, answer, now=now, tell=tell)
    else:
        # A failure is as old as its answer, which may have taken long to come.
        _note_trouble(connection, resource, now + timedelta(seconds=time.monotonic() - began))
        if answer.kind is Kind.THROTTLED:
            wait = timedelta(seconds=min(answer.retry_after or 60, 3600))
            app_consents.pause(connection.app_registration, connection.tenant, until=now + wait)


def _request(connection: Connection, seen: SeenGrant, resource: str, *, now: datetime) -> Answer:
    try:
        target = audience(connection, resource)
    except InvalidInput as error:
        return batch.no_address(error)
    wanted = resources.of_resource(permission_drift.required_permissions(connection), resource)
    return request(connection, seen, target, wanted, now=now)


def request(
    connection: Connection, seen: SeenGrant, target: Audience, wanted: Collection[str], *, now: datetime
) -> Answer:
    """Send the request with each live credential in turn, and return the first answer that is not about a credential.

    Stores only which credentials were rejected. Raises UnreadableSecret.
    """
    answer: Answer = credential_checks.NO_CREDENTIAL
    scopes = (*wanted, "offline_access")
    for credential, application in credential_checks.live_applications(connection.app_registration, connection.tenant):
        if connection.is_delegated:
            if seen.refresh_token is None:
                raise UnreadableSecret("This connection has no refresh token.", action="Its owner needs to sign in.")
            message = token_endpoint.refresh_request(application, seen.refresh_token, scopes, None, audience=target)
        else:
            message = token_endpoint.client_credentials_request(application, None, audience=target)
        requested = scopes if connection.is_delegated else ()
        answer = token_endpoint.read_answer(http.client().send(message), requested=requested, audience=target)
        if isinstance(answer, TokenSet) or not answer.credential:
            return answer
        _note_rejected(credential, answer, now)
    return answer


def _why_forbidden(connection: Connection, resource: str, answer: TokenSet) -> Verdict | None:
    """Return why the policy does not allow the first token for a resource; later ones are left to its other checks."""
    if ResourceToken.objects.filter(connection=connection, resource=resource, refreshed_at__isnull=False).exists():
        return None
    try:
        approvals.require_grant(connection, answer.granted)
    except (PolicyForbids, ApprovalNeeded) as error:
        return Verdict(Kind.POLICY, error.code, error.cause, error.action, Who.IT_ADMIN, certain=True)
    return None


def _note_rejected(credential: AppCredential, verdict: Verdict, now: datetime) -> None:
    if not credential_checks.awaits_upload(credential):
        credential_checks.credential_refused(credential, verdict, now=now)


def store(connection: Connection, resource: str, answer: TokenSet, seen: SeenGrant, *, now: datetime) -> bool:
    """Store the token, unless somebody has signed in again since ``seen``; return whether it was stored.

    A new refresh token is stored only if no other refresh was faster. Entra does not revoke a refresh token when it is
    used, so that either one goes on working, and the version need not change.
    """
    with transaction.atomic():
        current = Connection.objects.select_for_update(no_key=True).filter(pk=connection.pk).first()
        row = ResourceToken.objects.filter(connection=connection, resource=resource).first()
        if current is None or row is None or current.status != Connection.Status.ACTIVE:
            return False
        if current.connected_at != seen.connected_at:
            return False
        if answer.refresh_token and current.token_version == seen.token_version:
            new = {"refresh_token": answer.refresh_token, "previous_refresh_token": seen.refresh_token}
            encrypted = {
                name: secret_field(Connection, name).encrypt(token, current.identity)
                for name, token in new.items()
                if token
            }
            Connection.objects.filter(pk=current.pk).update(**encrypted)
        is_news = not row.refreshed_at or bool(row.problem_code)
        ResourceToken.objects.filter(pk=row.pk).update(
            access_token=secret_field(ResourceToken, "access_token").encrypt(answer.access_token, row.identity),
            expires_at=now + timedelta(seconds=answer.expires_in),
            granted_scopes=" ".join(answer.granted),
            refreshed_at=now,
            trouble_at=None,
            **_NO_PROBLEM,
        )
        _sum_up(connection)
        if is_news:
            changes = {"resource": resources.label(resource), "permissions": audit.join_values(answer.granted)}
            audit.record(AuditAction.CONNECTION_RESOURCE_CONNECTED, connection, actor=None, changes=changes)
            incidents.resource_accepted(connection, resource, now=now)
    return True


def refuse(connection: Connection, resource: str, verdict: Verdict, *, now: datetime, tell: bool = True) -> None:
    """Store why there is no token for the resource. The connection goes on working for all others.

    ``tell`` opens an incident; it is not needed if the person who can act is looking at the result.
    """
    with transaction.atomic():
        Connection.objects.select_for_update(no_key=True).get(pk=connection.pk)
        row = ResourceToken.objects.filter(connection=connection, resource=resource).first()
        if row is None:
            return
        values: dict[str, Any] = {
            "problem_code": verdict.code[:60],
            "problem_status": apply_results.STATUS_OF.get(verdict.kind, Connection.Status.CONSENT_NEEDED),
            "problem_cause": verdict.cause,
            "problem_action": verdict.action,
            "problem_who": verdict.who.value,
            "problem_at": now,
        }
        ResourceToken.objects.filter(pk=row.pk).update(**values)
        if row.problem_code != values["problem_code"]:
            changes = {"resource": resources.label(resource), "code": verdict.code, "cause": verdict.cause}
            audit.record(AuditAction.CONNECTION_RESOURCE_FLAGGED, connection, actor=None, changes=changes)
        if tell:
            incidents.resource_refused(connection, resource, verdict, now=now)


def _note_trouble(connection: Connection, resource: str, now: datetime) -> None:
    ResourceToken.objects.filter(connection=connection, resource=resource).update(trouble_at=now)
