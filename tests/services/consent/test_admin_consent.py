"""Admin consent: the link, the callback, which proves nothing, and the token, which proves consent."""

from datetime import timedelta
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from django.utils import timezone

from connections.errors import InvalidInput, MicrosoftUnavailable, NotAllowed, SignInExpired
from connections.models import AppRegistration, AuditEvent, ConsentLink, User
from connections.services.consent import admin_consent
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories

pytestmark = pytest.mark.usefixtures("sandbox")

State = ConsentLink.State
CANCELLED = "AADSTS65004: The resource owner or authorization server denied the request."


def robots(**overrides: object) -> AppRegistration:
    """The sandbox's app-only application, which needs Mail.Read and User.Read.All."""
    values: dict[str, object] = {
        "name": "Contoso Robots",
        "client_id": factories.ROBOTS_CLIENT_ID,
        "secret": factories.ROBOTS_CLIENT_SECRET,
        "allows_delegated": False,
        "default_capabilities": ["mail.read"],
    }
    return factories.make_app_registration(**(values | overrides))  # type: ignore[arg-type]


def delegated(**overrides: object) -> AppRegistration:
    return factories.make_app_registration(allows_app_only=False, default_capabilities=["mail.read"], **overrides)  # type: ignore[arg-type]


def query(url: str) -> dict[str, str]:
    return {key: value for key, (value,) in parse_qs(urlsplit(url).query).items()}


def came_back(url: str, **answer: str) -> str:
    return urlencode(
        {**(answer or {"admin_consent": "True", "tenant": factories.DIRECTORY_ID}), "state": query(url)["state"]}
    )


def answered_link(alice: User, app: AppRegistration, **answer: str) -> ConsentLink:
    _, url = admin_consent.start(app, actor=alice)
    return admin_consent.record_callback(came_back(url, **answer), actor=alice, now=timezone.now())


def withdraw(sandbox: Control) -> None:
    sandbox.withdraw_consent(client_id=factories.ROBOTS_CLIENT_ID, tenant=factories.DIRECTORY_ID)


def grant(sandbox: Control, *roles: str) -> None:
    sandbox.grant_consent(client_id=factories.ROBOTS_CLIENT_ID, tenant=factories.DIRECTORY_ID, roles=list(roles))


def test_the_link_leads_to_the_directory_and_back(alice: User, settings: object) -> None:
    link, url = admin_consent.start(robots(), actor=alice)
    assert f"/{factories.DIRECTORY_ID}/v2.0/adminconsent?" in url
    parameters = query(url)
    assert parameters["client_id"] == factories.ROBOTS_CLIENT_ID
    assert parameters["redirect_uri"].endswith("/consent/callback/")
    assert parameters["scope"].endswith("/.default")
    assert (link.state, link.requested_by) == (State.OPEN, alice)


def test_the_state_is_not_stored_but_the_link_can_be_shown_again(alice: User) -> None:
    link, url = admin_consent.start(robots(), actor=alice)
    state = query(url)["state"]
    assert len(state) == 64
    assert state not in str(ConsentLink.objects.values().get())
    assert state not in str(list(AuditEvent.objects.values()))
    assert admin_consent.consent_url(ConsentLink.objects.get(), now=timezone.now()) == url
    assert admin_consent.consent_url(link, now=timezone.now() + timedelta(days=8)) == ""


def test_a_link_is_not_shown_after_the_secret_key_has_changed(alice: User, settings: object) -> None:
    link, _ = admin_consent.start(robots(), actor=alice)
    settings.SECRET_KEY = "another key, as long as it should be, for this test"  # type: ignore[attr-defined]
    assert admin_consent.consent_url(link, now=timezone.now()) == ""


def test_starting_twice_returns_the_same_link(alice: User) -> None:
    app = robots()
    first, url = admin_consent.start(app, actor=alice)
    assert admin_consent.start(app, actor=alice) == (first, url)
    assert AuditEvent.objects.filter(action="consent.requested").count() == 1


def test_only_an_it_admin_creates_a_link(bob: User, carol: User) -> None:
    app = robots()
    for person in (bob, carol):
        with pytest.raises(NotAllowed):
            admin_consent.start(app, actor=person)
    assert not ConsentLink.objects.exists()


def test_another_directory_can_consent_to_a_multitenant_application_only(alice: User) -> None:
    app = robots()
    with pytest.raises(InvalidInput) as refused:
        admin_consent.start(app, directory_id=seed.FABRIKAM, actor=alice)
    assert refused.value.field == "directory_id"
    app.audience = AppRegistration.Audience.MULTI
    _, url = admin_consent.start(app, directory_id=seed.FABRIKAM, actor=alice)
    assert f"/{seed.FABRIKAM}/" in url


def test_a_positive_callback_is_recorded_as_a_claim(alice: User, dave: User) -> None:
    _, url = admin_consent.start(robots(), actor=alice)
    link = admin_consent.record_callback(came_back(url), actor=dave, now=timezone.now())
    link.refresh_from_db()
    assert (link.state, link.verified_at) == (State.GRANTED, None)
    event = AuditEvent.objects.get(action="consent.granted")
    assert (event.actor, event.target_type, event.target_name) == (dave, "AppRegistration", "Contoso Robots")


@pytest.mark.parametrize(
    "answer",
    [
        {"admin_consent": "True", "error": "consent_required", "error_description": CANCELLED},
        {"error": "permission_denied", "error_description": "The admin canceled the request"},
    ],
)
def test_cancelling_in_either_style_is_declined(alice: User, answer: dict[str, str]) -> None:
    answered_link(alice, robots(), **answer)
    link = ConsentLink.objects.get()
    assert link.state == State.DECLINED
    assert "Nothing was granted" in link.cause
    assert AuditEvent.objects.get(action="consent.declined").outcome == AuditEvent.Outcome.FAILED


def test_a_person_who_may_not_consent_learns_who_may(alice: User) -> None:
    description = "AADSTS90094: Admin consent is required."
    answered_link(alice, robots(), error="access_denied", error_description=description)
    link = ConsentLink.objects.get()
    assert (link.state, link.code) == (State.FAILED, "AADSTS90094")
    assert "can grant consent for the directory" in link.action


def test_an_answer_without_a_sign_in_is_recorded_under_the_name_of_the_link(alice: User) -> None:
    _, url = admin_consent.start(robots(), actor=alice)
    admin_consent.record_callback(came_back(url), actor=None, now=timezone.now())
    link = ConsentLink.objects.get()
    assert (link.state, link.reported_tid) == (State.GRANTED, factories.DIRECTORY_ID)
    event = AuditEvent.objects.get(action="consent.granted")
    assert event.actor is None
    assert event.actor_name.startswith("Consent link made by Alice Admin")


def test_an_outage_at_microsoft_leaves_the_link_usable(alice: User) -> None:
    assert answered_link(alice, robots(), error="server_error").cause
    assert ConsentLink.objects.get().state == State.OPEN


def test_a_link_works_once_and_for_seven_days(alice: User) -> None:
    _, url = admin_consent.start(robots(), actor=alice)
    with pytest.raises(SignInExpired):
        admin_consent.record_callback(came_back(url), actor=alice, now=timezone.now() + timedelta(days=7, seconds=1))
    admin_consent.record_callback(came_back(url), actor=alice, now=timezone.now())
    with pytest.raises(SignInExpired, match="already used"):
        admin_consent.record_callback(came_back(url, error="permission_denied"), actor=alice, now=timezone.now())
    assert ConsentLink.objects.get().state == State.GRANTED


@pytest.mark.parametrize("forged", ["", "state=", "state=x&admin_consent=True", "admin_consent=True&tenant=t"])
def test_a_forged_callback_changes_nothing(alice: User, forged: str) -> None:
    admin_consent.start(robots(), actor=alice)
    with pytest.raises(SignInExpired):
        admin_consent.record_callback(forged, actor=alice, now=timezone.now())
    assert ConsentLink.objects.get().state == State.OPEN


def test_a_second_browser_with_a_link_is_refused(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    link, url = admin_consent.start(robots(), actor=alice)
    stale = admin_consent.find_link(query(url)["state"], now=timezone.now())
    admin_consent.record_callback(came_back(url), actor=alice, now=timezone.now())
    monkeypatch.setattr(admin_consent, "find_link", lambda state, now: stale)
    with pytest.raises(SignInExpired):
        admin_consent.record_callback(came_back(url, error="permission_denied"), actor=alice, now=timezone.now())
    assert factories.reloaded(link).state == State.GRANTED


def test_a_token_with_all_roles_verifies_the_link(alice: User) -> None:
    link = answered_link(alice, robots())
    now = timezone.now()
    for _ in range(2):
        assert admin_consent.verify(link, actor=alice, now=now)
    link.refresh_from_db()
    assert (link.state, link.verified_at) == (State.VERIFIED, now)
    assert "Mail.Read" in link.cause
    event = AuditEvent.objects.get(action="consent.verified")
    assert event.changes["permissions"] == "Application.Read.All Mail.Read User.Read.All"


def test_a_callback_without_roles_in_the_token_is_not_verified(sandbox: Control, alice: User) -> None:
    withdraw(sandbox)
    link = answered_link(alice, robots())
    assert not admin_consent.verify(link, actor=alice, now=timezone.now())
    assert factories.reloaded(link).state == State.GRANTED
    assert "no permissions yet" in link.cause


def test_missing_roles_are_named_until_they_arrive(sandbox: Control, alice: User) -> None:
    withdraw(sandbox)
    grant(sandbox, "User.Read.All")
    link = answered_link(alice, robots())
    assert not admin_consent.verify(link, actor=alice, now=timezone.now())
    assert "not Mail.Read yet" in link.cause
    assert link.missing == "Mail.Read"
    grant(sandbox, "Mail.Read")
    assert admin_consent.verify_open(now=timezone.now()) == 0, "the next check is in a minute"
    assert admin_consent.verify_open(now=timezone.now() + timedelta(minutes=2)) == 1
    assert factories.reloaded(link).state == State.VERIFIED


def test_an_unanswered_link_is_verified_by_the_periodic_check(sandbox: Control, alice: User) -> None:
    withdraw(sandbox)
    admin_consent.start(robots(), actor=alice)
    assert admin_consent.verify_open(now=timezone.now()) == 0
    grant(sandbox, "Mail.Read", "User.Read.All")
    assert admin_consent.verify_open(now=timezone.now() + timedelta(minutes=61)) == 1
    assert AuditEvent.objects.get(action="consent.verified").actor is None


def test_earlier_roles_do_not_verify_an_unanswered_link_without_expected_roles(alice: User) -> None:
    admin_consent.start(robots(default_capabilities=[]), actor=alice)
    assert admin_consent.verify_open(now=timezone.now()) == 0


def test_a_declined_link_is_never_verified(alice: User) -> None:
    link = answered_link(alice, robots(), error="permission_denied")
    assert not admin_consent.verify(link, actor=alice, now=timezone.now())


def test_an_application_that_is_not_yet_in_a_foreign_directory_is_not_an_error(sandbox: Control, alice: User) -> None:
    app = robots(
        name="Multi", client_id=seed.MULTI_APP, secret=seed.MULTI_SECRET, audience=AppRegistration.Audience.MULTI
    )
    _, url = admin_consent.start(app, directory_id=seed.FABRIKAM, actor=alice)
    answer = came_back(url, admin_consent="True", tenant=seed.FABRIKAM)
    link = admin_consent.record_callback(answer, actor=alice, now=timezone.now())
    assert not admin_consent.verify(link, actor=alice, now=timezone.now())
    sandbox.grant_consent(client_id=seed.MULTI_APP, tenant=seed.FABRIKAM, roles=["Mail.Read", "User.Read.All"])
    assert admin_consent.verify(link, actor=alice, now=timezone.now())


def test_an_outage_changes_nothing_and_the_periodic_check_survives_it(sandbox: Control, alice: User) -> None:
    link = answered_link(alice, robots())
    sandbox.weather(kind="unavailable", where="token")
    with pytest.raises(MicrosoftUnavailable):
        admin_consent.verify(link, actor=alice, now=timezone.now())
    later = timezone.now() + timedelta(minutes=2)
    assert admin_consent.verify_open(now=later) == 0
    link.refresh_from_db()
    assert (link.state, link.cause, link.checks) == (State.GRANTED, "", 0)
    assert link.check_after == later + admin_consent.OUTAGE_WAIT


def test_the_second_secret_is_tried_when_the_first_is_rejected(alice: User) -> None:
    app = robots()
    factories.make_secret(app, "sbx8Q~wrong-secret", verified_at=timezone.now())
    assert admin_consent.verify(answered_link(alice, app), actor=alice, now=timezone.now())


def test_a_sign_in_verifies_a_granted_delegated_consent(alice: User) -> None:
    app = delegated()
    link = answered_link(alice, app)
    assert not admin_consent.verify(link, actor=alice, now=timezone.now())
    admin_consent.verify_from_token(app, granted=["Mail.Send", "openid"], now=timezone.now())
    assert factories.reloaded(link).state == State.GRANTED
    admin_consent.verify_from_token(app, granted=["Mail.ReadWrite", "openid"], now=timezone.now())
    assert factories.reloaded(link).state == State.VERIFIED
    assert "openid" not in link.cause


def test_a_persons_own_consent_does_not_verify_an_unanswered_link(alice: User) -> None:
    app = delegated()
    admin_consent.start(app, actor=alice)
    admin_consent.verify_from_token(app, granted=["Mail.Read"], now=timezone.now())
    assert ConsentLink.objects.get().state == State.OPEN


def test_a_sign_in_from_another_directory_verifies_nothing(alice: User) -> None:
    app = delegated()
    link = answered_link(alice, app)
    admin_consent.verify_from_token(app, granted=["Mail.Read"], now=timezone.now(), tid=seed.FABRIKAM)
    assert factories.reloaded(link).state == State.GRANTED


def test_a_sign_in_does_not_verify_expected_roles(alice: User) -> None:
    app = robots(allows_delegated=True)
    link = answered_link(alice, app)
    admin_consent.verify_from_token(app, granted=["Mail.Read"], now=timezone.now())
    assert factories.reloaded(link).state == State.GRANTED
