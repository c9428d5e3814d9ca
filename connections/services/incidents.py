"""Incidents: one per cause, opened by what Microsoft answers, closed by what it answers later.

The services that change a state call these inside their own transaction, so an incident is never out of step with
what it tells about. Which observations are one incident is decided by the key alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet

from connections import audit
from connections.microsoft import clouds, graph
from connections.microsoft.errors import Kind as VerdictKind
from connections.microsoft.errors import Verdict, Who
from connections.models import (
    AffectedConnection,
    AppRegistration,
    Connection,
    HandOver,
    Incident,
    MailboxAccess,
    SharedMailbox,
    Tenant,
    User,
)
from connections.services import alerts

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
_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Cause:
    """What an incident says of itself."""

    kind: str
    key: str
    title: str
    code: str
    cause: str
    action: str
    who: str
    reference: str = ""
    assignee: User | None = None
    app_registration: AppRegistration | None = None
    tenant: Tenant | None = None
    mailbox: SharedMailbox | None = None
    person: User | None = None


def reference(verdict: Verdict) -> str:
    """What Microsoft's support asks for, in one line."""
    known = {"trace": verdict.trace_id, "correlation": verdict.correlation_id, "time": verdict.timestamp}
    return " · ".join(f"{name} {value}" for name, value in known.items() if value)[:200]


# --- One connection -------------------------------------------------------------------------------


def connection_flagged(connection: Connection, verdict: Verdict, *, now: datetime) -> Incident:
    """A connection has just been flagged: put it into the incident of its cause, and out of any other."""
    cause = _cause_of(connection, verdict)
    with transaction.atomic():
        others = _unhealed([connection.pk]).filter(incident__kind__in=_BY_CONNECTION)
        _mark_healed(others.exclude(incident__key=cause.key), now=now)
        return _report(cause, [connection], now=now)


def _cause_of(connection: Connection, verdict: Verdict) -> Cause:
    app = connection.app_registration
    tid = connection.account_tid or app.tenant.tid
    account = connection.account_username or connection.name
    shared: dict[str, Any] = {
        "code": verdict.code,
        "cause": verdict.cause,
        "action": verdict.action,
        "who": verdict.who.value,
        "reference": reference(verdict),
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


def connections_well(pks: Collection[int], *, now: datetime) -> None:
    """These connections got a token: heal them in every incident, and close the incidents that are done.

    Costs one query when there is nothing to heal, which is nearly always.
    """
    waiting = _unhealed(pks).filter(incident__kind__in=_BY_CONNECTION)
    if pks and waiting.exists():
        with transaction.atomic():
            _mark_healed(waiting, now=now)


def connection_disabled(connection: Connection, *, now: datetime) -> None:
    """It breaks nothing any more; that its owner has left is still so."""
    connections_disabled([connection.pk], now=now)


def connections_disabled(pks: Collection[int], *, now: datetime) -> None:
    """The same for many at once."""
    with transaction.atomic():
        _mark_healed(_unhealed(pks).exclude(incident__kind=Kind.LEAVER), now=now)


def connection_removed(connection: Connection, *, now: datetime) -> None:
    """About to be removed: it concerns nobody any more."""
    with transaction.atomic():
        _mark_healed(_unhealed([connection.pk]), now=now)


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
        _mark_healed(_unhealed([connection.pk]).filter(of_the_owner), now=now)


def handed_over(connection: Connection, made: HandOver, *, now: datetime) -> Incident:
    """Somebody has got a connection and must sign in for it. ``connection`` with its new owner."""
    giver = made.by_name.partition(" <")[0]
    what = (
        f"Until then it goes on with the sign-in of {made.account_before or 'the old account'}."
        if made.keeps_grant
        else "Until then it gives no tokens."
    )
    cause = Cause(
        Kind.HAND_OVER,
        f"handover:{connection.pk}:{made.pk}",
        f"Sign in for {connection}",
        "",
        f"{giver} handed {connection} over to {connection.owner}, who must sign in for it. {what}",
        "Sign in for it with your own account or the service account it is meant for.",
        Connection.Who.OWNER,
        assignee=connection.owner,
        app_registration=connection.app_registration,
        tenant=connection.app_registration.tenant,
    )
    return _report(cause, [connection], now=now)


def handed_over_done(connection: Connection, *, now: datetime) -> None:
    """The new owner has signed in."""
    with transaction.atomic():
        _mark_healed(_unhealed([connection.pk]).filter(incident__kind=Kind.HAND_OVER), now=now)


def owner_left(person: User, connections: QuerySet[Connection], *, now: datetime) -> Incident:
    """Somebody has left and owns connections: an IT admin must hand them over."""
    cause = Cause(
        Kind.LEAVER,
        f"leaver:{person.pk}",
        f"{person} has left and owns connections",
        "",
        person.left_cause,
        "Hand their connections over to somebody else, before the sign-ins they stand on end.",
        Connection.Who.IT_ADMIN,
        person=person,
    )
    return _report(cause, connections, now=now)


def owner_is_back(person: User, *, now: datetime) -> None:
    """Somebody who counted as having left is back."""
    _close(f"leaver:{person.pk}", now=now)


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
        reference(verdict),
        app_registration=app,
        tenant=app.tenant,
    )
    waiting = app.connections.filter(status__in=Connection.KEPT_ALIVE).select_related("owner")
    return _report(cause, waiting, now=now)


def app_accepted(app: AppRegistration, *, now: datetime) -> None:
    """Microsoft accepts it again."""
    _close(f"app:{app.pk}", now=now)


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
        reference(verdict),
    )
    return _report(cause, [], now=now)


def microsoft_answers(environments: Collection[str], *, now: datetime) -> None:
    """Tokens came from these environments: an outage there is over. One query when there was none."""
    keys = [f"outage:{environment}" for environment in environments]
    for key in Incident.objects.filter(key__in=keys, closed_at=None).values_list("key", flat=True):
        _close(key, now=now)


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
    return _report(cause, affected, now=now)


# --- Shared mailboxes -----------------------------------------------------------------------------


def report_mailbox(access: MailboxAccess, *, now: datetime) -> Incident:
    """A connection that is to reach a shared mailbox does not. Same mailbox and same lack are one incident."""
    mailbox = access.mailbox
    who = graph.who_mends(access.lack)
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
        others = _unhealed([access.connection_id]).filter(incident__mailbox=mailbox).exclude(incident__key=cause.key)
        _mark_healed(others, now=now)
        return _report(cause, [access.connection], now=now)


def mailbox_reachable(access: MailboxAccess, *, now: datetime) -> None:
    """The connection reaches the mailbox again, or is no longer meant to."""
    with transaction.atomic():
        _mark_healed(_unhealed([access.connection_id]).filter(incident__mailbox=access.mailbox_id), now=now)


# --- Reading --------------------------------------------------------------------------------------


def explaining(connection: Connection, *, among: QuerySet[Incident]) -> int | None:
    """Number of the open incident that explains why the connection gives no token; None if there is none in ``among``."""
    of_it = Q(affected__connection=connection, affected__healed_at=None) & ~Q(kind=Kind.MAILBOX)
    outage = Q(key=f"outage:{connection.app_registration.tenant.environment}")
    found = among.filter(of_it | outage, closed_at=None).order_by("-opened_at", "-pk")
    return found.values_list("pk", flat=True).first()


# --- Opening and closing --------------------------------------------------------------------------


def _report(cause: Cause, connections: Iterable[Connection], *, now: datetime) -> Incident:
    with transaction.atomic():
        incident, is_new = _find_or_open(cause, now)
        added = _attach(incident, connections, now)
        if is_new:
            audit.record(
                "incident.opened",
                incident,
                actor=None,
                changes={"code": cause.code, "cause": cause.cause, "connections": added},
            )
            alerts.incident_opened(incident, now=now)
    return incident


def _find_or_open(cause: Cause, now: datetime) -> tuple[Incident, bool]:
    still_open = Incident.objects.select_for_update().filter(key=cause.key, closed_at=None)
    for _ in range(2):
        found = still_open.first()
        if found is not None:
            Incident.objects.filter(pk=found.pk).update(seen_at=now)
            return found, False
        try:
            with transaction.atomic():
                return _insert(cause, now), True
        except IntegrityError:
            continue  # another worker has just opened it
    return still_open.get(), False


def _insert(cause: Cause, now: datetime) -> Incident:
    return Incident.objects.create(
        kind=cause.kind,
        key=cause.key,
        title=cause.title[:320],
        code=cause.code[:60],
        cause=cause.cause,
        action=cause.action,
        who=cause.who,
        reference=cause.reference,
        assignee=cause.assignee,
        assignee_name=str(cause.assignee or "")[:320],
        app_registration=cause.app_registration,
        tenant=cause.tenant,
        mailbox=cause.mailbox,
        person=cause.person,
        opened_at=now,
        seen_at=now,
    )


def _attach(incident: Incident, connections: Iterable[Connection], now: datetime) -> int:
    """Add connections to the blast radius; those that had healed are in it again."""
    many = connections.iterator(_BATCH) if isinstance(connections, QuerySet) else iter(connections)
    count = 0
    while some := list(itertools.islice(many, _BATCH)):
        pks = [connection.pk for connection in some]
        incident.affected.filter(connection_id__in=pks, healed_at__isnull=False).update(healed_at=None, since=now)
        AffectedConnection.objects.bulk_create(
            (
                AffectedConnection(
                    incident=incident,
                    connection=connection,
                    connection_name=connection.name,
                    owner=connection.owner,
                    owner_name=str(connection.owner)[:320],
                    since=now,
                )
                for connection in some
            ),
            ignore_conflicts=True,
        )
        count += len(some)
    return count


def _unhealed(pks: Collection[int]) -> Any:
    return AffectedConnection.objects.filter(connection_id__in=pks, healed_at=None, incident__closed_at=None)


def _mark_healed(affected: Any, *, now: datetime) -> None:
    rows = dict(affected.values_list("pk", "incident_id"))
    # Locked before looking: two that heal at once would each see the other one unhealed, and nobody would close it.
    found = list(Incident.objects.select_for_update().filter(pk__in=set(rows.values())).order_by("pk"))
    AffectedConnection.objects.filter(pk__in=list(rows)).update(healed_at=now)
    for incident in found:
        if incident.kind == Kind.APP_REGISTRATION:
            continue
        if not incident.affected.filter(healed_at=None).exists():
            _close(incident.key, now=now)


def _close(key: str, *, now: datetime) -> None:
    with transaction.atomic():
        incident = Incident.objects.select_for_update().filter(key=key, closed_at=None).first()
        if incident is None:
            return
        Incident.objects.filter(pk=incident.pk).update(closed_at=now, remind_after=None)
        incident.closed_at = now
        incident.affected.filter(healed_at=None).update(healed_at=now)
        lasted = int((now - incident.opened_at).total_seconds())
        audit.record("incident.closed", incident, actor=None, changes={"lasted_seconds": lasted})
        alerts.incident_healed(incident, now=now)
