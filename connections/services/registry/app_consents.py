"""App registrations in tenants: add and remove them there, and record what Microsoft says about them there.

Rejected credentials are true of the app registration everywhere; credential_checks.py handles those.
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
RECOVERY_AT_ONCE = 25  # at least this many connections in each time slot after a recovery
RECOVERY_SLOTS = 20
RECOVERY_BATCH = 1000  # rows per statement
NO_REJECTION: dict[str, Any] = {"rejected_at": None, "rejected_code": "", "rejected_cause": "", "rejected_action": ""}


def add(app_registration: AppRegistration, tenant: Tenant, *, actor: User | None) -> AppConsent:
    """Let connections use the app registration in another tenant. Doing it twice is harmless.

    An administrator of that tenant must grant consent before Microsoft issues tokens there. Raises InvalidInput if the
    application could never be used there.
    """
    if tenant.pk != app_registration.tenant_id:
        require_possible(app_registration, tenant)
    return ensure(app_registration, tenant, actor=actor)


def require_possible(app_registration: AppRegistration, tenant: Tenant) -> None:
    """Raise InvalidInput if the application could never be used in this (maybe unsaved) tenant."""
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
            action="Choose a tenant with its own directory ID.",
            field="directory_id",
        )


def ensure(app_registration: AppRegistration, tenant: Tenant, *, actor: User | None) -> AppConsent:
    """Return the app registration's row for this tenant. A new one is audited, unless it is for the home tenant."""
    with transaction.atomic():
        consent, is_new = AppConsent.objects.get_or_create(
            app_registration=app_registration, tenant=tenant, defaults={"created_by": actor}
        )
        if is_new and tenant.pk != app_registration.tenant_id:
            _record(AuditAction.APP_REGISTRATION_TENANT_ADDED, consent, actor=actor)
    return consent


def remove(consent: AppConsent, *, actor: User | None, now: datetime) -> None:
    """Stop using the app registration in this tenant. Raises InUse for its home tenant or while connections use it.

    The enterprise application stays in the tenant until an administrator there deletes it.
    """
    app, tenant = consent.app_registration, consent.tenant
    if tenant.pk == app.tenant_id:
        raise InUse(f"{app} is registered in {tenant}.", action="Remove the app registration instead.")
    with transaction.atomic():
        # The lock makes connections that begin meanwhile wait: they lock the same row (see for_new_connection).
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
    """Return the locked row that a connection needs, so that it is not removed meanwhile. Call it in a transaction."""
    consent = ensure(app_registration, tenant, actor=actor)
    return AppConsent.objects.select_for_update(no_key=True).get(pk=consent.pk)


def connections_in(app_registration: AppRegistration, tenant: Tenant) -> QuerySet[Connection]:
    return Connection.objects.filter(app_registration=app_registration, tenant=tenant)


def is_used_in(app_registration: AppRegistration, tenant: Tenant) -> bool:
    """Whether connections may be created through the app registration in this tenant."""
    is_home = tenant.pk == app_registration.tenant_id
    return is_home or AppConsent.objects.filter(app_registration=app_registration, tenant=tenant).exists()


def narrowed(verdict: Verdict, app_registration: AppRegistration, tenant: Tenant) -> Verdict:
    """Return the verdict for what it is true of: the app registration, the app registration in ``tenant``, or neither.

    A single-tenant application has one tenant, so what is true there is true of it. At a shared endpoint, the directory
    is that of one account, so the verdict is about its connection only (``app_wide`` is false).
    """
    if not verdict.tenant_wide:
        return verdict
    if not app_registration.is_multitenant:
        return replace(verdict, tenant_wide=False)
    return replace(verdict, app_wide=False) if tenant.is_shared_endpoint else verdict


def reject(
    app_registration: AppRegistration, tenant: Tenant, verdict: Verdict, *, now: datetime, actor: User | None = None
) -> None:
    """Make the app's connections in this tenant wait; one is tried a minute later. Only the first time is audited."""
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
    """Record that Microsoft issued a token for the application in this tenant, with these ``roles`` if it was app-only.

    ``known`` is the row as just read; if it says all this already, nothing is queried or written.
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
    """Send no request for the application in this tenant until then, because Microsoft throttles it."""
    consent = ensure(app_registration, tenant, actor=None)
    AppConsent.objects.filter(pk=consent.pk).update(paused_until=until)


def is_paused_at_home(now: datetime) -> Exists:
    """For querysets of app registrations: whether Microsoft throttles them in their home tenants."""
    home = AppConsent.objects.filter(app_registration=OuterRef("pk"), tenant=OuterRef("tenant"))
    return Exists(home.filter(paused_until__gt=now))


def spread_waiting(connections: QuerySet[Connection], now: datetime) -> None:
    """Spread the waiting ones among these over the next minute, so that Microsoft is not flooded."""
    waiting = connections.filter(status__in=Connection.KEPT_ALIVE, refresh_after__lte=now)
    pks = list(waiting.order_by("pk").values_list("pk", flat=True))
    slots = min(RECOVERY_SLOTS, len(pks) // RECOVERY_AT_ONCE)
    for slot in range(1, slots):
        share = pks[slot::slots]
        for start in range(0, len(share), RECOVERY_BATCH):
            batch = Connection.objects.filter(pk__in=share[start : start + RECOVERY_BATCH])
            batch.update(refresh_after=now + RECOVERY_WITHIN * slot / slots)


def _record(action: AuditAction, consent: AppConsent, *, actor: User | None, **facts: str) -> None:
    """Record the event on the app registration, because that is what people look up."""
    audit.record(action, consent.app_registration, actor=actor, changes={"tenant": str(consent.tenant), **facts})
