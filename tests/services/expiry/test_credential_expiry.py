"""Expiration dates are read from Entra, and each warning is sent once and in time."""

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

NOW = timezone.now()


def days(count: float) -> timedelta:
    return timedelta(days=count)


def robots(**overrides: Any) -> AppRegistration:
    """Register the sandbox's app that has been granted Application.Read.All."""
    return factories.make_app_registration(client_id=factories.ROBOTS_CLIENT_ID, name="Robots", **overrides)


def test_the_date_from_entra_replaces_the_entered_one(alice: User, sandbox: Control) -> None:
    app = robots(secret=None)
    entered = factories.make_secret(app, factories.ROBOTS_CLIENT_SECRET, expires_at=NOW + days(9), warned_days=14)
    listing = credential_expiry.read(app, actor=alice, now=NOW)
    assert (listing.permitted, listing.confirmed, listing.unlisted) == (True, (entered,), ())
    expires_at = factories.reloaded(entered).expires_at
    assert expires_at is not None
    assert expires_at > NOW + days(600)
    assert (entered.expiry_read_at, entered.warned_days) == (NOW, None)
    event = AuditEvent.objects.get(action="credential.expiry_read")
    assert (event.actor, event.changes["expires_at"][1]) == (alice, expires_at.isoformat())


def test_reading_the_same_date_twice_is_audited_once(alice: User, sandbox: Control) -> None:
    app = robots(secret=factories.ROBOTS_CLIENT_SECRET)
    credential_expiry.read(app, actor=None, now=NOW)
    credential_expiry.read(app, actor=None, now=NOW + days(1))
    assert AuditEvent.objects.filter(action="credential.expiry_read").count() == 1


def test_without_the_permission_the_entered_date_is_kept(sandbox: Control, app: AppRegistration) -> None:
    before = AppCredential.objects.values().get()
    assert not credential_expiry.read(app, actor=None, now=NOW).permitted
    assert AppCredential.objects.values().get() == before
    next_reading = factories.reloaded(app).read_expiries_after
    assert next_reading is not None
    assert next_reading > NOW + days(0.8)


def test_a_secret_that_entra_no_longer_lists_is_audited_once_unless_it_is_new(alice: User, sandbox: Control) -> None:
    app = robots(secret=factories.ROBOTS_CLIENT_SECRET)
    deleted = factories.make_secret(app, "xyz~no longer there", created_at=NOW - days(5))
    factories.make_secret(app, "xyz~just made", created_at=NOW - timedelta(minutes=5))
    certificate = credentials.add_generated_certificate(app, actor=alice)
    for _ in range(2):
        assert credential_expiry.read(app, actor=None, now=NOW).unlisted == (deleted,)
    assert (factories.reloaded(deleted).unlisted_at, factories.reloaded(certificate).unlisted_at) == (NOW, None)
    assert AuditEvent.objects.filter(action="credential.unlisted").count() == 1


def test_an_uploaded_certificate_is_tested_and_accepted(alice: User, sandbox: Control) -> None:
    app = robots(secret=factories.ROBOTS_CLIENT_SECRET)
    certificate = credentials.next_certificate(app, actor=alice)
    sandbox.add_certificate(factories.ROBOTS_CLIENT_ID, certificate.certificate)
    assert credential_expiry.read(app, actor=None, now=NOW).accepted == (certificate,)
    assert factories.reloaded(certificate).verified_at is not None
    assert certificate.expiry_read_at == NOW


def test_the_next_credential_is_used_when_the_first_is_rejected(sandbox: Control) -> None:
    app = robots(secret=factories.ROBOTS_CLIENT_SECRET)
    newest = factories.make_secret(app, "xyz~not accepted")
    assert credential_expiry.read(app, actor=None, now=NOW).permitted
    assert factories.reloaded(newest).rejected_code == "AADSTS7000215"


def test_reading_is_retried_an_hour_after_an_outage(sandbox: Control) -> None:
    app = robots(secret=factories.ROBOTS_CLIENT_SECRET)
    sandbox.weather("unavailable", "graph")
    assert credential_expiry.read_due(now=NOW) == 0
    assert AppCredential.objects.get().expiry_read_at is None
    assert factories.reloaded(app).read_expiries_after == NOW + credential_expiry.AGAIN
    sandbox.weather("normal")
    assert credential_expiry.read_due(now=NOW + credential_expiry.AGAIN) == 1


def test_each_app_registration_is_read_once_a_day(sandbox: Control) -> None:
    robots(secret=factories.ROBOTS_CLIENT_SECRET)
    factories.make_app_registration(name="Rejected", rejected_at=NOW)
    assert credential_expiry.read_due(now=NOW) == 1
    sandbox.clear_calls()
    assert credential_expiry.read_due(now=NOW + timedelta(hours=12)) == 0
    assert sandbox.calls()["total"] == 0
    assert credential_expiry.read_due(now=NOW + days(1.2)) == 1


def test_a_new_credential_is_read_at_the_next_run(alice: User, sandbox: Control) -> None:
    app = robots(secret=factories.ROBOTS_CLIENT_SECRET)
    credential_expiry.read_due(now=NOW)
    in_entra = sandbox.add_secret(factories.ROBOTS_CLIENT_ID, expires_at=(NOW + days(100)).timestamp())
    value, ends = in_entra["value"], datetime.fromtimestamp(int(in_entra["expires_at"]), UTC)
    credential = credentials.add(
        app, credentials.NewSecret(value, ends.replace(hour=0, minute=0, second=0)), actor=alice
    )
    assert credential_expiry.read_due(now=NOW + timedelta(minutes=10)) == 1
    assert factories.reloaded(credential).expires_at == ends


ALIKE = (("abc", 5), ("abc", 90))


@pytest.mark.parametrize(
    ("values", "listed", "expected"),
    [
        ({}, (("abd", 0), ("abc", 5)), 5),
        ({"expires_at": NOW + days(90.4)}, ALIKE, 90),
        ({"verified_at": NOW}, (("abc", -5), ("abc", 90)), 90),
        ({"verified_at": None}, (("abc", -5), ("abc", 90)), None),
        ({"expires_at": NOW + days(40), "verified_at": NOW}, ALIKE, None),
    ],
    ids=["by hint", "by entered date", "accepted, so not the expired one", "not accepted", "ambiguous"],
)
def test_a_secret_is_matched_by_its_hint_and_date(
    values: dict[str, Any], listed: tuple[tuple[str, int], ...], expected: int | None
) -> None:
    secret = AppCredential(**({"kind": "secret", "hint": "abc", "created_at": NOW} | values))
    secrets = tuple(ListedCredential(NOW + days(count), hint=hint) for hint, count in listed)
    match = credential_expiry.match(secret, CredentialList(secrets, ()))
    assert (match and match.expires_at) == (NOW + days(expected) if expected else None)


def test_a_certificate_is_matched_by_its_thumbprint() -> None:
    pair = certificates.generate("x", months=1, now=NOW)
    stored = AppCredential(kind="certificate", certificate=pair.certificate, thumbprint=pair.thumbprint)
    sha1 = certificates.read_details(pair.certificate).sha1
    other, same = (ListedCredential(NOW, thumbprints=frozenset({value})) for value in ("00" * 20, sha1))
    assert credential_expiry.match(stored, CredentialList((), (other, same))) is same
    assert credential_expiry.match(stored, CredentialList((), (other,))) is None


def expiring(count: float, **overrides: Any) -> AppCredential:
    app = AppRegistration.objects.first() or factories.make_app_registration(secret=None)
    return factories.make_secret(app, expires_at=NOW + days(count), **overrides)


def warned() -> list[str]:
    return list(Delivery.objects.filter(event="expiry").order_by("pk").values_list("key", flat=True))


def test_each_threshold_warns_once(alice: User) -> None:
    credential = expiring(61)
    seen = []
    for day in range(63):
        if credential_expiry.warn_due(now=NOW + days(day)):
            credential.refresh_from_db()
            seen.append((day, credential.warned_days))
        assert credential_expiry.warn_due(now=NOW + days(day)) == 0
    assert seen == [(1, 60), (31, 30), (47, 14), (54, 7), (60, 1)]
    assert len(warned()) == 5


def test_no_warning_while_another_credential_lasts_longer(alice: User) -> None:
    expiring(5)
    successor = expiring(300)
    assert credential_expiry.warn_due(now=NOW) == 0
    credentials.retire(successor, actor=alice)
    assert credential_expiry.warn_due(now=NOW) == 1


@pytest.mark.parametrize(
    "successor", [{"rejected_at": NOW}, {"unlisted_at": NOW}, {"retired_at": NOW}, {"expires_at": None}], ids=", ".join
)
def test_an_unusable_successor_or_one_without_a_date_does_not_prevent_the_warning(
    alice: User, successor: dict[str, Any]
) -> None:
    expiring(5)
    factories.make_secret(AppRegistration.objects.get(), **({"expires_at": NOW + days(300)} | successor))
    assert credential_expiry.warn_due(now=NOW) == 1


@pytest.mark.parametrize("left", [-1, 61])
def test_no_warning_for_expired_or_distant_dates(alice: User, left: float) -> None:
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


def test_dates_are_read_before_warnings_are_sent(alice: User, sandbox: Control) -> None:
    app = robots(secret=None)
    factories.make_secret(app, factories.ROBOTS_CLIENT_SECRET, expires_at=NOW + days(5))
    assert credential_expiry.check_due(now=NOW) == 0  # according to Entra, it is valid for much longer
    assert warned() == []


def test_the_task_checks_expirations_and_only_the_smallest_threshold_warns(alice: User, sandbox: Control) -> None:
    from connections import tasks

    credential = expiring(5)
    tasks.look_ahead()
    assert factories.reloaded(credential).warned_days == 7
    assert len(warned()) == 1
