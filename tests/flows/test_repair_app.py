"""An expired app secret flags the app registration but no connections, and one new secret fixes them all."""

from datetime import timedelta

from django.utils import timezone

from connections.models import AppRegistration, AuditEvent, Connection, User
from connections.services.tokens import scheduler
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories
from tests.flows.conftest import Meet


def test_an_expired_secret_is_shown_to_the_admin_and_a_new_one_fixes_it(
    person: Meet, alice: User, bob: User, sandbox: Control
) -> None:
    now = timezone.now()
    grants = sandbox.issue_grant(factories.CLIENT_ID, factories.ADA, ["Mail.Read", "offline_access"], count=4)
    for number, token in enumerate(grants["refresh_tokens"]):
        factories.make_connection(name=f"Inbox {number}", refresh_token=token, refresh_after=now)
    untouched = list(Connection.objects.order_by("pk").values_list("status", "status_since", "token_version"))
    sandbox.expire_secret(factories.CLIENT_ID, seed.CONNECTIONS_SECRET_ID)

    scheduler.sweep(now=now)

    app = AppRegistration.objects.get()
    assert app.rejected_code == "AADSTS7000222"
    assert list(Connection.objects.order_by("pk").values_list("status", "status_since", "token_version")) == untouched
    admin, member = person(alice), person(bob)
    assert "expired" in admin.get("/").content.decode()
    assert "App credential rejected</span>" in member.get("/connections/").content.decode()
    assert AuditEvent.objects.filter(action__startswith="connection.").count() == 0

    value = sandbox.add_secret(factories.CLIENT_ID)["value"]
    admin.post(f"/apps/{app.pk}/credentials/add/", kind="secret", secret=value, expires_at="2099-01-31", months="12")
    assert factories.reloaded(app).rejected_at is None
    assert scheduler.sweep(now=timezone.now() + timedelta(seconds=1)).renewed == 4
    assert "App credential rejected</span>" not in member.get("/connections/").content.decode()
