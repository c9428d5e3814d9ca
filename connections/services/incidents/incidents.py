"""Open and resolve incidents, one per cause.

Call these in the transaction that changes the state, so that both agree.
"""

from collections.abc import Collection
from datetime import datetime

from django.db import transaction
from django.db.models import Q, QuerySet

from connections.errors import AlteredSecret
from connections.fields import Place
from connections.microsoft import classifier, clouds, mailbox_errors, resources
from connections.microsoft.classifier import Verdict
from connections.microsoft.error_types import Kind as VerdictKind
from connections.microsoft.error_types import Who
from connections.models import (
    AppConsent,
    AppRegistration,
    Connection,
    HandOver,
    Incident,
    MailboxAccess,
    Tenant,
    User,
)
from connections.services.incidents.store import Cause, affected_in_open, close, report, resolve_affected

Kind = Incident.Kind

PORTAL_SIGN_IN = "portal-sign-in"  # key of the only incident of this kind
_RESOURCE = "resource:"  # beginning of the keys of incidents about one resource of a connection
# Incidents that stay open until all their connections work again.
_BY_CONNECTION = (Kind.ACCOUNT, Kind.CONSENT, Kind.POLICY, Kind.ENCRYPTION_KEY)
# Codes caused by a rule of the directory, not by the state of one account: tenant restrictions, device rules, cross-tenant
# access, Conditional Access and security defaults (identity-platform/reference-error-codes).
_DIRECTORY_RULES = frozenset(
    f"AADSTS{number}"
    for number in (
        50002, 500021, 500022, 50005, 50097, 50129, 50131, 500212, 500213, 53000, 530002, 530003, 53001, 53002, 53003,
        530032, 530035, 53005, 53009, 530084, 53010,
    )
)  # fmt: skip


def support_reference(verdict: Verdict) -> str:
    """Return the IDs that Microsoft's support asks for, on one line."""
    ids = {"trace": verdict.trace_id, "correlation": verdict.correlation_id, "time": verdict.timestamp}
    return " · ".join(f"{name} {value}" for name, value in ids.items() if value)[:200]


def connection_flagged(connection: Connection, verdict: Verdict, *, now: datetime) -> Incident:
    """Add a flagged connection to the incident for its cause, and mark it as resolved in all others."""
    app = connection.app_registration
    tenant = connection.tenant
    tid = connection.account_tid or tenant.tid
    account = connection.account_username or connection.name
    kind = Kind.POLICY
    if verdict.kind is VerdictKind.REAUTH:
        # There is one incident per account, however many of its connections are affected.
        identity = f"{tid}:{connection.account_oid}" if connection.account_oid else f"connection:{connection.pk}"
        kind, key = Kind.ACCOUNT, f"account:{identity}:{connection.owner_id}"
        title = f"{account} needs to sign in again" if verdict.who is Who.OWNER else f"{account} can't sign in"
    elif verdict.kind is VerdictKind.CONSENT:
        kind, key, title = Kind.CONSENT, f"consent:{app.pk}:{tid}", f"{app} needs consent in {tenant}"
    elif verdict.kind is not VerdictKind.POLICY:
        key, title = f"config:{verdict.code}:{app.pk}:{tid}", f"Microsoft rejects requests from {app} in {tenant}"
    elif classifier.family_code(verdict.code) in _DIRECTORY_RULES:
        key, title = f"policy:{verdict.code}:{tid}", f"A policy in {tenant} blocks sign-ins"
    else:
        key, title = f"policy:{verdict.code}:{tid}:{connection.account_oid}", f"{account} is blocked"
    assignee = connection.owner if verdict.who is Who.OWNER else None
    cause = _cause_of(verdict, kind, key, title, app, tenant, assignee=assignee)
    with transaction.atomic():
        others = affected_in_open([connection.pk]).filter(incident__kind__in=_BY_CONNECTION)
        others = others.exclude(incident__key__startswith=_RESOURCE)
        resolve_affected(others.exclude(incident__key=cause.key), now=now)
        return report(cause, [connection], now=now)


def _cause_of(
    verdict: Verdict,
    kind: Kind,
    key: str,
    title: str,
    app: AppRegistration,
    tenant: Tenant,
    *,
    assignee: User | None = None,
) -> Cause:
    return Cause(
        kind,
        key,
        title,
        verdict.code,
        verdict.cause,
        verdict.action,
        verdict.who.value,
        support_reference(verdict),
        assignee=assignee,
        app_registration=app,
        tenant=tenant,
    )


def resource_refused(connection: Connection, resource: str, verdict: Verdict, *, now: datetime) -> Incident:
    """Report that Microsoft issues no token for one of the connection's resources."""
    kind = Kind.CONSENT if verdict.kind is VerdictKind.CONSENT else Kind.POLICY
    title = f"{connection} has no access to {resources.label(resource)}"
    assignee = connection.owner if verdict.who is Who.OWNER else None
    key = _resource_key(connection, resource)
    app, tenant = connection.app_registration, connection.tenant
    return report(_cause_of(verdict, kind, key, title, app, tenant, assignee=assignee), [connection], now=now)


def resource_accepted(connection: Connection, resource: str, *, now: datetime) -> None:
    """Close the incident about this resource. Takes one query if there is none."""
    key = _resource_key(connection, resource)
    if Incident.objects.filter(key=key, closed_at=None).exists():
        close(key, now=now)


def _resource_key(connection: Connection, resource: str) -> str:
    return f"{_RESOURCE}{connection.pk}:{resource}"


def connections_recovered(pks: Collection[int], *, now: datetime) -> None:
    """Mark connections that got a token as resolved in their incidents."""
    if not pks:
        return
    affected = affected_in_open(pks).filter(incident__kind__in=_BY_CONNECTION)
    affected = affected.exclude(incident__key__startswith=_RESOURCE)
    if affected.exists():
        resolve_affected(affected, now=now)


def connections_disabled(pks: Collection[int], *, now: datetime) -> None:
    """Mark disabled connections as resolved in all incidents, except in those about an owner who has left."""
    resolve_affected(affected_in_open(pks).exclude(incident__kind=Kind.LEAVER), now=now)


def connection_removed(connection: Connection, *, now: datetime) -> None:
    resolve_affected(affected_in_open([connection.pk]), now=now)


def owner_changed(connection: Connection, *, is_cut: bool, now: datetime) -> None:
    """Resolve the connection's incidents that were assigned to the old owner.

    With ``is_cut``, the tokens are deleted, so incidents about them are resolved too.
    """
    of_old_owner = Q(incident__kind__in=(Kind.LEAVER, Kind.HAND_OVER)) | Q(incident__assignee__isnull=False)
    if is_cut:
        of_old_owner |= Q(incident__kind__in=_BY_CONNECTION)
    resolve_affected(affected_in_open([connection.pk]).filter(of_old_owner), now=now)


def ownership_transferred(
    connection: Connection, transfer: HandOver, *, first: str, who: str, now: datetime
) -> Incident:
    """Report that the new owner, who is already set in ``connection``, needs to sign in.

    ``first`` is the action that ``who`` must take before that, or "" if the new owner can sign in at once.
    """
    by_name = transfer.by_name.partition(" <")[0]
    consequence = (
        f"Until then, it uses the sign-in of {transfer.account_before or 'the old account'}."
        if transfer.keeps_grant
        else "Until then, it doesn't issue tokens."
    )
    cause = Cause(
        Kind.HAND_OVER,
        f"handover:{connection.pk}:{transfer.pk}",
        f"{connection} has a new owner" if first else f"Sign in for {connection}",
        "",
        f"{by_name} transferred {connection} to {connection.owner}, who needs to sign in. {consequence}",
        first or "Sign in with your own account or the intended service account.",
        who,
        assignee=connection.owner if who == Connection.Who.OWNER else None,
        app_registration=connection.app_registration,
        tenant=connection.tenant,
    )
    return report(cause, [connection], now=now)


def ownership_transfer_completed(connection: Connection, *, now: datetime) -> None:
    resolve_affected(affected_in_open([connection.pk]).filter(incident__kind=Kind.HAND_OVER), now=now)


def owner_left(person: User, connections: QuerySet[Connection], *, now: datetime) -> Incident:
    """Report that a person who owns connections has left, so that an IT admin transfers their ownership."""
    cause = Cause(
        Kind.LEAVER,
        f"leaver:{person.pk}",
        f"{person} left and owns connections",
        "",
        person.left_cause,
        "Transfer ownership of their connections before the sign-ins expire.",
        Connection.Who.IT_ADMIN,
        person=person,
    )
    return report(cause, connections, now=now)


def owner_returned(person: User, *, now: datetime) -> None:
    close(f"leaver:{person.pk}", now=now)


def app_rejected(app: AppRegistration, verdict: Verdict, *, now: datetime) -> Incident:
    cause = _cause_of(verdict, Kind.APP_REGISTRATION, f"app:{app.pk}", f"Microsoft rejects {app}", app, app.tenant)
    return report(cause, app.connections.filter(status__in=Connection.KEPT_ALIVE).select_related("owner"), now=now)


def app_accepted(app: AppRegistration, *, now: datetime) -> None:
    close(f"app:{app.pk}", now=now)


def credential_not_renewed(
    app: AppRegistration, credential: str, cause: str, action: str, *, now: datetime
) -> Incident:
    """Report that a credential could not be renewed. It still works, so no connection is affected yet."""
    opened = Cause(
        Kind.CREDENTIAL_RENEWAL,
        f"renewal:{app.pk}",
        f"{credential} of {app} wasn't renewed",
        "credential_not_renewed",
        f"{cause} The current credential still works until it expires.",
        action,
        Connection.Who.IT_ADMIN,
        app_registration=app,
        tenant=app.tenant,
    )
    return report(opened, [], now=now)


def credential_renewed(app: AppRegistration, *, now: datetime) -> None:
    close(f"renewal:{app.pk}", now=now)


def app_rejected_in(consent: AppConsent, verdict: Verdict, *, now: datetime) -> Incident:
    """Report that Microsoft rejects the app registration in one tenant only."""
    app, tenant = consent.app_registration, consent.tenant
    title = f"Microsoft rejects {app} in {tenant}"
    cause = _cause_of(verdict, Kind.APP_REGISTRATION, _key_in(consent), title, app, tenant)
    affected = app.connections.filter(tenant=tenant, status__in=Connection.KEPT_ALIVE)
    return report(cause, affected.select_related("owner"), now=now)


def app_accepted_in(consent: AppConsent, *, now: datetime) -> None:
    close(_key_in(consent), now=now)


def _key_in(consent: AppConsent) -> str:
    return f"app:{consent.app_registration_id}:{consent.tenant_id}"


def tenant_unknown(connection: Connection, tid: str, *, username: str, now: datetime) -> Incident:
    """Ask IT admins to register an account's directory. Until then, the connection's mailboxes can't be used."""
    domain = username.rpartition("@")[2] or tid
    cause = Cause(
        Kind.TENANT,
        f"tenant:{connection.tenant.environment}:{tid}",
        f"Add {domain} as a tenant?",
        "",
        f"{username or 'An account'} signed in from the directory {tid}, which isn't a tenant in this portal. Its "
        "shared mailboxes can't be used yet.",
        "Add the tenant. The portal then attaches and tests the mailboxes.",
        Connection.Who.IT_ADMIN,
        app_registration=connection.app_registration,
    )
    return report(cause, [connection], now=now)


def tenant_known(connection: Connection, *, now: datetime) -> None:
    resolve_affected(affected_in_open([connection.pk]).filter(incident__kind=Kind.TENANT), now=now)


def microsoft_unreachable(environment: str, verdict: Verdict, *, now: datetime) -> Incident:
    """Report an outage after several failed attempts. Nobody needs to act, but the incident explains the outage."""
    cloud = clouds.CLOUDS.get(environment)
    cause = Cause(
        Kind.OUTAGE,
        f"outage:{environment}",
        f"{cloud.label if cloud else environment} is unreachable",
        verdict.code,
        verdict.cause,
        "No action needed. The portal retries automatically, and valid tokens still work.",
        Connection.Who.MICROSOFT,
        support_reference(verdict),
    )
    return report(cause, [], now=now)


def microsoft_reachable(environments: Collection[str], *, now: datetime) -> None:
    """Close the outages of environments that issue tokens again. Takes one query if there are none."""
    keys = [f"outage:{environment}" for environment in environments]
    for key in Incident.objects.filter(key__in=keys, closed_at=None).values_list("key", flat=True):
        close(key, now=now)


def secrets_unreadable(pks: Collection[int], *, now: datetime) -> Incident:
    cause = Cause(
        Kind.ENCRYPTION_KEY,
        "encryption-key",
        "Stored secrets can't be decrypted",
        "encryption_key_missing",
        "The portal is missing the encryption key for some secrets. Nothing was changed or sent to Microsoft.",
        "An operator needs to add the missing key to FIELD_ENCRYPTION_KEYS and restart the portal.",
        Connection.Who.IT_ADMIN,
    )
    return report(cause, Connection.objects.filter(pk__in=pks).select_related("owner"), now=now)


def secret_altered(location: Place, what: str, pk: int, *, now: datetime) -> Incident:
    """Report a stored secret that was moved or altered. ``what`` is the kind of its row, and ``pk`` the row's number.

    No connection is listed as affected, so that only IT admins and auditors see the incident.
    """
    cause = Cause(
        Kind.ALTERED_SECRET,
        altered_secret_key(location, pk),
        f"A stored secret of {what} {pk} was moved or altered",
        AlteredSecret.code,
        f"The value in {location.table}.{location.column}, row {pk}, was encrypted for another place or changed "
        "outside the portal. The portal doesn't use it: nothing was sent to Microsoft, and no token was issued from it.",
        "Find out who wrote to the database. Then replace the value: the owner signs in again, or an IT admin enters the "
        "credential again.",
        Connection.Who.IT_ADMIN,
    )
    return report(cause, [], now=now)


def altered_secret_key(location: Place, pk: int) -> str:
    return f"altered-secret:{location.table}.{location.column}:{pk}"


def secret_replaced(key: str, *, now: datetime) -> None:
    """Close the incident about an altered secret, because its place contains a valid value again or no value."""
    close(key, now=now)


def portal_sign_in_rejected(verdict: Verdict, *, now: datetime) -> Incident:
    """Report that Microsoft rejects the secret of the portal's own sign-in."""
    cause = Cause(
        Kind.PORTAL_SIGN_IN,
        PORTAL_SIGN_IN,
        "Microsoft rejects the portal's own sign-in",
        verdict.code,
        "Microsoft doesn't accept LOGIN_MICROSOFT_CLIENT_SECRET: it has expired or is wrong. Nobody can sign in to "
        "the portal with Microsoft.",
        "An operator must create a new client secret in Entra, set LOGIN_MICROSOFT_CLIENT_SECRET and "
        "LOGIN_MICROSOFT_SECRET_EXPIRES, and restart the portal.",
        Connection.Who.IT_ADMIN,
        support_reference(verdict),
    )
    return report(cause, [], now=now)


def portal_sign_in_accepted(*, now: datetime) -> None:
    """Close the incident about the portal's own sign-in. Takes one query if there is none."""
    if Incident.objects.filter(key=PORTAL_SIGN_IN, closed_at=None).exists():
        close(PORTAL_SIGN_IN, now=now)


def report_mailbox(access: MailboxAccess, *, now: datetime) -> Incident:
    """Report that a connection cannot reach a mailbox. There is one incident per mailbox and kind of missing access."""
    mailbox = access.mailbox
    who = mailbox_errors.who_can_fix(access.lack)
    # If the owners must fix the problem, each of them gets a separate incident.
    owner = access.connection.owner if who is Who.OWNER else None
    cause = Cause(
        Kind.MAILBOX,
        f"mailbox:{mailbox.pk}:{access.lack or access.code}{f':{owner.pk}' if owner else ''}",
        f"{mailbox} can't be reached",
        access.code,
        access.cause,
        access.action,
        who.value,
        assignee=owner,
        app_registration=access.connection.app_registration,
        tenant=mailbox.tenant,
        mailbox=mailbox,
    )
    with transaction.atomic():
        others = affected_in_open([access.connection_id]).filter(incident__mailbox=mailbox)
        resolve_affected(others.exclude(incident__key=cause.key), now=now)
        return report(cause, [access.connection], now=now)


def mailbox_reachable(access: MailboxAccess, *, now: datetime) -> None:
    """Resolve the connection's problem with a mailbox that is reachable again or was detached."""
    resolve_affected(affected_in_open([access.connection_id]).filter(incident__mailbox=access.mailbox_id), now=now)


def explaining_incident(connection: Connection, *, among: QuerySet[Incident]) -> int | None:
    """Return the ID of the open incident in ``among`` that explains why the connection issues no token, or None."""
    affects_it = Q(affected__connection=connection, affected__healed_at=None) & ~Q(kind=Kind.MAILBOX)
    outage = Q(key=f"outage:{connection.tenant.environment}")
    matches = among.filter(affects_it | outage, closed_at=None).order_by("-opened_at", "-pk")
    return matches.values_list("pk", flat=True).first()
