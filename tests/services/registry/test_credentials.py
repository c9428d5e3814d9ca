"""Credentials are write-only: tried, stored encrypted, retired, and never given back."""

from datetime import timedelta

import pytest
from django.db import connection as database
from django.utils import timezone

from connections.errors import InvalidInput, MicrosoftRefused, MicrosoftUnavailable
from connections.microsoft import certificates
from connections.models import AppCredential, AuditEvent, Connection, User
from connections.services.registry import credential_checks, credentials
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories
from tests.services.registry.test_app_registrations import expired

NEXT_YEAR = timezone.now() + timedelta(days=365)


def test_a_new_accepted_secret_heals_the_app_and_touches_no_connection(alice: User, sandbox: Control) -> None:
    app = factories.make_app_registration(secret="expired~value")
    factories.make_connection(app_registration=app)

    credential_checks.reject_app(app, expired(), now=timezone.now())
    before = Connection.objects.values().get()
    value = sandbox.add_secret(seed.CONNECTIONS_APP)["value"]
    credentials.add_secret(app, value=value, expires_at=NEXT_YEAR, actor=alice)
    app.refresh_from_db()
    assert app.is_ready
    assert Connection.objects.values().get() == before
    assert AuditEvent.objects.filter(action="app_registration.healed", actor=alice).count() == 1


def test_a_refused_secret_is_not_stored(alice: User, sandbox: Control) -> None:
    app = factories.make_app_registration(secret=None)
    with pytest.raises(MicrosoftRefused, match="Secret ID") as caught:
        credentials.add_secret(app, value=seed.CONNECTIONS_SECRET_ID, expires_at=NEXT_YEAR, actor=alice)
    assert caught.value.field == "credential"
    assert seed.CONNECTIONS_SECRET_ID not in str(caught.value)
    assert not AppCredential.objects.exists()


def test_during_an_outage_it_is_stored_only_when_asked_to(alice: User, sandbox: Control) -> None:
    app = factories.make_app_registration(secret=None)
    sandbox.weather("unavailable", "token")
    said = {"value": seed.CONNECTIONS_SECRET, "expires_at": NEXT_YEAR, "actor": alice}
    with pytest.raises(MicrosoftUnavailable):
        credentials.add_secret(app, **said)
    assert credentials.add_secret(app, **said, allow_untried=True).verified_at is None


def test_neither_database_nor_audit_holds_the_secret_in_clear(alice: User, sandbox: Control) -> None:
    app = factories.make_app_registration(secret=None)
    made = credentials.add_secret(app, value=seed.CONNECTIONS_SECRET, expires_at=NEXT_YEAR, actor=alice)
    certificate = credentials.add_generated_certificate(app, actor=alice)
    with database.cursor() as cursor:
        cursor.execute("SELECT secret, private_key FROM connections_appcredential")
        stored = str(cursor.fetchall())
    assert seed.CONNECTIONS_SECRET not in stored
    assert "PRIVATE KEY" not in stored
    assert "PRIVATE KEY" in certificate.private_key
    said = f"{made} {made!r} {list(AuditEvent.objects.values())}"
    assert seed.CONNECTIONS_SECRET not in said
    assert "PRIVATE" not in said


def test_what_is_to_be_stored_does_not_show_itself_in_a_traceback() -> None:
    pair = certificates.generate("x", months=1, now=timezone.now())
    assert "hush" not in repr(credentials.NewSecret("hush~hush"))
    assert "PRIVATE KEY" not in repr(credentials.NewCertificate(pair))


def test_an_uploaded_certificate_is_tried_like_a_secret(alice: User, sandbox: Control) -> None:
    app = factories.make_app_registration(secret=None, client_id=seed.ROBOTS_APP)
    pair = certificates.generate("Robots", months=6, now=timezone.now())
    with pytest.raises(MicrosoftRefused, match="700027"):
        credentials.add_uploaded_certificate(app, pair=pair, actor=alice)
    sandbox.add_certificate(seed.ROBOTS_APP, pair.certificate)
    made = credentials.add_uploaded_certificate(app, pair=pair, actor=alice)
    assert made.verified_at
    assert made.expires_at == pair.expires_at


@pytest.mark.parametrize("months", [0, 25])
def test_a_certificate_lives_one_to_twenty_four_months(alice: User, months: int) -> None:
    with pytest.raises(InvalidInput):
        credentials.add_generated_certificate(factories.make_app_registration(), actor=alice, months=months)


def test_retiring_forgets_the_secret_for_good_and_twice_changes_nothing(alice: User) -> None:
    credential = factories.make_app_registration().credentials.get()
    credentials.retire(credential, actor=alice)
    first = AppCredential.objects.get().retired_at
    credentials.retire(credential, actor=alice)
    stored = AppCredential.objects.get()
    assert (stored.secret, stored.private_key, stored.retired_at) == (None, None, first)
    assert AuditEvent.objects.filter(action="credential.retired").count() == 1
