"""Sign-in details that someone else changes on the admin site: user name, email address and password."""

from datetime import datetime

from django.utils.crypto import constant_time_compare
from social_django.models import UserSocialAuth

from connections import audit
from connections.access import querysets
from connections.errors import NotAllowed
from connections.models import AuditEvent, User
from connections.models.audit import AuditAction
from connections.services.notifications import alerts
from connections.services.people import offboarding

_LABELS = {"username": "User name", "email": "Email address", "password": "Password"}


def signs_in_with_microsoft(user: User) -> bool:
    return bool(UserSocialAuth.objects.filter(user=user, provider=offboarding.MICROSOFT).exists())


def require_password_allowed(user: User) -> None:
    """Raise NotAllowed if someone else must not set a password for this account.

    With the password, that person could use an account that only Microsoft's sign-in is meant to open.
    """
    if user.is_service:
        raise NotAllowed("Service accounts can't sign in.", action="Issue an API key for this account instead.")
    if signs_in_with_microsoft(user):
        raise NotAllowed(
            f"{user} signs in with Microsoft, so this account can't have a password here.",
            action="For emergencies, create a separate local account.",
        )
    if not user.has_usable_password() and (user.connections.exists() or user.api_keys.exists()):
        raise NotAllowed(
            f"{user} owns connections or API keys, and anyone who knows a password of this account could use them.",
            action="Transfer or remove them first, or create a separate local account.",
        )


def changed(before: User, *, actor: User, now: datetime) -> None:
    """Record what differs from ``before``, and alarm the person (at the old address), IT admins and auditors.

    Call it in the transaction of the change. Does nothing if nothing has changed. Nobody is alarmed if the actor
    changed their own account.
    """
    user = User.objects.get(pk=before.pk)
    changes = audit.changed_fields(before, {"username": user.username, "email": user.email})
    facts = [(_LABELS[name], f"{old or 'none'} → {new or 'none'}") for name, (old, new) in changes.items()]
    events = []
    if changes:
        events.append(audit.record(AuditAction.ACCOUNT_UPDATED, user, actor=actor, at=now, changes=changes))
    if not constant_time_compare(before.password, user.password):
        events.append(audit.record(AuditAction.ACCOUNT_PASSWORD_CHANGED, user, actor=actor, at=now))
        facts.append((_LABELS["password"], "changed" if user.has_usable_password() else "removed"))
    if events and actor.pk != before.pk:
        _alarm(before, facts, event=events[0], actor=actor, now=now)


def _alarm(before: User, facts: list[tuple[str, str]], *, event: AuditEvent, actor: User, now: datetime) -> None:
    what = " and ".join(label.lower() for label, _ in facts)
    to_person = alerts.Message(
        f"{actor} changed the {what} of your account",
        ("The change was made on the admin site. If you didn't expect it, contact an IT admin immediately.",),
        "/account/",
        "View account",
        "You received this email because it is about your account.",
        facts=tuple(facts),
        tone="warning",
    )
    to_overseers = alerts.Message(
        f"{actor} changed the {what} of {before}",
        ("The change was made on the admin site. If you didn't expect it, ask them, and disable the account.",),
        f"/audit/{event.pk}/",
        "View event",
        "You received this email because you are an IT admin or an auditor.",
        facts=tuple(facts),
        tone="warning",
    )
    # ``before`` has the old address. The actor, who may have set the new one, can't read mail that is sent there.
    about = f"sign-in-details:{event.pk}"
    alerts.notify([before], to_person, about=about, now=now, is_alarm=True)
    overseers = querysets.overseers().exclude(pk=before.pk)
    alerts.notify(overseers, to_overseers, about=about, now=now, is_alarm=True)
