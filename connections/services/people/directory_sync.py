"""Looks once a day whether the people of the portal are still in their directory, where an application may read that."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
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
AGAIN = timedelta(hours=1)  # after an outage; also the lease of a claim
BATCH = 10  # directories in one tick

_CAUSES = {
    AccountState.DISABLED: "The account is disabled in the directory.",
    AccountState.DELETED: "The account was deleted from the directory.",
}


def sync_due(*, now: datetime, limit: int = BATCH) -> int:
    """Look into up to ``limit`` directories, each once a day; returns how many could be read.

    Any number of workers may run it at once: each claims a row by moving ``people_read_after`` forward.
    """
    offboarding.update_incidents(now=now)
    due = Tenant.objects.filter(
        Q(people_read_after=None) | Q(people_read_after__lte=now), environment=settings.LOGIN_MICROSOFT["environment"]
    ).exclude(tid="")
    done = 0
    for tenant in due.order_by(F("people_read_after").asc(nulls_first=True), "pk")[:limit]:
        same = Tenant.objects.filter(pk=tenant.pk, people_read_after=tenant.people_read_after)
        if not same.update(people_read_after=now + AGAIN):
            continue  # another worker has it
        try:
            done += sync(tenant, now=now)
        except PortalError as error:
            logger.info("the people of tenant %s could not be read: %s", tenant.pk, error.code)
    return done


def sync(tenant: Tenant, *, now: datetime) -> bool:
    """Ask the directory how the portal's people stand, and mark who has left or is back; due again in a day.

    Returns False where no application may read that. Raises MicrosoftUnavailable, MicrosoftRefused,
    UnreadableSecret, or InvalidInput if the environment is not configured.
    """
    known = _people_of(tenant)
    token = _token(tenant, now) if known else None
    later = now + EVERY * random.uniform(0.9, 1.1)
    if token is None:
        Tenant.objects.filter(pk=tenant.pk).update(people_read_after=later)
        return False
    found = user_lookup.read(clouds.cloud(tenant.environment), token.access_token, list(known))
    for oid, said in found.items():
        if said is AccountState.ENABLED:
            if known[oid].left_how != User.Left.DISABLED:
                offboarding.mark_returned(known[oid], now=now)
        else:
            offboarding.mark_departed(known[oid], how=User.Left.DIRECTORY, cause=_CAUSES[said], now=now)
    Tenant.objects.filter(pk=tenant.pk).update(people_read_after=later)
    return True


def _people_of(tenant: Tenant) -> dict[str, User]:
    """Who signs in to the portal from this directory, by object id; without those who are disabled here."""
    prefix = f"{tenant.tid}."
    links = UserSocialAuth.objects.filter(provider=offboarding.MICROSOFT, uid__startswith=prefix, user__is_active=True)
    return {link.uid.removeprefix(prefix): link.user for link in links.select_related("user").order_by("pk")}


def _token(tenant: Tenant, now: datetime) -> token_endpoint.TokenSet | None:
    """An application's own token that may read people, from the first registration that has one."""
    for token in _own_tokens(tenant, now):
        if user_lookup.may_read(token.granted):
            return token
    return None


def _own_tokens(tenant: Tenant, now: datetime) -> Iterator[token_endpoint.TokenSet]:
    usable = tenant.app_registrations.filter(
        Q(paused_until=None) | Q(paused_until__lte=now), verified_at__isnull=False, rejected_at=None
    )
    for app in usable.select_related("tenant").order_by("pk"):
        try:
            token = credential_checks.app_only_token(app, now=now)
        except (UnreadableSecret, InvalidInput) as error:
            logger.info("app registration %s cannot be asked for a token: %s", app.pk, error.code)
            continue
        if token is not None:
            yield token
