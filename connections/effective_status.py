"""The one state of a connection that pages, the API and metrics show.

It combines the stored status with the state of the app registration, open requests to IT admins, and what happened to
the account. ``of`` computes it for a row and ``condition`` in SQL. A property test ensures that both are equal.
"""

from collections import Counter
from collections.abc import Iterable

from django.db.models import Case, Count, Exists, OuterRef, Q, QuerySet, TextChoices, Value, When

from connections.errors import ApprovalNeeded
from connections.microsoft import account_status
from connections.models import AppConsent, Approval, Connection, ConsentRequest, Tally
from connections.models.app_registrations import AuthenticationType
from connections.models.connections import APP_REJECTED

Status = Connection.Status

APPROVAL, CONSENT = "approval", "consent"
# Statuses in which the connection may be waiting for an open request. The others work, or need something else first.
INCOMPLETE = (Status.PENDING, Status.RECONNECT_NEEDED, Status.CONSENT_NEEDED)
# Requests that await an IT admin. Once consent is reported, the next sign-in or refresh shows whether it was granted.
_UNDECIDED = (ConsentRequest.State.ASKED, ConsentRequest.State.APPROVED, ConsentRequest.State.FAILED)
_KEPT = "_waits_for"
FEW_APPS, FEW = 100, 5000  # rejected app registrations and their connections that are looked up first


class EffectiveStatus(TextChoices):
    ACTIVE = "active", "Active"
    APP_REJECTED = "app_rejected", "App credential rejected"
    RECONNECT_NEEDED = "reconnect_needed", "Sign-in required"
    ACCOUNT_GONE = "account_gone", "Account unavailable"
    CONSENT_NEEDED = "consent_needed", "Consent required"
    BLOCKED = "blocked", "Blocked by policy"
    AWAITING_CONSENT = "awaiting_consent", "Awaiting admin consent"
    AWAITING_APPROVAL = "awaiting_approval", "Awaiting approval"
    APPROVAL_REQUIRED = "approval_required", "Approval required"
    PENDING = "pending", "Not signed in yet"
    DISABLED = "disabled", "Disabled"


# States in which a connection that worked before no longer works.
BROKEN = (
    EffectiveStatus.APP_REJECTED,
    EffectiveStatus.RECONNECT_NEEDED,
    EffectiveStatus.ACCOUNT_GONE,
    EffectiveStatus.CONSENT_NEEDED,
    EffectiveStatus.BLOCKED,
)
AWAITING = (EffectiveStatus.AWAITING_CONSENT, EffectiveStatus.AWAITING_APPROVAL)
# States in which a connection has yet to be completed.
WAITING = (*AWAITING, EffectiveStatus.APPROVAL_REQUIRED, EffectiveStatus.PENDING)


def of(connection: Connection) -> EffectiveStatus:
    """Return the connection's state. It needs a query unless the status alone decides, or load() has read the rest."""
    if connection.is_blocked_by_app:
        return EffectiveStatus.APP_REJECTED
    if connection.status not in INCOMPLETE:
        return EffectiveStatus(connection.status)
    return _incomplete(
        connection.status, connection.status_code, is_delegated=connection.is_delegated, request=waits_for(connection)
    )


def _incomplete(status: str, code: str, *, is_delegated: bool, request: str) -> EffectiveStatus:
    match request:
        case "approval":
            return EffectiveStatus.AWAITING_APPROVAL
        case "consent":
            return EffectiveStatus.AWAITING_CONSENT
    if status == Status.PENDING and code == ApprovalNeeded.code:
        return EffectiveStatus.APPROVAL_REQUIRED
    if status == Status.RECONNECT_NEEDED and is_delegated and account_status.is_account_gone(code):
        return EffectiveStatus.ACCOUNT_GONE
    return EffectiveStatus(status)


def waits_for(connection: Connection) -> str:
    """Return APPROVAL or CONSENT if a request for it is open, otherwise "". The result is kept on the object."""
    if _KEPT not in connection.__dict__:
        load([connection])
    request: str = connection.__dict__[_KEPT]
    return request


def load(connections: Iterable[Connection]) -> list[Connection]:
    """Read what these connections are waiting for in one query, keep it on the objects, and return them."""
    connections = list(connections)
    pks = [each.pk for each in connections if each.pk is not None and each.status in INCOMPLETE]
    waiting: dict[int, str] = {}
    if pks:
        consents = ConsentRequest.objects.filter(connection__in=pks, state__in=_UNDECIDED)
        approvals = Approval.objects.filter(connection__in=pks, state=Approval.State.WAITING)
        rows = [requests.order_by().values_list("connection", Value(kind)) for requests, kind in
                ((consents, CONSENT), (approvals, APPROVAL))]  # fmt: skip
        # An approval takes precedence, because consent is only possible after it.
        waiting = dict(sorted(rows[0].union(rows[1]), key=lambda row: row[1] == APPROVAL))
    for each in connections:
        each.__dict__[_KEPT] = waiting.get(each.pk or 0, "")
    return connections


def condition(status: EffectiveStatus) -> Q:
    """Return the condition for connections in this state. Every connection meets exactly one condition.

    For APP_REJECTED this takes two queries, which find out whether its connections are few among all of them.
    """
    return _rejected() if status == EffectiveStatus.APP_REJECTED else _CONDITIONS[status]


def _rejected() -> Q:
    """Return the condition for APP_REJECTED, with which the database finds few connections by their app registration.

    It would otherwise look for them in the order of a list, possibly through all connections. Many are soon found so.
    """
    is_rejected = Q(rejected_at__isnull=False) | Q(app_registration__rejected_at__isnull=False)
    consents = AppConsent.objects.filter(is_rejected).order_by()
    pairs = list(consents.values_list("app_registration", "tenant")[: FEW_APPS + 1])
    stored = dict(Tally.objects.connections().filter(app_consent__in=consents).totals("value"))
    if len(pairs) > FEW_APPS or stored.get(Status.ACTIVE, 0) > FEW:
        return _CONDITIONS[EffectiveStatus.APP_REJECTED]
    active = Connection.objects.filter(status=Status.ACTIVE).order_by()
    ids = [active.filter(app_registration=app, tenant=tenant).values("pk") for app, tenant in pairs]
    return Q(pk__in=ids[0].union(*ids[1:]) if ids else [])


def count_incomplete(connections: QuerySet[Connection]) -> Counter[EffectiveStatus]:
    """Count those with an INCOMPLETE status by state, with one query that reads all of them."""
    # What tells them apart, rather than the conditions of all states, each of which would look for requests.
    waits = Case(When(_APPROVAL, then=Value(APPROVAL)), When(_CONSENT, then=Value(CONSENT)), default=Value(""))
    rows = connections.filter(status__in=INCOMPLETE).order_by().annotate(waits=waits)
    groups = rows.values_list("status", "status_code", "authentication_type", "waits").annotate(Count("pk"))
    counts: Counter[EffectiveStatus] = Counter()
    for status, code, kind, waiting, times in groups:
        is_delegated = kind == AuthenticationType.AUTHORIZATION_CODE
        counts[_incomplete(status, code, is_delegated=is_delegated, request=waiting)] += times
    return counts


_APPROVAL = Q(Exists(Approval.objects.filter(connection=OuterRef("pk"), state=Approval.State.WAITING)))
_CONSENT = Q(Exists(ConsentRequest.objects.filter(connection=OuterRef("pk"), state__in=_UNDECIDED)))


def _conditions() -> dict[EffectiveStatus, Q]:
    approval, consent = _APPROVAL, _CONSENT
    idle = ~approval & ~consent
    unapproved = Q(status_code=ApprovalNeeded.code)
    deleted = Q(
        authentication_type=AuthenticationType.AUTHORIZATION_CODE, status_code__in=sorted(account_status.GONE_CODES)
    )
    return {
        EffectiveStatus.ACTIVE: Q(status=Status.ACTIVE) & ~APP_REJECTED,
        EffectiveStatus.APP_REJECTED: Q(status=Status.ACTIVE) & APP_REJECTED,
        EffectiveStatus.RECONNECT_NEEDED: Q(status=Status.RECONNECT_NEEDED) & ~deleted & idle,
        EffectiveStatus.ACCOUNT_GONE: Q(status=Status.RECONNECT_NEEDED) & deleted & idle,
        EffectiveStatus.CONSENT_NEEDED: Q(status=Status.CONSENT_NEEDED) & idle,
        EffectiveStatus.BLOCKED: Q(status=Status.BLOCKED),
        EffectiveStatus.AWAITING_CONSENT: Q(status__in=INCOMPLETE) & ~approval & consent,
        EffectiveStatus.AWAITING_APPROVAL: Q(status__in=INCOMPLETE) & approval,
        EffectiveStatus.APPROVAL_REQUIRED: Q(status=Status.PENDING) & unapproved & idle,
        EffectiveStatus.PENDING: Q(status=Status.PENDING) & ~unapproved & idle,
        EffectiveStatus.DISABLED: Q(status=Status.DISABLED),
    }


_CONDITIONS = _conditions()
