"""From "Need admin approval" to a working connection, with the help of a directory administrator."""

from urllib.parse import parse_qs, urlsplit

import pytest
from django.core import mail
from django.utils import timezone

from connections.models import Connection, ConsentLink, ConsentRequest, User
from connections.services.notifications import outbox
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories
from tests.flows.conftest import Meet, Person

pytestmark = pytest.mark.django_db

KATHERINE = "admin@contoso.example"


def sent_away(sandbox: Control, member: Person) -> str:
    """Let bob connect while Microsoft requires an admin, and return the portal's page after that."""
    sandbox.set_directory(seed.CONTOSO, user_consent=False)
    sandbox.withdraw_consent(client_id=factories.CLIENT_ID, tenant=seed.CONTOSO)
    app = factories.make_app_registration()
    form = {"kind": "authorization_code", "name": "Invoices inbox", "chosen": ["mail.read"]}
    member.follow_to_microsoft(member.post(f"/connections/add/{app.pk}/", **form))
    page = member.microsoft.sign_in(factories.ADA)
    assert "Need admin approval" in page.text
    member.microsoft.submit("cancel", why="approval")
    return str(member.return_to_portal().content.decode())


def posts(address: str) -> list[str]:
    outbox.deliver_due(timezone.now())
    return [str(sent.subject) for sent in mail.outbox if address in sent.to]


def test_a_member_requests_consent_an_admin_grants_it_and_a_token_proves_it(
    person: Meet, sandbox: Control, alice: User, bob: User
) -> None:
    member, admin = person(bob), person(alice)
    page = sent_away(sandbox, member)
    connection = Connection.objects.get()
    assert "can only be granted by an administrator" in page
    assert "You cancelled" not in page
    assert "Ask an IT admin" in page
    assert '<code class="value">Mail.Read</code>' in page

    answer = member.post(f"/connections/{connection.pk}/ask/", reason="For the month's end")
    consent_request = ConsentRequest.objects.get()
    assert answer["Location"] == f"/requests/{consent_request.pk}/"
    assert posts("alice@example.org") == ["Bob Member asks for consent: Invoices inbox"]

    home = admin.get("/").content.decode()
    assert "What waits for you" in home
    assert '1<span class="visually-hidden"> waiting</span>' in home
    admin.follow_to_microsoft(admin.post(f"/requests/{consent_request.pk}/approve/", go="1"))
    admin.consent(KATHERINE)
    assert "Thank you" in admin.return_to_portal().content.decode()
    consent_request.refresh_from_db()
    assert consent_request.state == ConsentRequest.State.GRANTED, "a callback proves nothing"
    assert posts("bob@example.org")[-1] == "Consent is granted: Invoices inbox"

    assert "Sign in now" in member.get("/").content.decode()
    back = member.post(f"/connections/{connection.pk}/sign-in/")
    assert parse_qs(urlsplit(back["Location"]).query).get("prompt") != ["consent"]
    member.microsoft.session.cookies.clear()
    member.follow_to_microsoft(back)
    member.microsoft.sign_in(factories.ADA)
    assert member.microsoft.page.status_code == 302, "nobody is asked for consent any more"
    member.return_to_portal()
    connection.refresh_from_db()
    consent_request.refresh_from_db()
    assert (connection.status, consent_request.state) == ("active", ConsentRequest.State.VERIFIED)
    assert ConsentLink.objects.get().state == ConsentLink.State.VERIFIED
    assert "What you asked for" not in member.get("/").content.decode()


def test_a_callback_that_lies_leaves_the_request_open_and_says_what_is_missing(
    person: Meet, sandbox: Control, alice: User, bob: User
) -> None:
    member, admin = person(bob), person(alice)
    sent_away(sandbox, member)
    connection = Connection.objects.get()
    member.post(f"/connections/{connection.pk}/ask/", reason="For the month's end")
    consent_request = ConsentRequest.objects.get()
    sandbox.consent_lie("nothing")
    admin.follow_to_microsoft(admin.post(f"/requests/{consent_request.pk}/approve/", go="1"))
    admin.consent(KATHERINE)
    admin.return_to_portal()
    sandbox.grant_consent(client_id=factories.CLIENT_ID, tenant=seed.CONTOSO, scopes=["User.Read", "openid", "profile"])
    member.microsoft.session.cookies.clear()
    member.follow_to_microsoft(member.post(f"/connections/{connection.pk}/sign-in/"))
    member.microsoft.sign_in(factories.ADA)
    member.microsoft.submit("cancel", why="approval")
    assert "Look at the request" in member.return_to_portal().content.decode()
    consent_request.refresh_from_db()
    assert consent_request.state == ConsentRequest.State.GRANTED
    assert ConsentRequest.objects.count() == 1


def test_a_declined_member_reads_the_reason(person: Meet, sandbox: Control, alice: User, bob: User) -> None:
    member, admin = person(bob), person(alice)
    sent_away(sandbox, member)
    connection = Connection.objects.get()
    member.post(f"/connections/{connection.pk}/ask/", reason="For the month's end")
    consent_request = ConsentRequest.objects.get()
    admin.post(f"/requests/{consent_request.pk}/decline/", reason="Use the shared archive.", seen="asked")
    for page in ("/", f"/connections/{connection.pk}/", f"/requests/{consent_request.pk}/"):
        assert "Use the shared archive." in member.get(page).content.decode(), page
    assert posts("bob@example.org") == ["Declined: consent for Invoices inbox"]
    assert "Use the shared archive." in mail.outbox[-1].body
