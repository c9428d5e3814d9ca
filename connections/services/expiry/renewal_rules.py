"""Which secrets and certificates the portal renews automatically, and when."""

from collections.abc import Collection
from datetime import datetime, timedelta

from connections.models import AppCredential, AppRegistration, CredentialRenewal
from connections.services.expiry import forecast
from connections.services.policy import evaluate

BEFORE = timedelta(days=30)  # before the last working credential expires
AT_MOST_EVERY = timedelta(days=1)


def renewed_by_portal(apps: Collection[AppRegistration], *, now: datetime) -> set[int]:
    """Return the IDs of those app registrations whose credentials the portal renews. Takes at most two queries."""
    pks = [app.pk for app in apps if app.renews_credentials and not app.tenant.is_shared_endpoint]
    if not pks or not evaluate.load_policies().organisation.credential_renewal:
        return set()
    failed = CredentialRenewal.objects.filter(
        app_registration__in=pks, step=CredentialRenewal.Step.FAILED, finished_at__gt=now - 2 * AT_MOST_EVERY
    )
    return set(pks) - set(failed.values_list("app_registration", flat=True))


def to_renew(app: AppRegistration, live: list[AppCredential], *, now: datetime) -> AppCredential | None:
    """Return the credential to renew now, or None. Only the last one to expire is renewed, if it expires soon."""
    lifetime = forecast.credential_lifetime(live)
    last, until = lifetime.last, lifetime.until
    if last is None or until is None or not now < until <= now + BEFORE:
        return None
    is_wanted = app.renews_credentials and not app.tenant.is_shared_endpoint and app.rejected_at is None
    return last if is_wanted else None
