"""Credentials are tested, stored encrypted and retired, and never returned."""

from datetime import timedelta
from typing import Any

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


def test_an_accepted_secret_restores_the_app_and_changes_no_connection(alice: User, sandbox: Control) -> None:
    app = factories.make_app_registration(secret="expired~value")
    factories.make_connection(app_registration=app)

    credential_checks.reject_app(app, expired(), now=timezone.now())
    before = Connection.objects.values().get()
    value = sandbox.add_secret(seed.CONNECTIONS_APP)["value"]
    credentials.add(app, credentials.NewSecret(value, NEXT_YEAR), actor=alice)
    assert factories.reloaded(app).is_ready
    assert Connection.objects.values().get() == before
    assert AuditEvent.objects.filter(action="app_registration.healed", actor=alice).count() == 1


def test_a_refused_secret_is_not_stored(alice: User, sandbox: Control) -> None:
    app = factories.make_app_registration(secret=None)
    with pytest.raises(MicrosoftRefused, match="Secret ID") as caught:
        credentials.add(app, credentials.NewSecret(seed.CONNECTIONS_SECRET_ID, NEXT_YEAR), actor=alice)
    assert caught.value.field == "credential"
    assert seed.CONNECTIONS_SECRET_ID not in str(caught.value)
    assert not AppCredential.objects.exists()


def test_during_an_outage_a_secret_is_stored_only_with_allow_untried(alice: User, sandbox: Control) -> None:
    app = factories.make_app_registration(secret=None)
    sandbox.weather("unavailable", "token")
    secret = credentials.NewSecret(seed.CONNECTIONS_SECRET, NEXT_YEAR)
    with pytest.raises(MicrosoftUnavailable):
        credentials.add(app, secret, actor=alice)
    assert credentials.add(app, secret, actor=alice, allow_untried=True).verified_at is None


def test_neither_database_nor_audit_contains_the_secret_in_clear(alice: User, sandbox: Control) -> None:
    app = factories.make_app_registration(secret=None)
    secret = credentials.add(app, credentials.NewSecret(seed.CONNECTIONS_SECRET, NEXT_YEAR), actor=alice)
    certificate = credentials.add_generated_certificate(app, actor=alice)
    with database.cursor() as cursor:
        cursor.execute("SELECT secret, private_key FROM connections_appcredential")
        stored = str(cursor.fetchall())
    assert seed.CONNECTIONS_SECRET not in stored
    assert "PRIVATE KEY" not in stored
    assert "PRIVATE KEY" in certificate.private_key
    texts = f"{secret} {secret!r} {list(AuditEvent.objects.values())}"
    assert seed.CONNECTIONS_SECRET not in texts
    assert "PRIVATE" not in texts


def test_new_credentials_do_not_show_their_secret_in_a_traceback() -> None:
    pair = certificates.generate("x", months=1, now=timezone.now())
    assert "hush" not in repr(credentials.NewSecret("hush~hush"))
    assert "PRIVATE KEY" not in repr(credentials.NewCertificate(pair))


def test_an_uploaded_certificate_is_tested_like_a_secret(alice: User, sandbox: Control) -> None:
    app = factories.make_app_registration(secret=None, client_id=seed.ROBOTS_APP)
    pair = certificates.generate("Robots", months=6, now=timezone.now())
    with pytest.raises(MicrosoftRefused, match="700027"):
        credentials.add(app, credentials.NewCertificate(pair), actor=alice)
    sandbox.add_certificate(seed.ROBOTS_APP, pair.certificate)
    certificate = credentials.add(app, credentials.NewCertificate(pair), actor=alice)
    assert certificate.verified_at
    assert certificate.expires_at == pair.expires_at


@pytest.mark.parametrize("months", [0, 25])
def test_a_certificate_is_valid_for_one_to_24_months(alice: User, months: int) -> None:
    with pytest.raises(InvalidInput):
        credentials.add_generated_certificate(factories.make_app_registration(), actor=alice, months=months)


def test_retiring_deletes_the_secret_and_doing_it_twice_changes_nothing(alice: User) -> None:
    credential = factories.make_app_registration().credentials.get()
    credentials.retire(credential, actor=alice)
    first = AppCredential.objects.get().retired_at
    credentials.retire(credential, actor=alice)
    stored: Any = AppCredential.objects.get()
    assert (stored.secret, stored.private_key, stored.retired_at) == (None, None, first)
    assert AuditEvent.objects.filter(action="credential.retired").count() == 1
