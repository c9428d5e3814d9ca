"""Check once a day whether people are still in their directory, if an application may read it."""

import logging
import random
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import F, Q
from social_django.models import UserSocialAuth

from connections.errors import InvalidInput, PortalError, UnreadableSecret
from connections.microsoft import clouds, token_endpoint, user_lookup
from connections.microsoft.user_lookup import AccountState
from connections.models import Tenant, User
from connections.services.people import offboarding
from connections.services.registry import credential_checks

logger = logging.getLogger(__name__)

EVERY = timedelta(days=1)
AGAIN = timedelta(hours=1)  # wait after an outage; a worker's claim on a directory also lasts this long
BATCH = 10  # directories per run

_CAUSES = {
    AccountState.DISABLED: "The account is disabled in the directory.",
    AccountState.DELETED: "The account was deleted from the directory.",
}


def sync_due(*, now: datetime) -> int:
    """Read up to BATCH directories, each once a day and by one worker, and return how many could be read."""
    offboarding.update_incidents(now=now)
    due = Tenant.objects.filter(
        Q(people_read_after=None) | Q(people_read_after__lte=now), environment=settings.LOGIN_MICROSOFT["environment"]
    ).exclude(tid="")
    count = 0
    for tenant in due.order_by(F("people_read_after").asc(nulls_first=True), "pk")[:BATCH]:
        unclaimed = Tenant.objects.filter(pk=tenant.pk, people_read_after=tenant.people_read_after)
        if not unclaimed.update(people_read_after=now + AGAIN):
            continue  # another worker has it
        try:
            count += sync(tenant, now=now)
        except PortalError as error:
            logger.info("the people of tenant %s could not be read: %s", tenant.pk, error.code)
    return count


def sync(tenant: Tenant, *, now: datetime) -> bool:
    """Mark the people whom the directory reports as gone or as back; return False if no application may read it.

    Raises MicrosoftUnavailable, MicrosoftRefused, UnreadableSecret, or InvalidInput for an unconfigured environment.
    """
    # The people who sign in from this directory and are not disabled here, by object ID.
    prefix = f"{tenant.tid}."
    logins = UserSocialAuth.objects.filter(provider=offboarding.MICROSOFT, uid__startswith=prefix, user__is_active=True)
    people = {login.uid.removeprefix(prefix): login.user for login in logins.select_related("user").order_by("pk")}
    token = _token(tenant, now) if people else None
    if token is not None:
        states = user_lookup.read(clouds.cloud(tenant.environment), token.access_token, list(people))
        for oid, state in states.items():
            person = people[oid]
            if state is not AccountState.ENABLED:
                offboarding.mark_departed(person, how=User.Left.DIRECTORY, cause=_CAUSES[state], now=now)
            elif person.left_how != User.Left.DISABLED:
                offboarding.mark_returned(person, now=now)
    Tenant.objects.filter(pk=tenant.pk).update(people_read_after=now + EVERY * random.uniform(0.9, 1.1))
    return token is not None


def _token(tenant: Tenant, now: datetime) -> token_endpoint.TokenSet | None:
    """Return an app-only token that may read people, from the first app registration that can get one."""
    usable = tenant.app_registrations.filter(
        Q(paused_until=None) | Q(paused_until__lte=now), verified_at__isnull=False, rejected_at=None
    )
    for app in usable.select_related("tenant").order_by("pk"):
        try:
            token = credential_checks.app_only_token(app, now=now)
        except (UnreadableSecret, InvalidInput) as error:
            logger.info("app registration %s cannot be asked for a token: %s", app.pk, error.code)
            continue
        if token is not None and user_lookup.may_read(token.granted):
            return token
    return None
