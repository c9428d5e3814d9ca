"""Secrets and certificates renew themselves: add, store, try, use, remove."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from connections.microsoft import application_credentials, certificates
from connections.models import AppCredential, AppRegistration, AuditEvent, CredentialRenewal, Incident, User
from connections.services.expiry import calendar, renewal, renewal_steps
from connections.services.governance import policy
from connections.services.policy.rules import Rules
from connections.services.registry import credentials
from portal.sandbox.client import Control
from tests import factories

NOW = timezone.now()
ALLOWED = Rules(credential_renewal=True)


@pytest.fixture(autouse=True)
def _allowed(alice: User) -> None:
    policy.change(None, ALLOWED, actor=alice, now=timezone.now())


@pytest.fixture(autouse=True)
def _small_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large keys take a second each."""
    monkeypatch.setattr(certificates, "KEY_BITS", certificates.SMALLEST_KEY_BITS)


def object_id(sandbox: Control) -> str:
    apps = sandbox.state()["apps"]
    return str(next(app["object_id"] for app in apps if app["client_id"] == factories.CLIENT_ID))


def at_microsoft(sandbox: Control, kind: str) -> list[dict[str, Any]]:
    apps = sandbox.state()["apps"]
    return list(next(app[kind] for app in apps if app["client_id"] == factories.CLIENT_ID))


def app_with_certificate(sandbox: Control, **overrides: Any) -> tuple[AppRegistration, AppCredential]:
    """An app whose only credential is a certificate that expires within 30 days; the sandbox knows it, too."""
    values = {"renews_credentials": True, "object_id": object_id(sandbox)}
    app = factories.make_app_registration(secret=None, **(values | overrides))
    pair = certificates.generate("old", months=1, now=timezone.now() - timedelta(days=10))
    sandbox.add_certificate(factories.CLIENT_ID, pair.certificate)
    for secret in at_microsoft(sandbox, "secrets"):
        sandbox.remove_secret(factories.CLIENT_ID, secret["id"])
    certificate = credentials.NewCertificate(pair)
    return app, credentials.store(app, certificate, actor=None, verified_at=timezone.now())


def app_with_secret(sandbox: Control, *, owned: bool = True) -> tuple[AppRegistration, AppCredential]:
    app = factories.make_app_registration(secret=None, renews_credentials=True)
    sandbox.set_app(factories.CLIENT_ID, application=["Application.ReadWrite.OwnedBy"])
    sandbox.grant_consent(factories.CLIENT_ID, roles=["Application.ReadWrite.OwnedBy"])
    if owned:
        sandbox.set_owners(factories.CLIENT_ID, [factories.CLIENT_ID])
    (listed,) = at_microsoft(sandbox, "secrets")
    old = factories.make_secret(app, expires_at=timezone.now() + timedelta(days=20), key_id=listed["id"])
    return app, old


def run(*, hours: int = 4) -> None:
    """Let the beat tick every half hour."""
    start = timezone.now()
    for tick in range(hours * 2):
        renewal.run_due(now=start + timedelta(minutes=30 * tick))


def live(app: AppRegistration) -> list[AppCredential]:
    return list(app.credentials.live().defer("secret", "private_key"))


def assert_renewed(app: AppRegistration, old: AppCredential, sandbox: Control, kind: str) -> None:
    """Assert that exactly one credential is left, here and at Microsoft, and that it works."""
    (new,) = live(app)
    assert new != old
    assert new.verified_at is not None
    assert renewal_steps.is_accepted(new)
    assert factories.reloaded(old).retired_at is not None
    (left,) = at_microsoft(sandbox, kind)
    assert left["id"] == new.key_id or not new.key_id
    assert not Incident.objects.filter(closed_at=None).exists()


@pytest.mark.parametrize("delay", [0, 600])
def test_a_certificate_renews_itself_without_any_permission(sandbox: Control, delay: int) -> None:
    app, old = app_with_certificate(sandbox)
    sandbox.credential_delay(delay)
    renewal.run_due(now=timezone.now())
    assert {row.pk for row in live(app)} >= {old.pk}
    assert len(at_microsoft(sandbox, "certificates")) == 2
    sandbox.clock(delay)
    run()
    # The old certificate is left in Entra, because nobody told the portal its keyId.
    done = CredentialRenewal.objects.get()
    assert (done.step, done.action) == ("done", "Delete the old certificate in Entra.")
    (new,) = live(app)
    assert new.key_id
    assert renewal_steps.is_accepted(new)


def test_a_certificate_that_the_portal_added_is_removed_at_its_next_renewal(sandbox: Control) -> None:
    app, old = app_with_certificate(sandbox)
    (listed,) = at_microsoft(sandbox, "certificates")
    AppCredential.objects.filter(pk=old.pk).update(key_id=listed["id"])
    run()
    assert_renewed(app, old, sandbox, "certificates")
    actions = list(AuditEvent.objects.order_by("pk").values_list("action", flat=True))
    expected = ["credential.added", "credential.renewal_started", "credential.accepted", "credential.retired"]
    assert [action for action in actions if action in (*expected, "credential.renewed")][-5:] == [
        *expected,
        "credential.renewed",
    ]


def test_a_secret_renews_itself_where_the_app_owns_itself(sandbox: Control) -> None:
    app, old = app_with_secret(sandbox)
    run()
    assert_renewed(app, old, sandbox, "secrets")


def test_without_ownership_it_is_an_incident_with_the_steps_by_hand_and_nothing_changes(sandbox: Control) -> None:
    app, old = app_with_secret(sandbox, owned=False)
    run()
    assert live(app) == [old]
    assert len(at_microsoft(sandbox, "secrets")) == 1
    incident = Incident.objects.get()
    assert (incident.kind, incident.who) == ("credential_renewal", "it_admin")
    assert "owner" in incident.action
    assert "create a client secret in Entra" in incident.action
    assert CredentialRenewal.objects.get().step == "failed"

    sandbox.set_owners(factories.CLIENT_ID, [factories.CLIENT_ID])
    renewal.run_due(now=timezone.now() + timedelta(days=1, hours=5))
    assert CredentialRenewal.objects.count() == 2


def test_a_wrong_object_id_or_none_is_an_incident(sandbox: Control) -> None:
    app, old = app_with_certificate(sandbox, object_id="")
    run()
    assert live(app) == [old]
    assert "object ID" in Incident.objects.get().cause
    factories.make_secret(app)
    renewal.run_due(now=timezone.now())
    assert not Incident.objects.filter(closed_at=None).exists()


@pytest.mark.parametrize("kind", ["certificates", "secrets"])
def test_a_credential_that_never_works_is_removed_again(sandbox: Control, kind: str) -> None:
    app, old = app_with_certificate(sandbox) if kind == "certificates" else app_with_secret(sandbox)
    sandbox.credential_delay(10**7)
    run(hours=5)
    assert live(app) == [old]
    assert len(at_microsoft(sandbox, kind)) == 1
    assert renewal_steps.is_accepted(old)
    assert Incident.objects.get().kind == "credential_renewal"


@pytest.mark.parametrize("kind", ["certificates", "secrets"])
def test_a_wrong_key_id_in_microsofts_answer_never_removes_the_old_credential(
    sandbox: Control, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    app, old = app_with_certificate(sandbox) if kind == "certificates" else app_with_secret(sandbox)
    (listed,) = at_microsoft(sandbox, kind)
    AppCredential.objects.filter(pk=old.pk).update(key_id=listed["id"])
    add_key, add_password = application_credentials.add_key, application_credentials.add_password

    def wrong_key(*args: Any, **kwargs: Any) -> str:
        add_key(*args, **kwargs)
        return str(listed["id"])

    def wrong_password(*args: Any, **kwargs: Any) -> Any:
        return replace(add_password(*args, **kwargs), key_id=listed["id"])

    monkeypatch.setattr(application_credentials, "add_key", wrong_key)
    monkeypatch.setattr(application_credentials, "add_password", wrong_password)
    sandbox.credential_delay(10**7)
    run(hours=5)
    assert live(app) == [old]
    assert renewal_steps.is_accepted(old)


def test_it_is_off_unless_both_the_policy_and_the_app_registration_allow_it(sandbox: Control, alice: User) -> None:
    app, old = app_with_certificate(sandbox, renews_credentials=False)
    run()
    AppRegistration.objects.update(renews_credentials=True)
    policy.change(None, replace(ALLOWED, credential_renewal=False), actor=alice, now=timezone.now())
    run()
    assert live(app) == [old]
    assert not CredentialRenewal.objects.exists()


def test_an_outage_changes_nothing_and_the_renewal_goes_on_later(sandbox: Control) -> None:
    app, old = app_with_secret(sandbox)
    sandbox.weather("unavailable", where="graph")
    run(hours=1)
    assert live(app) == [old]
    assert not Incident.objects.exists()
    sandbox.weather("normal")
    run()
    assert_renewed(app, old, sandbox, "secrets")


class Killed(BaseException):
    """The worker was killed at this point."""


# Where a worker may die: before or after the nth call that has an effect outside its own transaction.
COMMON = [
    (renewal_steps, "_test", 1),
    (renewal_steps, "_test", 2),
    (credentials, "retire", 1),
    (credentials, "store", 1),
]
COMMON += [(renewal_steps, "write", call) for call in (1, 2, 3, 4, 5)]
PLACES: dict[str, list[tuple[Any, str, int]]] = {
    "certificates": [*COMMON, (application_credentials, "add_key", 1), (application_credentials, "remove_key", 1)],
    "secrets": [*COMMON, (application_credentials, "add_password", 1), (application_credentials, "remove_password", 1)],
}


def _run_at(times: Iterable[datetime]) -> None:
    for now in times:
        renewal.run_due(now=now)


def _killed_in(function: Callable[..., Any], *, after: bool, call: int) -> Callable[..., Any]:
    count = 0

    def replacement(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count != call:
            return function(*args, **kwargs)
        if after:
            function(*args, **kwargs)
        raise Killed

    return replacement


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("kind", "module", "name", "call"), [(kind, *place) for kind, places in PLACES.items() for place in places]
)
def test_killed_anywhere_it_ends_with_one_working_credential_and_no_orphan(
    sandbox: Control, monkeypatch: pytest.MonkeyPatch, kind: str, module: Any, name: str, call: int, after: bool
) -> None:
    app, old = app_with_certificate(sandbox) if kind == "certificates" else app_with_secret(sandbox)
    if kind == "certificates":
        (listed,) = at_microsoft(sandbox, "certificates")
        AppCredential.objects.filter(pk=old.pk).update(key_id=listed["id"])
    start = timezone.now()
    with monkeypatch.context() as patch:
        patch.setattr(module, name, _killed_in(getattr(module, name), after=after, call=call))
        ticks = (start + timedelta(minutes=minutes) for minutes in (0, 70, 140))
        with pytest.raises(Killed):
            _run_at(ticks)
    assert any(renewal_steps.is_accepted(row) for row in live(app))
    _run_at(start + timedelta(minutes=minutes) for minutes in (6, 12, 70, 76, 82, 150, 160, 230, 240, 310))
    assert_renewed(app, old, sandbox, kind)


def test_two_workers_never_do_the_same_step(sandbox: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    app, old = app_with_secret(sandbox)
    issue = application_credentials.add_password

    def meanwhile(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(application_credentials, "add_password", issue)
        renewal.run_due(now=timezone.now())  # another worker, during the lease
        renewal.run_due(now=timezone.now() + renewal.LEASE * 2)  # and after it
        return issue(*args, **kwargs)

    monkeypatch.setattr(application_credentials, "add_password", meanwhile)
    run()
    assert_renewed(app, old, sandbox, "secrets")


def test_the_calendar_tells_what_is_renewed_and_what_needs_a_person(sandbox: Control) -> None:
    from connections.models import Connection

    def expiration(now: datetime) -> Any:
        expirations = calendar.of_credentials(
            AppRegistration.objects.select_related("tenant"), Connection.objects.all(), now=now, in_detail=True
        )
        return expirations.expirations[0]

    app_with_certificate(sandbox)
    assert expiration(NOW).is_renewed
    assert expiration(NOW).who == "nobody"
    AppRegistration.objects.update(renews_credentials=False)
    assert not expiration(NOW).is_renewed
    assert expiration(NOW).who == "it_admin"
    AppRegistration.objects.update(renews_credentials=True)
    AppRegistration.objects.update(object_id="")
    run()
    assert not expiration(NOW).is_renewed
    assert expiration(NOW).who == "it_admin"
