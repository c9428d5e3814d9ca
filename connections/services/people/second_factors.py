"""Second factors of local accounts: authenticator apps (RFC 6238), passkeys (WebAuthn) and recovery codes.

Microsoft has its own second factors, so these are only for accounts with a password in this portal.
"""

import hmac
import secrets
from datetime import datetime

import pyotp
from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils.crypto import salted_hmac

from connections import audit
from connections.access import roles
from connections.errors import PortalError
from connections.models import RecoveryCode, SecondFactor, User
from connections.models.audit import AuditAction
from connections.services.people import passkeys

ISSUER = "Connections for Microsoft 365"
RECOVERY_CODES = 10
_STEP = 30  # seconds for which a code is shown
_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # without look-alikes


class WrongCode(PortalError):
    code = "wrong_code"
    status = 422
    cause = "This code is wrong or was already used."
    action = "Wait for the next code and enter that."


class NameTaken(PortalError):
    code = "name_taken"
    status = 409
    cause = "You already have a sign-in method with this name, or this passkey is already registered."
    action = "Choose another name."


def is_required(person: User) -> bool:
    """Whether the person needs a second factor: operators (superusers) with a password do."""
    return person.is_superuser and person.has_usable_password()


def has_any(person: User) -> bool:
    return SecondFactor.objects.filter(person=person).exists()


def app_url(person: User, secret: str) -> str:
    """Return the otpauth URL that an authenticator app reads from a QR code."""
    url: str = pyotp.TOTP(secret).provisioning_uri(name=person.username, issuer_name=ISSUER)
    return url


def add_app(person: User, *, name: str, secret: str, code: str, actor: User, now: datetime) -> SecondFactor:
    """Add an authenticator app that has just shown ``code``. Raises WrongCode or NameTaken."""
    step = _step_of(secret, code, now)
    if step is None:
        raise WrongCode(field="code")
    factor = SecondFactor(person=person, kind=SecondFactor.Kind.APP, name=name, secret=secret, last_step=step)
    return _add(factor, actor=actor, now=now)


def add_passkey(person: User, *, name: str, answer: str, challenge: str, actor: User, now: datetime) -> SecondFactor:
    """Add a passkey that a browser has just created. Raises PasskeyRefused or NameTaken."""
    created = passkeys.verify_created(answer, challenge=challenge)
    factor = SecondFactor(
        person=person,
        kind=SecondFactor.Kind.PASSKEY,
        name=name,
        credential_id=created.credential_id,
        public_key=created.public_key,
        sign_count=created.sign_count,
    )
    return _add(factor, actor=actor, now=now)


def remove(factor: SecondFactor, *, actor: User, now: datetime) -> None:
    """Remove one of the actor's own factors. Removing the last one also deletes the recovery codes.

    Raises NotAllowed, or PortalError if an operator would have no factor left.
    """
    roles.require(actor.pk == factor.person_id, cause="Only the person can remove a sign-in method.")
    with transaction.atomic():
        person = User.objects.select_for_update(no_key=True).get(pk=factor.person_id)
        others = SecondFactor.objects.filter(person=person).exclude(pk=factor.pk)
        if is_required(person) and not others.exists():
            raise PortalError("An operator's account needs a second factor.", action="Add another one first.")
        if not others.exists():
            person.recovery_codes.all().delete()
        changes = {"name": factor.name, "kind": factor.kind}
        factor.delete()
        audit.record(AuditAction.ACCOUNT_SECOND_FACTOR_REMOVED, person, actor=actor, at=now, changes=changes)


def reset(person: User, *, now: datetime) -> int:
    """Remove all factors of a person who has lost them. Returns how many. For operators, on the command line."""
    with transaction.atomic():
        count, _ = person.second_factors.all().delete()
        person.recovery_codes.all().delete()
        audit.record(AuditAction.ACCOUNT_SECOND_FACTORS_RESET, person, actor=None, at=now, changes={"removed": count})
    return count


def make_recovery_codes(person: User, *, actor: User, now: datetime) -> list[str]:
    """Replace the person's recovery codes. Returns the new ones, which cannot be shown again."""
    roles.require(actor.pk == person.pk, cause="Only the person can get recovery codes.")
    codes = [
        "-".join("".join(secrets.choice(_ALPHABET) for _ in range(5)) for _ in range(3)) for _ in range(RECOVERY_CODES)
    ]
    with transaction.atomic():
        person.recovery_codes.all().delete()
        RecoveryCode.objects.bulk_create(RecoveryCode(person=person, digest=_digest(person, code)) for code in codes)
        audit.record(AuditAction.ACCOUNT_RECOVERY_CODES_MADE, person, actor=actor, at=now)
    return codes


def check_code(person: User, code: str, *, now: datetime) -> str:
    """Use up an app's code or a recovery code, and return which of the two it was. Raises WrongCode.

    The caller limits attempts (sign_in_limits.begin_second_factor).
    """
    for factor in SecondFactor.objects.filter(person=person, kind=SecondFactor.Kind.APP):
        step = _step_of(str(factor.secret), code, now)
        # If two requests have the same code, only one of them can increase the step.
        if step is not None and SecondFactor.objects.filter(pk=factor.pk, last_step__lt=step).update(
            last_step=step, used_at=now
        ):
            return "authenticator app"
    with transaction.atomic():
        unused = RecoveryCode.objects.filter(person=person, digest=_digest(person, code), used_at=None)
        if not unused.update(used_at=now):
            raise WrongCode(field="code")
        remaining = person.recovery_codes.filter(used_at=None).count()
        audit.record(AuditAction.ACCOUNT_RECOVERY_CODE_USED, person, actor=person, at=now, changes={"left": remaining})
    return "recovery code"


def check_passkey(person: User, answer: str, *, challenge: str, now: datetime) -> str:
    """Check a passkey's response, and return "passkey". Raises PasskeyRefused."""
    credential_id = passkeys.credential_id_of(answer)
    factor = SecondFactor.objects.filter(
        person=person, kind=SecondFactor.Kind.PASSKEY, credential_id=credential_id
    ).first()
    if factor is None:
        raise passkeys.PasskeyRefused
    count = passkeys.verify_used(
        answer, challenge=challenge, public_key=factor.public_key, sign_count=factor.sign_count
    )
    SecondFactor.objects.filter(pk=factor.pk).update(sign_count=count, used_at=now)
    return "passkey"


def _add(factor: SecondFactor, *, actor: User, now: datetime) -> SecondFactor:
    roles.require(actor.pk == factor.person_id, cause="Only the person can add a sign-in method.")
    cause = "This account signs in with Microsoft, which asks for its own second factor."
    roles.require(factor.person.has_usable_password(), cause=cause)
    try:
        with transaction.atomic():
            factor.save(force_insert=True)
            changes = {"name": factor.name, "kind": factor.kind}
            audit.record(AuditAction.ACCOUNT_SECOND_FACTOR_ADDED, factor.person, actor=actor, at=now, changes=changes)
    except IntegrityError:
        raise NameTaken(field="name") from None
    return factor


def _step_of(secret: str, code: str, now: datetime) -> int | None:
    """Return the time step that has this code, or None.

    Accepts the previous and the next step, because clocks differ.
    """
    digits = "".join(code.split())
    current = int(now.timestamp()) // _STEP
    totp = pyotp.TOTP(secret)
    for step in (current, current - 1, current + 1):
        if hmac.compare_digest(totp.generate_otp(step).encode(), digits.encode("utf-8", "replace")):
            return step
    return None


def _digest(person: User, code: str) -> str:
    text = "".join(character for character in code.lower() if character.isalnum())
    salt = f"recovery-code:{person.pk}"
    return str(salted_hmac(salt, text, secret=settings.SECRET_KEY, algorithm="sha256").hexdigest())
