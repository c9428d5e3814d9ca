"""Grants are checked against the policy before tokens are stored, and an approval allows a connection."""

from connections.models import AppRegistration, Approval, AuditEvent, Connection, User
from portal.sandbox.client import Control
from tests import factories
from tests.flows.conftest import Meet
from tests.services.governance.test_policy import rule
from tests.views.pages import assert_answer, text

FORM = {"kind": "authorization_code", "name": "Answers", "chosen": ["mail.send"], "reason": "Customers."}


def test_from_the_request_through_approval_to_the_first_token(
    person: Meet, alice: User, bob: User, app: AppRegistration
) -> None:
    rule(permissions={"Mail.Send": "approval"})
    member, admin = person(bob), person(alice)
    response = member.post(f"/connect/several/?app={app.pk}", **FORM)
    connection = Connection.objects.get()
    assert response["Location"] == f"/connections/{connection.pk}/", "nobody is sent to Microsoft"
    sent = member.post(f"/connections/{connection.pk}/sign-in/")
    assert sent["Location"] == f"/connections/{connection.pk}/"

    admin.post(f"/approvals/{Approval.objects.get().pk}/approve/")
    member.connect(member.post(f"/connections/{connection.pk}/sign-in/"), factories.ADA)
    connection = Connection.objects.get()
    assert connection.status == "active"
    assert "Mail.Send" in connection.granted
    assert "View approval" in text(member.get(f"/connections/{connection.pk}/"))


def test_forbidden_permissions_from_an_old_consent_store_no_token(
    person: Meet, bob: User, sandbox: Control, app: AppRegistration
) -> None:
    # Long ago, Ada consented to sending mail for another connection.
    sandbox.issue_grant(factories.CLIENT_ID, factories.ADA, ["offline_access", "Mail.Send", "Mail.Read"])
    rule(permissions={"Mail.Send": "forbidden"})
    member = person(bob)
    begun = member.post(f"/connect/several/?app={app.pk}", **FORM | {"chosen": ["mail.read"]})
    answer = member.connect(begun, factories.ADA)

    advice = "revoke the consent in Entra"
    assert_answer(answer, 403, "Mail.Send, which Microsoft also granted,", advice)
    stored = Connection.objects.get()
    assert (stored.status, stored.account_oid) == ("pending", "")
    assert (stored.status_code, stored.status_who) == ("policy_forbids", "it_admin")
    assert AuditEvent.objects.filter(action="connection.sign_in_failed", outcome="failed").count() == 1
    assert stored.refresh_token is None


def test_an_account_of_a_directory_that_is_not_registered_is_refused_after_the_sign_in(person: Meet, bob: User) -> None:
    app = factories.make_multitenant_app()
    factories.make_tenant()
    rule(other_tenants=False)
    member = person(bob)
    begun = member.post(f"/connect/several/?app={app.pk}", **FORM | {"chosen": ["mail.read"]})
    assert_answer(member.connect(begun, "barbara@fabrikam.example"), 403, "unregistered directories")
    assert Connection.objects.get().refresh_token is None
    assert AppRegistration.objects.get(pk=app.pk).rejected_at is None
