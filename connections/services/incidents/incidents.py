"""Open and resolve incidents, one per cause. Call these in the transaction that changes a state, so that both agree."""

from collections.abc import Collection
from datetime import datetime

from django.db import transaction
from django.db.models import Q, QuerySet

from connections.microsoft import clouds, mailbox_errors
from connections.microsoft.classifier import Verdict
from connections.microsoft.error_types import Kind as VerdictKind
from connections.microsoft.error_types import Who
from connections.models import AppRegistration, Connection, HandOver, Incident, MailboxAccess, User
from connections.services.incidents.store import Cause, affected_in_open, close, report, resolve_affected

Kind = Incident.Kind

# Incidents that stay open until all their connections work again.
_BY_CONNECTION = (Kind.ACCOUNT, Kind.CONSENT, Kind.POLICY, Kind.ENCRYPTION_KEY)
# Codes caused by a rule of the directory, not by the state of one account: Conditional Access and security defaults
# (53…), device rules, tenant restrictions (identity-platform/reference-error-codes).
_DIRECTORY_RULES = tuple(f"AADSTS{number}" for number in (53, 50002, 50005, 50021, 50097, 50129, 50131))


def support_reference(verdict: Verdict) -> str:
    """The IDs that Microsoft's support asks for, on one line."""
    ids = {"trace": verdict.trace_id, "correlation": verdict.correlation_id, "time": verdict.timestamp}
    return " · ".join(f"{name} {value}" for name, value in ids.items() if value)[:200]


def connection_flagged(connection: Connection, verdict: Verdict, *, now: datetime) -> Incident:
    """Add a flagged connection to the incident for its cause, and resolve it in all others."""
    app = connection.app_registration
    tid = connection.account_tid or app.tenant.tid
    account = connection.account_username or connection.name
    kind = Kind.POLICY
    if verdict.kind is VerdictKind.REAUTH:
        # There is one incident per account, however many of its connections are affected.
        identity = f"{tid}:{connection.account_oid}" if connection.account_oid else f"connection:{connection.pk}"
        kind, key = Kind.ACCOUNT, f"account:{identity}:{connection.owner_id}"
        title = f"{account} must sign in again" if verdict.who is Who.OWNER else f"{account} cannot sign in any more"
    elif verdict.kind is VerdictKind.CONSENT:
        kind, key, title = Kind.CONSENT, f"consent:{app.pk}:{tid}", f"{app} lacks consent in {app.tenant}"
    elif verdict.kind is not VerdictKind.POLICY:
        key, title = f"config:{verdict.code}:{app.pk}", f"{app} asks for something Microsoft refuses"
    elif verdict.code.startswith(_DIRECTORY_RULES):
        key, title = f"policy:{verdict.code}:{tid}", f"A policy of {app.tenant} blocks sign-ins"
    else:
        key, title = f"policy:{verdict.code}:{tid}:{connection.account_oid}", f"{account} is blocked"
    cause = Cause(
        kind,
        key,
        title,
        verdict.code,
        verdict.cause,
        verdict.action,
        verdict.who.value,
        support_reference(verdict),
        assignee=connection.owner if verdict.who is Who.OWNER else None,
        app_registration=app,
        tenant=app.tenant,
    )
    with transaction.atomic():
        others = affected_in_open([connection.pk]).filter(incident__kind__in=_BY_CONNECTION)
        resolve_affected(others.exclude(incident__key=cause.key), now=now)
        return report(cause, [connection], now=now)


def connections_recovered(pks: Collection[int], *, now: datetime) -> None:
    """Resolve connections that got a token. Usually there is nothing to resolve, which takes only one query."""
    affected = affected_in_open(pks).filter(incident__kind__in=_BY_CONNECTION)
    if pks and affected.exists():
        resolve_affected(affected, now=now)


def connections_disabled(pks: Collection[int], *, now: datetime) -> None:
    """Resolve disabled connections in all incidents except those about an owner who has left."""
    resolve_affected(affected_in_open(pks).exclude(incident__kind=Kind.LEAVER), now=now)


def connection_removed(connection: Connection, *, now: datetime) -> None:
    """Resolve a connection that is about to be removed."""
    resolve_affected(affected_in_open([connection.pk]), now=now)


def owner_changed(connection: Connection, *, is_cut: bool, now: datetime) -> None:
    """Resolve what was assigned to the old owner; with ``is_cut``, also incidents about the tokens being deleted."""
    of_old_owner = Q(incident__kind__in=(Kind.LEAVER, Kind.HAND_OVER)) | Q(incident__assignee__isnull=False)
    if is_cut:
        of_old_owner |= Q(incident__kind__in=_BY_CONNECTION)
    resolve_affected(affected_in_open([connection.pk]).filter(of_old_owner), now=now)


def ownership_transferred(connection: Connection, transfer: HandOver, *, now: datetime) -> Incident:
    """Report that the new owner, who is already set in ``connection``, must sign in."""
    by_name = transfer.by_name.partition(" <")[0]
    consequence = (
        f"Until then it goes on with the sign-in of {transfer.account_before or 'the old account'}."
        if transfer.keeps_grant
        else "Until then it gives no tokens."
    )
    cause = Cause(
        Kind.HAND_OVER,
        f"handover:{connection.pk}:{transfer.pk}",
        f"Sign in for {connection}",
        "",
        f"{by_name} handed {connection} over to {connection.owner}, who must sign in for it. {consequence}",
        "Sign in for it with your own account or the service account it is meant for.",
        Connection.Who.OWNER,
        assignee=connection.owner,
        app_registration=connection.app_registration,
        tenant=connection.app_registration.tenant,
    )
    return report(cause, [connection], now=now)


def ownership_transfer_completed(connection: Connection, *, now: datetime) -> None:
    resolve_affected(affected_in_open([connection.pk]).filter(incident__kind=Kind.HAND_OVER), now=now)


def owner_left(person: User, connections: QuerySet[Connection], *, now: datetime) -> Incident:
    """Report that a person who owns connections has left, so an IT admin must transfer ownership."""
    cause = Cause(
        Kind.LEAVER,
        f"leaver:{person.pk}",
        f"{person} has left and owns connections",
        "",
        person.left_cause,
        "Hand their connections over to somebody else before their sign-ins end.",
        Connection.Who.IT_ADMIN,
        person=person,
    )
    return report(cause, connections, now=now)


def owner_returned(person: User, *, now: datetime) -> None:
    close(f"leaver:{person.pk}", now=now)


def app_rejected(app: AppRegistration, verdict: Verdict, *, now: datetime) -> Incident:
    cause = Cause(
        Kind.APP_REGISTRATION,
        f"app:{app.pk}",
        f"Microsoft rejects {app}",
        verdict.code,
        verdict.cause,
        verdict.action,
        verdict.who.value,
        support_reference(verdict),
        app_registration=app,
        tenant=app.tenant,
    )
    return report(cause, app.connections.filter(status__in=Connection.KEPT_ALIVE).select_related("owner"), now=now)


def app_accepted(app: AppRegistration, *, now: datetime) -> None:
    close(f"app:{app.pk}", now=now)


def microsoft_unreachable(environment: str, verdict: Verdict, *, now: datetime) -> Incident:
    """Report an outage after several failed attempts. Nobody needs to act, but the incident's page explains it."""
    cloud = clouds.CLOUDS.get(environment)
    cause = Cause(
        Kind.OUTAGE,
        f"outage:{environment}",
        f"{cloud.label if cloud else environment} cannot be reached",
        verdict.code,
        verdict.cause,
        "Nothing needs to be done: the portal keeps trying and goes on by itself. Tokens that are still valid work.",
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
        "Stored secrets cannot be opened",
        "encryption_key_missing",
        "Secrets of some connections were encrypted with a key the portal was not started with. Nothing was sent to "
        "Microsoft and nothing was changed.",
        "An operator must add the missing key to FIELD_ENCRYPTION_KEYS and restart the portal.",
        Connection.Who.IT_ADMIN,
    )
    return report(cause, Connection.objects.filter(pk__in=pks).select_related("owner"), now=now)


def report_mailbox(access: MailboxAccess, *, now: datetime) -> Incident:
    """Report that a connection cannot reach a mailbox. There is one incident per mailbox and kind of missing access."""
    mailbox = access.mailbox
    who = mailbox_errors.who_can_fix(access.lack)
    # If the owners must fix it, each of them gets a separate incident.
    owner = access.connection.owner if who is Who.OWNER else None
    cause = Cause(
        Kind.MAILBOX,
        f"mailbox:{mailbox.pk}:{access.lack or access.code}{f':{owner.pk}' if owner else ''}",
        f"{mailbox} cannot be reached",
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
    """Resolve the connection's problem with a mailbox that it reaches again or that was detached."""
    resolve_affected(affected_in_open([access.connection_id]).filter(incident__mailbox=access.mailbox_id), now=now)


def explaining_incident(connection: Connection, *, among: QuerySet[Incident]) -> int | None:
    """The ID of the open incident in ``among`` that explains why the connection issues no token, or None."""
    affects_it = Q(affected__connection=connection, affected__healed_at=None) & ~Q(kind=Kind.MAILBOX)
    outage = Q(key=f"outage:{connection.app_registration.tenant.environment}")
    matches = among.filter(affects_it | outage, closed_at=None).order_by("-opened_at", "-pk")
    return matches.values_list("pk", flat=True).first()
