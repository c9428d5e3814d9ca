"""A member connects an account: success, and every way it can fail."""

from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.utils import timezone
from social_django.models import UserSocialAuth

from connections.models import AppRegistration, AuditEvent, Connection, User
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories
from tests.flows.conftest import Meet, Person
from tests.views.pages import assert_answer, assert_shows

GRACE = "grace@contoso.example"


def start(member: Person, **fields: object) -> Any:
    app = AppRegistration.objects.first() or factories.make_app_registration()
    data = {"kind": "authorization_code", "name": "Invoices inbox", "chosen": ["mail.read"], **fields}
    return member.post(f"/connect/several/?app={app.pk}", **data)


def only() -> Connection:
    return Connection.objects.get()


def test_a_member_connects_and_the_connection_is_active(person: Meet, bob: User) -> None:
    member = person(bob)
    answer = member.connect(start(member), factories.ADA)

    connection = only()
    assert (answer.status_code, answer["Location"]) == (302, f"/connections/{connection.pk}/")
    assert (connection.status, connection.owner) == ("active", bob)
    assert (connection.account_tid, connection.account_oid) == (factories.DIRECTORY_ID, factories.ADA_ID)
    assert connection.account_username == factories.ADA
    assert connection.granted >= {"Mail.Read"}
    assert set(connection.scopes.split()) == {"Mail.Read", "offline_access"}
    assert connection.refresh_token
    assert connection.access_token
    assert connection.refresh_after is not None
    assert connection.refresh_after < timezone.now() + timedelta(hours=1)
    assert not UserSocialAuth.objects.exists(), "nothing of a connection is kept by social-auth"
    page = member.get(answer["Location"]).content.decode()
    assert_shows(page, "ada@contoso.example", "Active")
    for secret in (connection.refresh_token, connection.access_token):
        assert secret not in page
    actions = list(AuditEvent.objects.order_by("pk").values_list("action", flat=True))
    assert actions == ["connection.created", "connection.sign_in_started", "connection.connected"]


def test_the_request_has_minimal_scopes_pkce_state_and_nonce(person: Meet, bob: User, sandbox: Control) -> None:
    answer = start(person(bob))
    query = {name: values[0] for name, values in parse_qs(urlsplit(answer["Location"]).query).items()}
    assert query["code_challenge_method"] == "S256"
    assert len(query["state"]) >= 32
    assert len(query["nonce"]) >= 32
    assert query["prompt"] == "select_account"
    assert query["redirect_uri"] == "http://localhost:8000/auth/complete/microsoft-connect/"
    graph = sandbox.base_url
    assert set(query["scope"].split()) == {"openid", "offline_access", "profile", f"{graph}/Mail.Read"}


def test_shared_mailboxes_are_probed_with_the_fresh_token(person: Meet, bob: User) -> None:
    factories.make_mailbox()
    member = person(bob)
    begun = start(
        member,
        chosen=["mail.read", "shared_mailbox.trigger"],
        mailboxes="Support@contoso.example\nsales@contoso.example",
    )
    answer = member.connect(begun, factories.ADA)

    states = {mailbox_access.mailbox.address: mailbox_access.state for mailbox_access in only().mailbox_accesses.all()}
    assert states == {"support@contoso.example": "reachable", "sales@contoso.example": "unreachable"}
    assert "sales@contoso.example" in member.get(answer["Location"]).content.decode()


def test_cancelling_is_no_error_and_leaves_a_pending_connection(person: Meet, bob: User) -> None:
    member = person(bob)
    member.follow_to_microsoft(start(member))
    member.microsoft.sign_in(factories.ADA)
    member.microsoft.submit("cancel", why="consent")
    answer = member.return_to_portal()

    assert "You cancelled the sign-in at Microsoft" in answer.content.decode()
    assert only().status == "pending"
    assert AuditEvent.objects.filter(action="connection.sign_in_failed").count() == 1


def test_user_consent_switched_off_says_that_an_admin_must_consent(person: Meet, bob: User, sandbox: Control) -> None:
    sandbox.set_directory(seed.CONTOSO, user_consent=False)
    member = person(bob)
    member.follow_to_microsoft(start(member))
    assert "AADSTS90094" in member.microsoft.sign_in(factories.ADA).text
    member.microsoft.submit("cancel", why="approval")
    answer = member.return_to_portal()

    text = answer.content.decode()
    assert only().status == "pending"
    assert "admin" in text.lower()


def test_an_account_of_another_directory_is_refused_by_name(person: Meet, bob: User) -> None:
    factories.make_multitenant_app(tid=factories.DIRECTORY_ID)
    member = person(bob)
    assert_answer(member.connect(start(member), "barbara@fabrikam.example"), 400, "another directory")
    assert only().status == "pending"
    assert only().refresh_token is None


def test_without_a_refresh_token_nothing_is_stored(person: Meet, bob: User, monkeypatch: pytest.MonkeyPatch) -> None:
    from connections.services.connections import sign_in

    monkeypatch.setattr(
        sign_in, "scopes_to_request", lambda connection, resource="": ("openid", "profile", "Mail.Read")
    )
    member = person(bob)
    answer = member.connect(start(member), factories.ADA)

    assert_shows(answer.content.decode(), "no refresh token", "offline_access")
    connection = only()
    assert connection.status == "pending"
    assert connection.access_token is None


def test_a_replayed_callback_changes_nothing(person: Meet, bob: User) -> None:
    member = person(bob)
    member.connect(start(member), factories.ADA)
    before = only()

    assert_answer(member.return_to_portal(), 400, "This sign-in was already used")
    after = only()
    assert (after.token_version, after.status) == (before.token_version, "active")


def test_a_callback_in_another_persons_browser_is_refused(person: Meet, bob: User, dave: User) -> None:
    member, thief = person(bob), person(dave)
    member.follow_to_microsoft(start(member))
    member.consent(factories.ADA)
    thief.microsoft = member.microsoft
    answer = thief.return_to_portal()

    assert answer.status_code == 400
    assert only().status == "pending"


def test_a_made_up_error_link_touches_nothing(person: Meet, bob: User) -> None:
    factories.make_connection()
    answer = person(bob).get("/auth/complete/microsoft-connect/?error=access_denied&state=invented")
    assert answer.status_code == 400
    assert only().status == "active"
    assert not AuditEvent.objects.filter(target_type="Connection").exists()


def test_two_sign_ins_in_two_tabs_do_not_disturb_each_other(person: Meet, bob: User) -> None:
    member = person(bob)
    first = start(member)
    second = start(member, name="Second", chosen=["calendar.events"])
    member.connect(second, GRACE)
    member.microsoft.session.cookies.clear()
    member.connect(first, factories.ADA)

    accounts = {connection.name: connection.account_username for connection in Connection.objects.all()}
    assert accounts == {"Invoices inbox": factories.ADA, "Second": GRACE}


def test_a_sign_in_that_never_returned_is_explained(person: Meet, bob: User) -> None:
    member = person(bob)
    start(member)
    Connection.objects.update(sign_in_started_at=timezone.now() - timedelta(minutes=20))

    page = member.get(f"/connections/{only().pk}/").content.decode()
    assert_shows(page, "wasn't completed", "http://localhost:8000/auth/complete/microsoft-connect/", "AADSTS50011")


def test_an_outage_during_the_code_exchange_flags_nothing(person: Meet, bob: User, sandbox: Control) -> None:
    member = person(bob)
    member.follow_to_microsoft(start(member))
    member.consent(factories.ADA)
    sandbox.weather("unavailable", where="token")
    answer = member.return_to_portal()

    assert answer.status_code == 503
    assert only().status == "pending"
    assert only().app_registration.rejected_at is None


def test_an_expired_secret_found_while_connecting_flags_the_app(person: Meet, bob: User, sandbox: Control) -> None:
    member = person(bob)
    member.follow_to_microsoft(start(member))
    member.consent(factories.ADA)
    sandbox.expire_secret(factories.CLIENT_ID, seed.CONNECTIONS_SECRET_ID)

    assert_answer(member.return_to_portal(), 409, "expired")
    assert only().app_registration.rejected_code == "AADSTS7000222"


def test_a_certificate_app_registration_connects_people_too(person: Meet, bob: User, sandbox: Control) -> None:
    from connections.services.registry import credentials

    app = factories.make_app_registration(secret=None)
    certificate = credentials.add_generated_certificate(app, actor=None)
    sandbox.add_certificate(factories.CLIENT_ID, certificate.certificate)
    member = person(bob)
    member.connect(start(member), factories.ADA)
    assert only().status == "active"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"name": ""}, "This field is required."),
        ({"name": "x" * 121}, "at most 120 characters"),
        ({"chosen": []}, "Choose at least one capability"),
        ({"chosen": ["no.such.thing"]}, "Select a valid choice"),
        ({"extra_scopes": "Mail.Read; DROP TABLE"}, "DROP"),
        ({"mailboxes": "support at contoso"}, "isn&#x27;t an email address"),
        ({"kind": "client_credentials"}, "Select a valid choice"),
    ],
)
def test_bad_input_is_answered_next_to_the_field_and_nothing_typed_is_lost(
    person: Meet, bob: User, fields: dict[str, object], sentence: str
) -> None:
    answer = start(person(bob), **{"mailboxes": "", **fields})
    page = answer.content.decode()
    assert answer.status_code == 422
    assert sentence in page
    assert not Connection.objects.exists()
    if "name" not in fields:
        assert "Invoices inbox" in page


def test_the_same_name_twice_is_refused_next_to_the_name(person: Meet, bob: User) -> None:
    factories.make_connection(name="Invoices inbox")
    assert_answer(start(person(bob)), 422, "You already have a connection named")
