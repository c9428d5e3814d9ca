"""True expiry dates are read from Entra, and warnings go out in time, once."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from connections.microsoft import certificates
from connections.microsoft.credential_expiry import CredentialList, ListedCredential
from connections.models import AppCredential, AppRegistration, AuditEvent, Delivery, User
from connections.services.expiry import credential_expiry, forecast
from connections.services.registry import credentials
from portal.sandbox.client import Control
from tests import factories

pytestmark = pytest.mark.django_db

NOW = timezone.now()


def days(count: float) -> timedelta:
    return timedelta(days=count)


def robots(**overrides: Any) -> AppRegistration:
    """The sandbox's app that has been granted Application.Read.All."""
    return factories.make_app_registration(client_id=factories.ROBOTS_CLIENT_ID, name="Robots", **overrides)


def in_entra(sandbox: Control) -> tuple[str, datetime]:
    """A further secret of the robots app that ends in 100 days: its value and its end."""
    made = sandbox.add_secret(factories.ROBOTS_CLIENT_ID, expires_at=(NOW + days(100)).timestamp())
    return made["value"], datetime.fromtimestamp(int(made["expires_at"]), UTC)


# --- Reading --------------------------------------------------------------------------------------


def test_the_true_date_replaces_the_typed_one(alice: User, sandbox: Control) -> None:
    app = robots(secret=None)
    typed = factories.make_secret(app, factories.ROBOTS_CLIENT_SECRET, expires_at=NOW + days(9), warned_days=14)
    done = credential_expiry.read(app, actor=alice, now=NOW)
    assert (done.permitted, done.confirmed, done.unlisted) == (True, (typed,), ())
    typed.refresh_from_db()
    assert typed.expires_at is not None
    assert typed.expires_at > NOW + days(600)
    assert (typed.expiry_read_at, typed.warned_days) == (NOW, None)
    event = AuditEvent.objects.get(action="credential.expiry_read")
    assert (event.actor, event.changes["expires_at"][1]) == (alice, typed.expires_at.isoformat())


def test_reading_twice_writes_one_audit_row(alice: User, sandbox: Control) -> None:
    app = robots(secret=factories.ROBOTS_CLIENT_SECRET)
    credential_expiry.read(app, actor=None, now=NOW)
    credential_expiry.read(app, actor=None, now=NOW + days(1))
    assert AuditEvent.objects.filter(action="credential.expiry_read").count() == 1


def test_without_the_permission_the_typed_date_stands(sandbox: Control) -> None:
    app = factories.make_app_registration()
    before = AppCredential.objects.values().get()
    assert not credential_expiry.read(app, actor=None, now=NOW).permitted
    assert AppCredential.objects.values().get() == before
    app.refresh_from_db()
    assert app.read_expiries_after is not None
    assert app.read_expiries_after > NOW + days(0.8)


def test_a_secret_that_entra_no_longer_lists_is_told_once_and_taken_back_when_it_is_listed_again(
    alice: User, sandbox: Control
) -> None:
    app = robots(secret=factories.ROBOTS_CLIENT_SECRET)
    gone = factories.make_secret(app, "xyz~no longer there", created_at=NOW - days(5))
    certificate = credentials.add_generated_certificate(app, actor=alice)
    for _ in range(2):
        assert credential_expiry.read(app, actor=None, now=NOW).unlisted == (gone,)
    gone.refresh_from_db()
    certificate.refresh_from_db()
    assert (gone.unlisted_at, certificate.unlisted_at) == (NOW, None)
    assert AuditEvent.objects.filter(action="credential.unlisted").count() == 1


def test_a_credential_of_this_very_hour_is_not_called_gone(sandbox: Control) -> None:
    app = robots(secret=factories.ROBOTS_CLIENT_SECRET)
    factories.make_secret(app, "xyz~just made", created_at=NOW - timedelta(minutes=5))
    assert credential_expiry.read(app, actor=None, now=NOW).unlisted == ()


def test_an_uploaded_certificate_is_found_tried_and_put_first(alice: User, sandbox: Control) -> None:
    app = robots(secret=factories.ROBOTS_CLIENT_SECRET)
    made = credentials.next_certificate(app, actor=alice)
    sandbox.add_certificate(factories.ROBOTS_CLIENT_ID, made.certificate)
    assert credential_expiry.read(app, actor=None, now=NOW).accepted == (made,)
    made.refresh_from_db()
    assert made.verified_at is not None
    assert made.expiry_read_at == NOW


def test_a_rejected_first_credential_falls_through_to_the_next(sandbox: Control) -> None:
    app = robots(secret=factories.ROBOTS_CLIENT_SECRET)
    newest = factories.make_secret(app, "xyz~not accepted")
    assert credential_expiry.read(app, actor=None, now=NOW).permitted
    newest.refresh_from_db()
    assert newest.rejected_code == "AADSTS7000215"


def test_an_outage_changes_nothing_and_is_tried_again_within_the_hour(sandbox: Control) -> None:
    app = robots(secret=factories.ROBOTS_CLIENT_SECRET)
    sandbox.weather("unavailable", "graph")
    assert credential_expiry.read_due(now=NOW) == 0
    assert AppCredential.objects.get().expiry_read_at is None
    app.refresh_from_db()
    assert app.read_expiries_after == NOW + credential_expiry.AGAIN
    sandbox.weather("normal")
    assert credential_expiry.read_due(now=NOW + credential_expiry.AGAIN) == 1


def test_the_routine_reads_each_app_registration_once_a_day(sandbox: Control) -> None:
    robots(secret=factories.ROBOTS_CLIENT_SECRET)
    factories.make_app_registration(name="Rejected", rejected_at=NOW)
    assert credential_expiry.read_due(now=NOW) == 1
    sandbox.clear_calls()
    assert credential_expiry.read_due(now=NOW + timedelta(hours=12)) == 0
    assert sandbox.calls()["total"] == 0
    assert credential_expiry.read_due(now=NOW + days(1.2)) == 1


def test_a_new_credential_is_looked_up_at_the_next_tick(alice: User, sandbox: Control) -> None:
    app = robots(secret=factories.ROBOTS_CLIENT_SECRET)
    credential_expiry.read_due(now=NOW)
    value, ends = in_entra(sandbox)
    made = credentials.add_secret(app, value=value, expires_at=ends.replace(hour=0, minute=0, second=0), actor=alice)
    assert credential_expiry.read_due(now=NOW + timedelta(minutes=10)) == 1
    made.refresh_from_db()
    assert made.expires_at == ends


# --- Which is which -------------------------------------------------------------------------------


def secret(**values: Any) -> AppCredential:
    return AppCredential(**({"kind": "secret", "hint": "abc", "created_at": NOW} | values))


def listing(*secrets: tuple[str, datetime]) -> CredentialList:
    return CredentialList(tuple(ListedCredential(ends, hint=hint) for hint, ends in secrets), ())


def test_the_first_three_characters_tell_secrets_apart() -> None:
    found = credential_expiry.match(secret(), listing(("abd", NOW), ("abc", NOW + days(5))))
    assert found is not None
    assert found.expires_at == NOW + days(5)


def test_of_two_that_look_alike_the_typed_date_decides() -> None:
    alike = listing(("abc", NOW + days(5)), ("abc", NOW + days(90)))
    found = credential_expiry.match(secret(expires_at=NOW + days(90.4)), alike)
    assert found is not None
    assert found.expires_at == NOW + days(90)


def test_an_accepted_secret_is_not_the_one_that_has_expired() -> None:
    alike = listing(("abc", NOW - days(5)), ("abc", NOW + days(90)))
    found = credential_expiry.match(secret(verified_at=NOW), alike)
    assert found is not None
    assert found.expires_at == NOW + days(90)
    assert credential_expiry.match(secret(verified_at=None), alike) is None


def test_no_guess_is_made_between_two_that_look_alike() -> None:
    alike = listing(("abc", NOW + days(5)), ("abc", NOW + days(90)))
    assert credential_expiry.match(secret(expires_at=NOW + days(40), verified_at=NOW), alike) is None


def test_a_certificate_is_known_by_its_thumbprint() -> None:
    pair = certificates.generate("x", months=1, now=NOW)
    held = AppCredential(kind="certificate", certificate=pair.certificate, thumbprint=pair.thumbprint)
    sha1 = certificates.read_details(pair.certificate).sha1
    other, mine = (
        ListedCredential(NOW, thumbprints=frozenset({"00" * 20})),
        ListedCredential(NOW, thumbprints=frozenset({sha1})),
    )
    assert credential_expiry.match(held, CredentialList((), (other, mine))) is mine
    assert credential_expiry.match(held, CredentialList((), (other,))) is None


# --- Warnings -------------------------------------------------------------------------------------


def expiring(count: float, **overrides: Any) -> AppCredential:
    app = AppRegistration.objects.first() or factories.make_app_registration(secret=None)
    return factories.make_secret(app, expires_at=NOW + days(count), **overrides)


def warned() -> list[str]:
    return list(Delivery.objects.filter(event="expiry").order_by("pk").values_list("key", flat=True))


def test_each_threshold_warns_once_on_the_way(alice: User) -> None:
    credential = expiring(61)
    seen = []
    for day in range(63):
        if credential_expiry.warn_due(now=NOW + days(day)):
            credential.refresh_from_db()
            seen.append((day, credential.warned_days))
        assert credential_expiry.warn_due(now=NOW + days(day)) == 0
    assert seen == [(1, 60), (31, 30), (47, 14), (54, 7), (60, 1)]
    assert len(warned()) == 5


def test_what_is_found_late_warns_with_the_smallest_threshold_only(alice: User) -> None:
    credential = expiring(5)
    assert credential_expiry.warn_due(now=NOW) == 1
    credential.refresh_from_db()
    assert credential.warned_days == 7
    assert len(warned()) == 1


def test_what_another_credential_outlasts_warns_of_nothing_until_that_one_is_gone(alice: User) -> None:
    expiring(5)
    successor = expiring(300)
    assert credential_expiry.warn_due(now=NOW) == 0
    credentials.retire(successor, actor=alice)
    assert credential_expiry.warn_due(now=NOW) == 1


@pytest.mark.parametrize("out", ["rejected_at", "unlisted_at", "retired_at"])
def test_a_successor_that_does_not_work_is_none(alice: User, out: str) -> None:
    expiring(5)
    expiring(300, **{out: NOW})
    assert credential_expiry.warn_due(now=NOW) == 1


def test_a_successor_without_a_date_keeps_the_warning(alice: User) -> None:
    expiring(5)
    factories.make_secret(AppRegistration.objects.get(), expires_at=None)
    assert credential_expiry.warn_due(now=NOW) == 1


@pytest.mark.parametrize("left", [-1, 61])
def test_the_expired_and_the_far_are_not_warned_of(alice: User, left: float) -> None:
    expiring(left)
    assert credential_expiry.warn_due(now=NOW) == 0


def test_two_workers_warn_once(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    expiring(5)
    real, others = forecast.credential_lifetime, list[int]()

    def after_another_worker(listed: Any) -> forecast.CredentialLifetime:
        if not others:
            others.append(0)
            others.append(credential_expiry.warn_due(now=NOW))
        return real(listed)

    monkeypatch.setattr(forecast, "credential_lifetime", after_another_worker)
    assert credential_expiry.warn_due(now=NOW) == 0
    assert others == [0, 1]
    assert len(warned()) == 1


def test_looking_ahead_reads_before_it_warns(alice: User, sandbox: Control) -> None:
    app = robots(secret=None)
    factories.make_secret(app, factories.ROBOTS_CLIENT_SECRET, expires_at=NOW + days(5))
    assert credential_expiry.check_due(now=NOW) == 0  # Entra says it lasts much longer
    assert warned() == []


def test_the_task_is_a_doorway_to_looking_ahead(alice: User, sandbox: Control) -> None:
    from connections import tasks

    credential = expiring(5)
    tasks.look_ahead()
    credential.refresh_from_db()
    assert credential.warned_days == 7
