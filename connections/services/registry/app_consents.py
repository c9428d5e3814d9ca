"""App registrations in tenants: add and remove them, and record how Microsoft responds to them in each tenant.

If Microsoft rejects credentials, that concerns the app registration in all tenants. credential_checks.py handles it.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet

from connections import audit
from connections.errors import InUse, InvalidInput
from connections.microsoft.classifier import Verdict
from connections.models import AppConsent, AppRegistration, Connection, Tenant, User
from connections.models.audit import AuditAction
from connections.services.incidents import incidents

CANARY_DELAY = timedelta(seconds=60)
RECOVERY_WITHIN = timedelta(seconds=60)
RECOVERY_AT_ONCE = 25  # at least this many connections per time slot after a recovery
RECOVERY_SLOTS = 20
RECOVERY_BATCH = 1000  # rows per statement
NO_REJECTION: dict[str, Any] = {"rejected_at": None, "rejected_code": "", "rejected_cause": "", "rejected_action": ""}


def add(app_registration: AppRegistration, tenant: Tenant, *, actor: User | None) -> AppConsent:
    """Let connections use the app registration in another tenant. Safe to repeat.

    Before Microsoft issues tokens there, an administrator of that tenant must grant consent. Raises InvalidInput if the
    application could never be used there.
    """
    if tenant.pk != app_registration.tenant_id:
        require_possible(app_registration, tenant)
    return ensure(app_registration, tenant, actor=actor)


def require_possible(app_registration: AppRegistration, tenant: Tenant) -> None:
    """Raise InvalidInput if the application could never be used in this tenant, which may be unsaved."""
    if not app_registration.is_multitenant:
        raise InvalidInput(
            f"{app_registration} is a single-tenant application, so other tenants can't use it.",
            action="Make it multitenant in Entra and here, then add the tenant.",
            field="directory_id",
        )
    if tenant.environment != app_registration.environment:
        raise InvalidInput(
            f"{tenant} belongs to another Microsoft cloud than {app_registration}.",
            action="Register an application in that cloud.",
            field="directory_id",
        )
    if tenant.is_shared_endpoint:
        raise InvalidInput(
            f"“{tenant.directory_id}” isn't a specific directory, so nobody can grant consent there.",
            action="Choose a tenant with a specific directory ID.",
            field="directory_id",
        )


def ensure(app_registration: AppRegistration, tenant: Tenant, *, actor: User | None) -> AppConsent:
    """Return the app registration's row for this tenant. Creating it is audited, except for the home tenant."""
    with transaction.atomic():
        consent, is_new = AppConsent.objects.get_or_create(
            app_registration=app_registration, tenant=tenant, defaults={"created_by": actor}
        )
        if is_new and tenant.pk != app_registration.tenant_id:
            _record(AuditAction.APP_REGISTRATION_TENANT_ADDED, consent, actor=actor)
    return consent


def remove(consent: AppConsent, *, actor: User | None, now: datetime) -> None:
    """Stop using the app registration in this tenant. Raises InUse for its home tenant, or while connections use it.

    The enterprise application stays in the tenant until an administrator there deletes it.
    """
    app, tenant = consent.app_registration, consent.tenant
    if tenant.pk == app.tenant_id:
        raise InUse(f"{app} is registered in {tenant}.", action="Remove the app registration instead.")
    with transaction.atomic():
        # New connections lock the same row (see for_new_connection), so they wait until this is done.
        if not AppConsent.objects.select_for_update().filter(pk=consent.pk).exists():
            return
        names = list(connections_in(app, tenant).values_list("name", flat=True)[:4])
        if names:
            listed = ", ".join(names[:3]) + (" and more" if len(names) > 3 else "")
            raise InUse(f"{app} still has connections in {tenant}: {listed}.", action="Remove them first.")
        incidents.app_accepted_in(consent, now=now)
        _record(AuditAction.APP_REGISTRATION_TENANT_REMOVED, consent, actor=actor)
        consent.delete()


def for_new_connection(app_registration: AppRegistration, tenant: Tenant, *, actor: User | None) -> AppConsent:
    """Return the row that a new connection needs, locked so that nobody removes it. Call it in a transaction."""
    consent = ensure(app_registration, tenant, actor=actor)
    return AppConsent.objects.select_for_update(no_key=True).get(pk=consent.pk)


def connections_in(app_registration: AppRegistration, tenant: Tenant) -> QuerySet[Connection]:
    return Connection.objects.filter(app_registration=app_registration, tenant=tenant)


def is_used_in(app_registration: AppRegistration, tenant: Tenant) -> bool:
    """Whether connections may be created through the app registration in this tenant."""
    is_home = tenant.pk == app_registration.tenant_id
    return is_home or AppConsent.objects.filter(app_registration=app_registration, tenant=tenant).exists()


def narrowed(verdict: Verdict, app_registration: AppRegistration, tenant: Tenant) -> Verdict:
    """Return the verdict, limited to what it concerns: the app registration, its use in ``tenant``, or one connection.

    For a single-tenant application, a verdict about its tenant concerns the whole app registration. At a shared
    endpoint, the directory belongs to one account, so the verdict concerns only this account's connection (``app_wide``
    becomes False).
    """
    if not verdict.tenant_wide:
        return verdict
    if not app_registration.is_multitenant:
        return replace(verdict, tenant_wide=False)
    return replace(verdict, app_wide=False) if tenant.is_shared_endpoint else verdict


def reject(
    app_registration: AppRegistration, tenant: Tenant, verdict: Verdict, *, now: datetime, actor: User | None = None
) -> None:
    """Make the app's connections in this tenant wait. After a minute, one is tried again.

    Only the first rejection is dated and audited.
    """
    consent = ensure(app_registration, tenant, actor=actor)
    values = {
        "rejected_code": verdict.code,
        "rejected_cause": verdict.cause,
        "rejected_action": verdict.action,
        "canary_after": now + CANARY_DELAY,
    }
    with transaction.atomic():
        rows = AppConsent.objects.filter(pk=consent.pk)
        if not rows.filter(rejected_at=None).update(rejected_at=now, **values):
            rows.update(**values)
            return
        changes = {"code": verdict.code, "cause": verdict.cause}
        _record(AuditAction.APP_REGISTRATION_TENANT_REJECTED, consent, actor=actor, **changes)
        incidents.app_rejected_in(consent, verdict, now=now)


def accept(
    app_registration: AppRegistration,
    tenant: Tenant,
    *,
    now: datetime,
    roles: Iterable[str] | None = None,
    known: AppConsent | None = None,
) -> AppConsent:
    """Record that Microsoft issued a token for the application in this tenant.

    ``roles`` are those in an app-only token. ``known`` is the row if the caller has just read it. If it needs no
    change, nothing is queried or written.
    """
    consent = known or ensure(app_registration, tenant, actor=None)
    values: dict[str, Any] = {} if consent.seen_at is not None else {"seen_at": now}
    if roles is not None and (names := " ".join(sorted(roles))) != consent.granted_roles:
        values |= {"granted_roles": names, "roles_changed_at": now}
    if values:
        AppConsent.objects.filter(pk=consent.pk).update(**values)
    if consent.rejected_at is not None:
        _restore(consent, now=now)
    return consent


def _restore(consent: AppConsent, *, now: datetime) -> None:
    with transaction.atomic():
        rejected = AppConsent.objects.filter(pk=consent.pk, rejected_at__isnull=False)
        if rejected.update(**NO_REJECTION, canary_after=None):
            _record(AuditAction.APP_REGISTRATION_TENANT_HEALED, consent, actor=None)
            spread_waiting(connections_in(consent.app_registration, consent.tenant), now)
            incidents.app_accepted_in(consent, now=now)


def pause(app_registration: AppRegistration, tenant: Tenant, *, until: datetime) -> None:
    """Send no requests for the application in this tenant before ``until``, because Microsoft throttles them."""
    consent = ensure(app_registration, tenant, actor=None)
    AppConsent.objects.filter(pk=consent.pk).update(paused_until=until)


def is_paused_at_home(now: datetime) -> Exists:
    """Return a condition for querysets of app registrations: Microsoft throttles them in their home tenant."""
    home = AppConsent.objects.filter(app_registration=OuterRef("pk"), tenant=OuterRef("tenant"))
    return Exists(home.filter(paused_until__gt=now))


def spread_waiting(connections: QuerySet[Connection], now: datetime) -> None:
    """Spread the refreshes of waiting connections over the next minute, so that Microsoft gets no burst of requests."""
    waiting = connections.filter(status__in=Connection.KEPT_ALIVE, refresh_after__lte=now)
    pks = list(waiting.order_by("pk").values_list("pk", flat=True))
    slots = min(RECOVERY_SLOTS, len(pks) // RECOVERY_AT_ONCE)
    for slot in range(1, slots):
        share = pks[slot::slots]
        for start in range(0, len(share), RECOVERY_BATCH):
            batch = Connection.objects.filter(pk__in=share[start : start + RECOVERY_BATCH])
            batch.update(refresh_after=now + RECOVERY_WITHIN * slot / slots)


def _record(action: AuditAction, consent: AppConsent, *, actor: User | None, **facts: str) -> None:
    """Record the event on the app registration, because people look for it there."""
    audit.record(action, consent.app_registration, actor=actor, changes={"tenant": str(consent.tenant), **facts})
