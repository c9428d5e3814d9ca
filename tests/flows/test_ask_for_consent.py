"""From "Need admin approval" to a working connection, with the help of a directory administrator."""

from urllib.parse import parse_qs, urlsplit

from django.core import mail
from django.utils import timezone

from connections.models import Connection, ConsentLink, ConsentRequest, User
from connections.services.notifications import outbox
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories
from tests.flows.conftest import Meet, Person
from tests.views.pages import assert_shows

KATHERINE = "admin@contoso.example"


def sent_away(sandbox: Control, member: Person) -> str:
    """Let bob connect while Microsoft requires an admin, and return the portal's page after that."""
    sandbox.set_directory(seed.CONTOSO, user_consent=False)
    sandbox.withdraw_consent(client_id=factories.CLIENT_ID, tenant=seed.CONTOSO)
    app = factories.make_app_registration()
    form = {"kind": "authorization_code", "name": "Invoices inbox", "chosen": ["mail.read"]}
    member.follow_to_microsoft(member.post(f"/connect/several/?app={app.pk}", **form))
    assert "Need admin approval" in member.microsoft.sign_in(factories.ADA).text
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
    assert "Only an administrator can grant the requested permissions" in page
    assert "You cancelled" not in page
    assert_shows(page, "Request admin consent", '<code class="value">Mail.Read</code>')

    answer = member.post(f"/connections/{connection.pk}/ask/", reason="For the month's end")
    consent_request = ConsentRequest.objects.get()
    assert answer["Location"] == f"/requests/{consent_request.pk}/"
    assert posts("alice@example.org") == ["Bob Member requests consent: Invoices inbox"]

    home = admin.get("/").content.decode()
    assert_shows(home, "Needs your attention", '1<span class="visually-hidden"> open</span>')
    admin.follow_to_microsoft(admin.post(f"/requests/{consent_request.pk}/approve/", go="1"))
    admin.consent(KATHERINE)
    assert "Microsoft reports that consent is granted." in admin.return_to_portal().content.decode()
    assert factories.reloaded(consent_request).state == ConsentRequest.State.GRANTED, "a callback proves nothing"
    assert posts("bob@example.org")[-1] == "Consent reported: Invoices inbox"

    assert "Sign in now" in member.get("/").content.decode()
    back = member.post(f"/connections/{connection.pk}/sign-in/")
    assert parse_qs(urlsplit(back["Location"]).query).get("prompt") != ["consent"]
    member.microsoft.session.cookies.clear()
    member.follow_to_microsoft(back)
    member.microsoft.sign_in(factories.ADA)
    assert member.microsoft.page.status_code == 302, "nobody is asked for consent any more"
    member.return_to_portal()
    connection.refresh_from_db()
    assert (connection.status, factories.reloaded(consent_request).state) == ("active", ConsentRequest.State.VERIFIED)
    assert ConsentLink.objects.get().state == ConsentLink.State.VERIFIED
    assert "Your consent requests" not in member.get("/").content.decode()


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
    assert "View request" in member.return_to_portal().content.decode()
    assert factories.reloaded(consent_request).state == ConsentRequest.State.GRANTED
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
