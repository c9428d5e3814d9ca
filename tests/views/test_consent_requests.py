"""Pages about consent requests: who sees what, and what they may do there."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection as database
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from connections.models import Connection, ConsentRequest, User
from connections.services.consent import requests
from portal.sandbox.client import Control
from tests import factories
from tests.views.pages import SignIn, assert_hides, assert_shows, text


def test_who_sees_which_requests_listed(
    signed_in: SignIn, alice: User, bob: User, carol: User, stranger: Client, dave: User
) -> None:
    factories.make_consent_request(factories.make_connection(owner=bob))
    for person, sees in ((alice, True), (bob, True), (carol, True), (dave, False)):
        page = text(signed_in(person).get("/requests/"))
        assert ("Invoices" in page) is sees, person
    assert "You have asked for nothing" in text(stranger.get("/requests/"))


def test_the_list_is_filtered_in_a_fixed_number_of_queries(admin: Client, bob: User) -> None:
    def make(count: int) -> None:
        for _ in range(count):
            connection = factories.make_connection(name=f"Flow {Connection.objects.count()}", owner=bob)
            factories.make_consent_request(connection)

    make(2)
    with CaptureQueriesContext(database) as few:
        admin.get("/requests/")
    make(30)
    with CaptureQueriesContext(database) as many:
        page = text(admin.get("/requests/"))
    assert len(many) == len(few)
    assert page.count("Waits for an IT admin") >= 32
    ConsentRequest.objects.filter(connection_name="Flow 3").update(state="declined", closed_at=timezone.now())
    assert "Flow 3<" not in text(admin.get("/requests/?waits=it"))
    assert "Flow 3<" in text(admin.get("/requests/?state=declined"))
    assert "Nothing matches" in text(admin.get("/requests/?q=nobody"))


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
    for expected in (
        "&lt;b&gt;Invoices&lt;/b&gt;",
        "Read mail</span>",
        "Asked for by name",
        "1 other",
        "It can change and delete data",
        "It can send in the person&#x27;s name.",
        "Consent counts for everybody in the directory",
        "Approve and grant it at Microsoft",
        "Answer the others who ask for the same alike",
    ):
        assert expected in page, expected


def test_auditors_read_and_the_requester_withdraws(
    signed_in: SignIn, member: Client, bob: User, carol: User, sandbox: Control
) -> None:
    consent_request = factories.make_consent_request(factories.make_connection(owner=bob))
    auditors, own = (text(signed_in(person).get(f"/requests/{consent_request.pk}/")) for person in (carol, bob))
    assert "Take the request back" in own
    for page in (auditors, own):
        assert_hides(page, "Decline", "Approve")
    assert "Take the request back" not in auditors
    page = text(member.post(f"/requests/{consent_request.pk}/withdraw/", follow=True))
    assert_shows(page, "You have taken the request back.", "Withdrawn")


def test_only_admins_see_the_link(signed_in: SignIn, admin: Client, bob: User, carol: User, sandbox: Control) -> None:
    consent_request = factories.make_consent_request(factories.make_connection(owner=bob))
    page = text(admin.post(f"/requests/{consent_request.pk}/approve/", follow=True))
    assert "/v2.0/adminconsent?" in page
    for person in (bob, carol):
        assert "adminconsent" not in text(signed_in(person).get(f"/requests/{consent_request.pk}/")), person


def test_approving_twice_shows_the_same_link(signed_in: SignIn, alice: User, bob: User, sandbox: Control) -> None:
    consent_request = factories.make_consent_request(factories.make_connection(owner=bob))
    requests.approve(consent_request, actor=alice, now=timezone.now())
    other = factories.make_person("root", is_superuser=True)
    page = text(signed_in(other).post(f"/requests/{consent_request.pk}/approve/", follow=True))
    assert "Alice Admin has approved it already" in page


def test_a_decision_that_comes_too_late_says_so(admin: Client, alice: User, bob: User, sandbox: Control) -> None:
    consent_request = factories.make_consent_request(factories.make_connection(owner=bob))
    requests.approve(consent_request, actor=alice, now=timezone.now())
    form = {"reason": "No", "seen": "asked"}
    page = text(admin.post(f"/requests/{consent_request.pk}/decline/", form, follow=True))
    assert_shows(page, "changed in the meantime", "Alice Admin")


def test_declining_needs_a_reason(admin: Client, bob: User) -> None:
    consent_request = factories.make_consent_request(factories.make_connection(owner=bob))
    answer = admin.post(f"/requests/{consent_request.pk}/decline/", {"reason": " ", "seen": "asked"})
    assert answer.status_code == 422
    assert "so that they know what to do instead" in text(answer)


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
    assert ("What do you need it for?" in page) is asks
    assert ("Did Microsoft say" in page) is hints


def test_the_connections_page_tells_how_the_request_stands(alice: User, member: Client, bob: User) -> None:
    connection = factories.make_connection(owner=bob, status="consent_needed")
    consent_request = factories.make_consent_request(connection)
    page = text(member.get(f"/connections/{connection.pk}/"))
    assert "Waits for an IT admin" in page
    assert "What do you need it for?" not in page
    old = timezone.now() - timedelta(days=8)
    ConsentRequest.objects.filter(pk=consent_request.pk).update(
        state="declined", answer="No.", closed_at=timezone.now()
    )
    assert "What do you need it for?" in text(member.get(f"/connections/{connection.pk}/"))
    ConsentRequest.objects.filter(pk=consent_request.pk).update(closed_at=old)
    assert "Request for consent" not in text(member.get(f"/connections/{connection.pk}/"))


def test_asking_leads_to_the_request_and_without_a_reason_back_to_the_form(member: Client, bob: User) -> None:
    connection = factories.make_connection(owner=bob, status="consent_needed")
    path = f"/connections/{connection.pk}/ask/"
    assert "Mail.Read" in text(member.get(path))
    assert member.post(path, {"reason": ""}).status_code == 422
    answer = member.post(path, {"reason": "Invoices"})
    consent_request = ConsentRequest.objects.get()
    assert answer["Location"] == f"/requests/{consent_request.pk}/"
    assert "Asked already" in text(member.get(path))


def test_a_request_outlives_its_connection_and_people(admin: Client, bob: User) -> None:
    connection = factories.make_connection(owner=bob)
    consent_request = factories.make_consent_request(connection, state="verified", closed_at=timezone.now())
    connection.delete()
    bob.delete()
    page = text(admin.get(f"/requests/{consent_request.pk}/"))
    assert_shows(page, "(removed)", "Asked by Bob Member", "(has left the portal)")
