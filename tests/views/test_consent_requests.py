"""Pages about consent requests: who sees what, and what they may do there."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from connections.models import Connection, ConsentRequest, User
from connections.services.consent import requests
from portal.sandbox.client import Control
from tests import factories
from tests.views.pages import assert_answer, assert_hides, assert_shows, text


def test_an_admin_sees_what_is_needed_to_decide(admin: Client, bob: User, dave: User) -> None:
    consent_request = factories.make_consent_request(
        factories.make_connection(owner=bob),
        capabilities=["mail.read", "mail.send"],
        permissions="Mail.Read Mail.Send Sites.ReadWrite.All",
        reason="<b>Invoices</b>",
    )
    factories.make_consent_request(
        factories.make_connection(owner=dave, name="Theirs"), permissions="Mail.Read Mail.Send Sites.ReadWrite.All"
    )
    page = text(admin.get(f"/requests/{consent_request.pk}/"))
    assert_shows(
        page, "&lt;b&gt;Invoices&lt;/b&gt;", "Read mail</span>", "Additional permissions</span>", "1 similar request"
    )
    assert_shows(page, "It can change and delete data", "It can send as the signed-in person.")
    assert_shows(page, "Consent applies to everyone in the directory", "Approve and grant consent")
    assert "Decline similar requests too" in page


def test_auditors_read_and_requesters_withdraw(member: Client, auditor: Client, bob: User, sandbox: Control) -> None:
    consent_request = factories.make_consent_request(factories.make_connection(owner=bob))
    auditors, own = (text(client.get(f"/requests/{consent_request.pk}/")) for client in (auditor, member))
    assert "Withdraw request" in own
    for page in (auditors, own):
        assert_hides(page, "Decline", "Approve")
    assert "Withdraw request" not in auditors
    page = text(member.post(f"/requests/{consent_request.pk}/withdraw/", follow=True))
    assert_shows(page, "Request was withdrawn.", "Withdrawn")


def test_only_admins_see_the_link(admin: Client, bob: User, carol: User, sandbox: Control) -> None:
    consent_request = factories.make_consent_request(factories.make_connection(owner=bob))
    page = text(admin.post(f"/requests/{consent_request.pk}/approve/", follow=True))
    assert "/v2.0/adminconsent?" in page
    for person in (bob, carol):
        assert "adminconsent" not in text(factories.signed_in(person).get(f"/requests/{consent_request.pk}/")), person


def test_approving_twice_shows_the_same_link(alice: User, bob: User, sandbox: Control) -> None:
    consent_request = factories.make_consent_request(factories.make_connection(owner=bob))
    requests.approve(consent_request, actor=alice, now=timezone.now())
    other = factories.make_person("root", is_superuser=True)
    page = text(factories.signed_in(other).post(f"/requests/{consent_request.pk}/approve/", follow=True))
    assert "Already approved by Alice Admin" in page


def test_a_decision_that_comes_too_late_says_so(admin: Client, alice: User, bob: User, sandbox: Control) -> None:
    consent_request = factories.make_consent_request(factories.make_connection(owner=bob))
    requests.approve(consent_request, actor=alice, now=timezone.now())
    form = {"reason": "No", "seen": "asked"}
    page = text(admin.post(f"/requests/{consent_request.pk}/decline/", form, follow=True))
    assert_shows(page, "changed in the meantime", "Alice Admin")


def test_declining_needs_a_reason(admin: Client, bob: User) -> None:
    consent_request = factories.make_consent_request(factories.make_connection(owner=bob))
    answer = admin.post(f"/requests/{consent_request.pk}/decline/", {"reason": " ", "seen": "asked"})
    assert_answer(answer, 422, "Enter a reason. The requester will see it.")


@pytest.mark.parametrize(
    ("columns", "asks", "hints"),
    [
        ({"status": "consent_needed"}, True, False),
        ({"status": "pending", "status_code": "AADSTS90094"}, True, False),
        ({"status": "pending", "status_code": "consent_needed"}, True, False),
        ({"status": "pending", "status_code": "AADSTS50105"}, False, True),
        ({"status": "pending", "status_code": "AADSTS65004"}, False, True),
        ({"status": "pending", "status_code": ""}, False, True),
        ({"capabilities": ["mail.read", "directory.profiles"]}, True, False),
        ({}, False, False),
        ({"status": "reconnect_needed", "status_code": "AADSTS50173"}, False, False),
    ],
)
def test_the_page_offers_a_request_where_consent_is_missing(
    member: Client, bob: User, columns: dict[str, Any], asks: bool, hints: bool
) -> None:
    connection = factories.make_connection(owner=bob, **columns)
    page = text(member.get(f"/connections/{connection.pk}/"))
    assert ("Justification" in page) is asks
    assert ("Did Microsoft say" in page) is hints


def test_the_connections_page_tells_how_the_request_stands(alice: User, member: Client, bob: User) -> None:
    connection = factories.make_connection(owner=bob, status="consent_needed")
    consent_request = factories.make_consent_request(connection)
    page = text(member.get(f"/connections/{connection.pk}/"))
    assert "Awaiting IT admin" in page
    assert "Justification" not in page
    old = timezone.now() - timedelta(days=8)
    ConsentRequest.objects.filter(pk=consent_request.pk).update(
        state="declined", answer="No.", closed_at=timezone.now()
    )
    assert "Justification" in text(member.get(f"/connections/{connection.pk}/"))
    ConsentRequest.objects.filter(pk=consent_request.pk).update(closed_at=old)
    assert "Consent request</h2>" not in text(member.get(f"/connections/{connection.pk}/"))


def test_asking_leads_to_the_request_and_without_a_reason_back_to_the_form(member: Client, bob: User) -> None:
    connection = factories.make_connection(owner=bob, status="consent_needed")
    path = f"/connections/{connection.pk}/ask/"
    assert "Mail.Read" in text(member.get(path))
    assert member.post(path, {"reason": ""}).status_code == 422
    answer = member.post(path, {"reason": "Invoices"})
    consent_request = ConsentRequest.objects.get()
    assert answer["Location"] == f"/requests/{consent_request.pk}/"
    assert "You don't need to request the same permissions again" in text(member.get(path))


def test_a_request_outlives_its_connection_and_people(admin: Client, bob: User, connection: Connection) -> None:
    consent_request = factories.make_consent_request(connection, state="verified", closed_at=timezone.now())
    connection.delete()
    bob.delete()
    page = text(admin.get(f"/requests/{consent_request.pk}/"))
    assert_shows(page, "(removed)", "Requested by Bob Member", "(has left the portal)")
