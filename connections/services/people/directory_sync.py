"""Check whether people are still in their directory and still have their roles and teams.

This needs an application that may read the directory. Otherwise, roles and teams from Entra are suspended
ENTRA_AUTHORITY_MAX_AGE hours after a sign-in, until the next one.
"""

import logging
import random
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import F, Q
from social_django.models import UserSocialAuth

from connections.errors import InvalidInput, PortalError, UnreadableSecret
from connections.microsoft import authority_lookup, clouds, token_endpoint, user_lookup
from connections.microsoft.user_lookup import AccountState
from connections.models import Team, Tenant, User
from connections.models.accounts import AUDITORS, IT_ADMINS
from connections.services.people import accounts, microsoft_accounts, offboarding
from connections.services.registry import credential_checks

logger = logging.getLogger(__name__)

EVERY = timedelta(days=1)  # at most; a quarter of ENTRA_AUTHORITY_MAX_AGE if that is shorter
AGAIN = timedelta(hours=1)  # retry after this time; a worker's claim on a directory also lasts this long
BATCH = 10  # directories per run

_CAUSES = {
    AccountState.DISABLED: "The account is disabled in the directory.",
    AccountState.DELETED: "The account was deleted from the directory.",
}


def sync_due(*, now: datetime) -> int:
    """Read up to BATCH directories, each once a day and by one worker. Returns how many could be read."""
    offboarding.update_incidents(now=now)
    due_tenants = Tenant.objects.filter(
        Q(people_read_after=None) | Q(people_read_after__lte=now), environment=settings.LOGIN_MICROSOFT["environment"]
    ).exclude(tid="")
    count = 0
    for tenant in due_tenants.order_by(F("people_read_after").asc(nulls_first=True), "pk")[:BATCH]:
        unclaimed = Tenant.objects.filter(pk=tenant.pk, people_read_after=tenant.people_read_after)
        if not unclaimed.update(people_read_after=now + AGAIN):
            continue  # another worker has it
        try:
            count += sync(tenant, now=now)
        except PortalError as error:
            logger.info("the people of tenant %s could not be read: %s", tenant.pk, error.code)
    return count


def sync(tenant: Tenant, *, now: datetime) -> bool:
    """Mark people as having left or as back, as their directory reports. Returns False if no application may read it.

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
                microsoft_accounts.check_connections(tenant.environment, tenant.tid, oid, now=now)
                offboarding.mark_departed(person, how=User.Left.DIRECTORY, cause=_CAUSES[state], now=now)
            elif person.left_how != User.Left.DISABLED:
                offboarding.mark_returned(person, now=now)
        present = {oid: people[oid] for oid, state in states.items() if state is AccountState.ENABLED}
        if authority_lookup.may_read_groups(token.granted):
            _confirm_authority(tenant, token, present, now=now)
    Tenant.objects.filter(pk=tenant.pk).update(people_read_after=now + _interval() * random.uniform(0.9, 1.1))
    return token is not None


def _interval() -> timedelta:
    hours = settings.ENTRA_AUTHORITY_MAX_AGE
    return min(EVERY, timedelta(hours=hours) / 4) if hours else EVERY


def _confirm_authority(
    tenant: Tenant, token: token_endpoint.TokenSet, present: dict[str, User], *, now: datetime
) -> None:
    """Read the roles and groups of people who have a role or are in a team with an Entra group, and update both."""
    with_role = Q(groups__name__in=(IT_ADMINS, AUDITORS)) | Q(teams__entra_group__gt="")
    having = User.objects.filter(with_role, pk__in=[person.pk for person in present.values()]).distinct()
    pks = set(having.values_list("pk", flat=True))
    people = {oid: person for oid, person in present.items() if person.pk in pks}
    login = settings.LOGIN_MICROSOFT
    followed = Team.objects.exclude(entra_group="").values_list("entra_group", flat=True)
    answers = authority_lookup.read(
        clouds.cloud(tenant.environment),
        token.access_token,
        list(people),
        groups={*followed, *login["admins"], *login["auditors"]},
        client_id=login["client_id"],
        held=token.granted,
    )
    for oid, authority in answers.items():
        accounts.confirm_from_directory(people[oid], roles=authority.roles, groups=authority.groups, now=now)


def _token(tenant: Tenant, now: datetime) -> token_endpoint.TokenSet | None:
    """Return an app-only token that may read people, from the first app registration that can get one."""
    usable = tenant.app_consents.filter(
        Q(paused_until=None) | Q(paused_until__lte=now),
        rejected_at=None,
        app_registration__verified_at__isnull=False,
        app_registration__rejected_at=None,
    )
    for consent in usable.select_related("app_registration").order_by("app_registration"):
        app = consent.app_registration
        try:
            token = credential_checks.app_only_token(app, tenant=tenant, now=now)
        except (UnreadableSecret, InvalidInput) as error:
            logger.info("app registration %s cannot be asked for a token: %s", app.pk, error.code)
            continue
        if token is not None and user_lookup.may_read(token.granted):
            return token
    return None
