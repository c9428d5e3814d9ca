"""Tokens for a connection's other resources. They are requested with its refresh token when a caller needs them.

The scheduler keeps the connection's own token valid, and so notices when the grant ends. Nothing here changes the
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

# After a refusal, a resource is requested again after this time, because consent may have been granted by then.
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
    """Return the audience of a token for the resource. Raises InvalidInput if the connection has no address for it."""
    cloud = tenants.cloud_of(connection.tenant)
    return resources.audience(cloud, resource, connection.hosts)


def others_needed(connection: Connection) -> list[str]:
    """Return the resources that the connection's permissions need, except that of its own token."""
    keys = resources.needed(permission_drift.required_permissions(connection))
    return [key for key in keys if key != connection.resource]


def arrange(connection: Connection, *, forget_tokens: bool, now: datetime) -> None:
    """Create a row for each other resource that is needed, and delete all other rows.

    With ``forget_tokens``, the tokens of the remaining rows are deleted too, because they come from an earlier sign-in.
    Call it in the transaction that stores the grant.
    """
    keys = others_needed(connection)
    _remove_except(connection, keys, now)
    rows = ResourceToken.objects.filter(connection=connection)
    if forget_tokens:
        # The policy is checked for the first token after each sign-in, so the dates are deleted too.
        forgotten = {"access_token": None, "expires_at": None, "refreshed_at": None, "trouble_at": None}
        rows.update(granted_scopes="", **forgotten, **_NO_PROBLEM)
    known = set(rows.values_list("resource", flat=True))
    for key in keys:
        if key not in known:
            ResourceToken.objects.create(connection=connection, resource=key)
    _sum_up(connection)


def drop_unneeded(connection: Connection, *, now: datetime) -> None:
    """Delete the tokens of resources that the connection's permissions no longer include."""
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
    """A connection's grant, as it was read before the request to Microsoft."""

    pk: int
    token_version: int
    connected_at: datetime | None
    refresh_token: str | None = field(repr=False)

    @classmethod
    def of(cls, connection: Connection) -> "SeenGrant":
        return cls(connection.pk, connection.token_version, connection.connected_at, connection.refresh_token)


def refresh(pk: int, resource: str, *, now: datetime, tell: bool = True) -> None:
    """Request a token for the resource, and store the result. Does nothing unless the connection is active.

    Without ``tell``, a refusal opens no incident, because the person who can act is about to see the refusal.
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
        # The sweep finds the same value, and reports who can fix it.
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
        # The whole grant or app registration may be refused. The refresh of the connection's own token finds out.
        apply_results.apply(batch_client.request_tokens(scheduler.claim_one(pk, now=now)), now=now)
        if Connection.objects.exclude(status=Connection.Status.ACTIVE).filter(pk=pk).exists():
            return
        if Connection.objects.filter(APP_REJECTED, pk=pk).exists():
            return
    if answer.flags():
        refuse(connection, resource, answer, now=now, tell=tell)
    else:
        # The failure counts from the time of the response, which may have taken long.
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
    """Send the request with each live credential in turn. Returns the first response that is not about a credential.

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
    """Return the reason why the policy does not allow the first token for a resource, or None.

    Later tokens are left to the policy's other checks.
    """
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
    """Store the token, unless someone has signed in again since ``seen``. Returns whether it was stored.

    A new refresh token is stored only if no other refresh was faster. Entra does not revoke a refresh token when it is
    used. So both keep working, and the version need not change.
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
    """Store why there is no token for the resource. The connection keeps working for all other resources.

    ``tell`` opens an incident. Callers pass False if the person who can act is looking at the result.
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
