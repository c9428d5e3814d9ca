"""Grants are checked against the policy before tokens are stored, and an approval allows a connection."""

import pytest

from connections.models import AppRegistration, Approval, AuditEvent, Connection, User
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories
from tests.flows.conftest import Meet
from tests.services.governance.test_policy import rule

pytestmark = pytest.mark.django_db

FORM = {"kind": "authorization_code", "name": "Answers", "chosen": ["mail.send"], "reason": "Customers."}


def page(answer: object) -> str:
    return " ".join(answer.content.decode().split())  # type: ignore[attr-defined]


def test_from_the_request_through_approval_to_the_first_token(person: Meet, alice: User, bob: User) -> None:
    app = factories.make_app_registration()
    rule(permissions={"Mail.Send": "approval"})
    member, admin = person(bob), person(alice)
    response = member.post(f"/connections/add/{app.pk}/", **FORM)
    connection = Connection.objects.get()
    assert response["Location"] == f"/connections/{connection.pk}/", "nobody is sent to Microsoft"
    sent = member.post(f"/connections/{connection.pk}/sign-in/")
    assert sent["Location"] == f"/connections/{connection.pk}/"

    admin.post(f"/approvals/{Approval.objects.get().pk}/approve/")
    member.connect(member.post(f"/connections/{connection.pk}/sign-in/"), factories.ADA)
    connection = Connection.objects.get()
    assert connection.status == "active"
    assert "Mail.Send" in connection.granted
    assert "What was approved" in page(member.get(f"/connections/{connection.pk}/"))


def test_forbidden_permissions_from_an_old_consent_store_no_token(person: Meet, bob: User, sandbox: Control) -> None:
    app = factories.make_app_registration()
    # Long ago, Ada consented to sending mail for another connection.
    sandbox.issue_grant(factories.CLIENT_ID, factories.ADA, ["offline_access", "Mail.Send", "Mail.Read"])
    rule(permissions={"Mail.Send": "forbidden"})
    member = person(bob)
    begun = member.post(f"/connections/add/{app.pk}/", **FORM | {"chosen": ["mail.read"]})
    answer = member.connect(begun, factories.ADA)

    assert answer.status_code == 403
    text = page(answer)
    assert "Mail.Send, which Microsoft granted as well, is forbidden" in text
    assert "take that consent back in Entra" in text
    stored = Connection.objects.get()
    assert (stored.status, stored.account_oid) == ("pending", "")
    assert (stored.status_code, stored.status_who) == ("policy_forbids", "it_admin")
    assert AuditEvent.objects.filter(action="connection.sign_in_failed", outcome="failed").count() == 1
    assert stored.refresh_token is None


def test_an_account_of_a_directory_that_is_not_registered_is_refused_after_the_sign_in(person: Meet, bob: User) -> None:
    tenant = factories.make_tenant(name="Anybody", directory_id="organizations", tid="")
    factories.make_tenant()
    app = factories.make_app_registration(
        tenant=tenant, client_id=seed.MULTI_APP, secret=seed.MULTI_SECRET, audience="multi", allows_app_only=False
    )
    rule(other_tenants=False)
    member = person(bob)
    begun = member.post(f"/connections/add/{app.pk}/", **FORM | {"chosen": ["mail.read"]})
    answer = member.connect(begun, "barbara@fabrikam.example")
    assert answer.status_code == 403
    assert "directories that are not registered here" in page(answer)
    assert Connection.objects.get().refresh_token is None
    assert AppRegistration.objects.get(pk=app.pk).rejected_at is None
