"""Incidents: one per cause, opened by what Microsoft answers, closed by what it answers later.

The services that change a state call these inside their own transaction, so an incident is never out of step with
what it tells about. Which observations are one incident is decided by the key alone.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Q, QuerySet

from connections.microsoft import clouds, mailbox_errors
from connections.microsoft.classifier import Verdict
from connections.microsoft.error_types import Kind as VerdictKind
from connections.microsoft.error_types import Who
from connections.models import (
    AppRegistration,
    Connection,
    HandOver,
    Incident,
    MailboxAccess,
    User,
)
from connections.services.incidents.store import Cause, affected_in_open, close, report, resolve_affected

Kind = Incident.Kind

# Incidents that live as long as one of their connections is not well.
_BY_CONNECTION = (Kind.ACCOUNT, Kind.CONSENT, Kind.POLICY, Kind.ENCRYPTION_KEY)
# Codes by which a rule of the directory speaks, and not the state of one account: Conditional Access and security
# defaults (53…), device rules, tenant restrictions (identity-platform/reference-error-codes).
_DIRECTORY_RULES = (
    "AADSTS53",
    "AADSTS50002",
    "AADSTS50005",
    "AADSTS50097",
    "AADSTS50129",
    "AADSTS50131",
    "AADSTS50021",
)


def support_reference(verdict: Verdict) -> str:
    """What Microsoft's support asks for, in one line."""
    known = {"trace": verdict.trace_id, "correlation": verdict.correlation_id, "time": verdict.timestamp}
    return " · ".join(f"{name} {value}" for name, value in known.items() if value)[:200]


# --- One connection -------------------------------------------------------------------------------


def connection_flagged(connection: Connection, verdict: Verdict, *, now: datetime) -> Incident:
    """A connection has just been flagged: put it into the incident of its cause, and out of any other."""
    cause = _cause_of(connection, verdict)
    with transaction.atomic():
        others = affected_in_open([connection.pk]).filter(incident__kind__in=_BY_CONNECTION)
        resolve_affected(others.exclude(incident__key=cause.key), now=now)
        return report(cause, [connection], now=now)


def _cause_of(connection: Connection, verdict: Verdict) -> Cause:
    app = connection.app_registration
    tid = connection.account_tid or app.tenant.tid
    account = connection.account_username or connection.name
    shared: dict[str, Any] = {
        "code": verdict.code,
        "cause": verdict.cause,
        "action": verdict.action,
        "who": verdict.who.value,
        "reference": support_reference(verdict),
        "app_registration": app,
        "tenant": app.tenant,
        "assignee": connection.owner if verdict.who is Who.OWNER else None,
    }
    if verdict.kind is VerdictKind.REAUTH:
        # One person revoked is one incident, however many of their connections it breaks.
        identity = f"{tid}:{connection.account_oid}" if connection.account_oid else f"connection:{connection.pk}"
        title = f"{account} must sign in again" if verdict.who is Who.OWNER else f"{account} cannot sign in any more"
        return Cause(Kind.ACCOUNT, f"account:{identity}:{connection.owner_id}", title, **shared)
    if verdict.kind is VerdictKind.CONSENT:
        return Cause(Kind.CONSENT, f"consent:{app.pk}:{tid}", f"{app} lacks consent in {app.tenant}", **shared)
    if verdict.kind is VerdictKind.POLICY and verdict.code.startswith(_DIRECTORY_RULES):
        return Cause(Kind.POLICY, f"policy:{verdict.code}:{tid}", f"A policy of {app.tenant} blocks sign-ins", **shared)
    if verdict.kind is VerdictKind.POLICY:
        return Cause(
            Kind.POLICY, f"policy:{verdict.code}:{tid}:{connection.account_oid}", f"{account} is blocked", **shared
        )
    return Cause(
        Kind.POLICY, f"config:{verdict.code}:{app.pk}", f"{app} asks for something Microsoft refuses", **shared
    )


def connections_recovered(pks: Collection[int], *, now: datetime) -> None:
    """These connections got a token: heal them in every incident, and close the incidents that are done.

    Costs one query when there is nothing to heal, which is nearly always.
    """
    waiting = affected_in_open(pks).filter(incident__kind__in=_BY_CONNECTION)
    if pks and waiting.exists():
        with transaction.atomic():
            resolve_affected(waiting, now=now)


def connection_disabled(connection: Connection, *, now: datetime) -> None:
    """It breaks nothing any more; that its owner has left is still so."""
    connections_disabled([connection.pk], now=now)


def connections_disabled(pks: Collection[int], *, now: datetime) -> None:
    """The same for many at once."""
    with transaction.atomic():
        resolve_affected(affected_in_open(pks).exclude(incident__kind=Kind.LEAVER), now=now)


def connection_removed(connection: Connection, *, now: datetime) -> None:
    """About to be removed: it concerns nobody any more."""
    with transaction.atomic():
        resolve_affected(affected_in_open([connection.pk]), now=now)


# --- Owners ---------------------------------------------------------------------------------------


def owner_changed(connection: Connection, *, is_cut: bool, now: datetime) -> None:
    """A connection is about to get another owner: what was the old owner's to do is over; what remains is the new one's.

    ``is_cut``: its tokens are deleted, so whatever Microsoft said about them is over, too.
    """
    of_the_owner = (
        Q(incident__kind=Kind.LEAVER) | Q(incident__kind=Kind.HAND_OVER) | Q(incident__assignee__isnull=False)
    )
    if is_cut:
        of_the_owner |= Q(incident__kind__in=_BY_CONNECTION)
    with transaction.atomic():
        resolve_affected(affected_in_open([connection.pk]).filter(of_the_owner), now=now)


def ownership_transferred(connection: Connection, transfer: HandOver, *, now: datetime) -> Incident:
    """Somebody has got a connection and must sign in for it. ``connection`` with its new owner."""
    giver = transfer.by_name.partition(" <")[0]
    what = (
        f"Until then it goes on with the sign-in of {transfer.account_before or 'the old account'}."
        if transfer.keeps_grant
        else "Until then it gives no tokens."
    )
    cause = Cause(
        Kind.HAND_OVER,
        f"handover:{connection.pk}:{transfer.pk}",
        f"Sign in for {connection}",
        "",
        f"{giver} handed {connection} over to {connection.owner}, who must sign in for it. {what}",
        "Sign in for it with your own account or the service account it is meant for.",
        Connection.Who.OWNER,
        assignee=connection.owner,
        app_registration=connection.app_registration,
        tenant=connection.app_registration.tenant,
    )
    return report(cause, [connection], now=now)


def ownership_transfer_completed(connection: Connection, *, now: datetime) -> None:
    """The new owner has signed in."""
    with transaction.atomic():
        resolve_affected(affected_in_open([connection.pk]).filter(incident__kind=Kind.HAND_OVER), now=now)


def owner_left(person: User, connections: QuerySet[Connection], *, now: datetime) -> Incident:
    """Somebody has left and owns connections: an IT admin must hand them over."""
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
    """Somebody who counted as having left is back."""
    close(f"leaver:{person.pk}", now=now)


# --- App registrations ----------------------------------------------------------------------------


def app_rejected(app: AppRegistration, verdict: Verdict, *, now: datetime) -> Incident:
    """Microsoft rejects an app registration: one incident for all its connections, none of which is to blame."""
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
    waiting = app.connections.filter(status__in=Connection.KEPT_ALIVE).select_related("owner")
    return report(cause, waiting, now=now)


def app_accepted(app: AppRegistration, *, now: datetime) -> None:
    """Microsoft accepts it again."""
    close(f"app:{app.pk}", now=now)


# --- Microsoft, and ourselves ---------------------------------------------------------------------


def microsoft_unreachable(environment: str, verdict: Verdict, *, now: datetime) -> Incident:
    """Several tries in a row got no useful answer. Nobody has to act, but everybody may want to know why."""
    found = clouds.CLOUDS.get(environment)
    cause = Cause(
        Kind.OUTAGE,
        f"outage:{environment}",
        f"{found.label if found else environment} cannot be reached",
        verdict.code,
        verdict.cause,
        "Nothing needs to be done: the portal keeps trying and goes on by itself. Tokens that are still valid work.",
        Connection.Who.MICROSOFT,
        support_reference(verdict),
    )
    return report(cause, [], now=now)


def microsoft_reachable(environments: Collection[str], *, now: datetime) -> None:
    """Tokens came from these environments: an outage there is over. One query when there was none."""
    keys = [f"outage:{environment}" for environment in environments]
    for key in Incident.objects.filter(key__in=keys, closed_at=None).values_list("key", flat=True):
        close(key, now=now)


def secrets_unreadable(pks: Collection[int], *, now: datetime) -> Incident:
    """No configured key opens what these connections need: our own trouble."""
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
    affected = Connection.objects.filter(pk__in=pks).select_related("owner")
    return report(cause, affected, now=now)


# --- Shared mailboxes -----------------------------------------------------------------------------


def report_mailbox(access: MailboxAccess, *, now: datetime) -> Incident:
    """A connection that is to reach a shared mailbox does not. Same mailbox and same lack are one incident."""
    mailbox = access.mailbox
    who = mailbox_errors.who_can_fix(access.lack)
    # What each owner mends for themselves is an incident of each owner.
    own = f":{access.connection.owner_id}" if who is Who.OWNER else ""
    cause = Cause(
        Kind.MAILBOX,
        f"mailbox:{mailbox.pk}:{access.lack or access.code}{own}",
        f"{mailbox} cannot be reached",
        access.code,
        access.cause,
        access.action,
        who.value,
        assignee=access.connection.owner if who is Who.OWNER else None,
        app_registration=access.connection.app_registration,
        tenant=mailbox.tenant,
        mailbox=mailbox,
    )
    with transaction.atomic():
        others = (
            affected_in_open([access.connection_id]).filter(incident__mailbox=mailbox).exclude(incident__key=cause.key)
        )
        resolve_affected(others, now=now)
        return report(cause, [access.connection], now=now)


def mailbox_reachable(access: MailboxAccess, *, now: datetime) -> None:
    """The connection reaches the mailbox again, or is no longer meant to."""
    with transaction.atomic():
        resolve_affected(affected_in_open([access.connection_id]).filter(incident__mailbox=access.mailbox_id), now=now)


# --- Reading --------------------------------------------------------------------------------------


def explaining_incident(connection: Connection, *, among: QuerySet[Incident]) -> int | None:
    """Number of the open incident that explains why the connection gives no token; None if there is none in ``among``."""
    of_it = Q(affected__connection=connection, affected__healed_at=None) & ~Q(kind=Kind.MAILBOX)
    outage = Q(key=f"outage:{connection.app_registration.tenant.environment}")
    found = among.filter(of_it | outage, closed_at=None).order_by("-opened_at", "-pk")
    return found.values_list("pk", flat=True).first()
