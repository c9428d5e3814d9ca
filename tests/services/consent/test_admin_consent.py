"""Admin consent: the link, the callback that proves nothing, and the token that does."""

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


def withdraw(sandbox: Control) -> None:
    sandbox.withdraw_consent(client_id=factories.ROBOTS_CLIENT_ID, tenant=factories.DIRECTORY_ID)


def grant(sandbox: Control, *roles: str) -> None:
    sandbox.grant_consent(client_id=factories.ROBOTS_CLIENT_ID, tenant=factories.DIRECTORY_ID, roles=list(roles))


# --- Asking ---------------------------------------------------------------------------------------


def test_the_link_leads_to_the_directory_and_back_here(sandbox: Control, alice: User, settings: object) -> None:
    asked, url = admin_consent.start(robots(), actor=alice)
    assert f"/{factories.DIRECTORY_ID}/v2.0/adminconsent?" in url
    said = query(url)
    assert said["client_id"] == factories.ROBOTS_CLIENT_ID
    assert said["redirect_uri"].endswith("/consent/callback/")
    assert said["scope"].endswith("/.default")
    assert (asked.state, asked.requested_by) == (State.OPEN, alice)


def test_the_state_is_not_in_the_database_but_the_link_can_be_shown_again(sandbox: Control, alice: User) -> None:
    asked, url = admin_consent.start(robots(), actor=alice)
    state = query(url)["state"]
    assert len(state) == 64
    row = ConsentLink.objects.values().get()
    assert state not in str(row)
    assert state not in str(list(AuditEvent.objects.values()))
    assert admin_consent.consent_url(ConsentLink.objects.get(), now=timezone.now()) == url
    assert admin_consent.consent_url(asked, now=timezone.now() + timedelta(days=8)) == ""


def test_a_changed_secret_key_makes_no_wrong_link(sandbox: Control, alice: User, settings: object) -> None:
    asked, _ = admin_consent.start(robots(), actor=alice)
    settings.SECRET_KEY = "another key, as long as it should be, for this test"  # type: ignore[attr-defined]
    assert admin_consent.consent_url(asked, now=timezone.now()) == ""


def test_asking_twice_hands_out_the_same_link(sandbox: Control, alice: User) -> None:
    app = robots()
    first, url = admin_consent.start(app, actor=alice)
    assert admin_consent.start(app, actor=alice) == (first, url)
    assert AuditEvent.objects.filter(action="consent.requested").count() == 1


def test_only_an_admin_asks(sandbox: Control, bob: User, carol: User) -> None:
    app = robots()
    for person in (bob, carol):
        with pytest.raises(NotAllowed):
            admin_consent.start(app, actor=person)
    assert not ConsentLink.objects.exists()


def test_another_directory_can_consent_to_a_multitenant_application_only(sandbox: Control, alice: User) -> None:
    app = robots()
    with pytest.raises(InvalidInput) as refused:
        admin_consent.start(app, directory_id=seed.FABRIKAM, actor=alice)
    assert refused.value.field == "directory_id"
    app.audience = AppRegistration.Audience.MULTI
    _, url = admin_consent.start(app, directory_id=seed.FABRIKAM, actor=alice)
    assert f"/{seed.FABRIKAM}/" in url


# --- The answer -----------------------------------------------------------------------------------


def test_a_yes_is_noted_but_not_believed(sandbox: Control, alice: User, dave: User) -> None:
    _, url = admin_consent.start(robots(), actor=alice)
    asked = admin_consent.record_callback(came_back(url), actor=dave, now=timezone.now())
    asked.refresh_from_db()
    assert (asked.state, asked.verified_at) == (State.GRANTED, None)
    event = AuditEvent.objects.get(action="consent.granted")
    assert (event.actor, event.target_type, event.target_name) == (dave, "AppRegistration", "Contoso Robots")


@pytest.mark.parametrize(
    "answer",
    [
        {"admin_consent": "True", "error": "consent_required", "error_description": CANCELLED},
        {"error": "permission_denied", "error_description": "The admin canceled the request"},
    ],
)
def test_cancelling_in_either_style_is_declined(sandbox: Control, alice: User, answer: dict[str, str]) -> None:
    _, url = admin_consent.start(robots(), actor=alice)
    admin_consent.record_callback(came_back(url, **answer), actor=alice, now=timezone.now())
    link = ConsentLink.objects.get()
    assert link.state == State.DECLINED
    assert "nothing was granted" in link.cause
    event = AuditEvent.objects.get(action="consent.declined")
    assert event.outcome == AuditEvent.Outcome.FAILED


def test_somebody_who_may_not_consent_is_told_who_must(sandbox: Control, alice: User) -> None:
    _, url = admin_consent.start(robots(), actor=alice)
    answer = {"error": "access_denied", "error_description": "AADSTS90094: Admin consent is required."}
    admin_consent.record_callback(came_back(url, **answer), actor=alice, now=timezone.now())
    link = ConsentLink.objects.get()
    assert (link.state, link.code) == (State.FAILED, "AADSTS90094")
    assert "may grant consent for the whole directory" in link.action


def test_without_a_signed_in_person_nothing_is_stored(sandbox: Control, alice: User) -> None:
    _, url = admin_consent.start(robots(), actor=alice)
    for answer in ({}, {"error": "permission_denied"}):
        claimed = admin_consent.record_callback(came_back(url, **answer), actor=None, now=timezone.now())
        assert claimed.state in (State.GRANTED, State.DECLINED)
    assert ConsentLink.objects.get().state == State.OPEN
    assert AuditEvent.objects.count() == 1


def test_a_bad_day_at_microsoft_does_not_use_the_link_up(sandbox: Control, alice: User) -> None:
    _, url = admin_consent.start(robots(), actor=alice)
    claimed = admin_consent.record_callback(came_back(url, error="server_error"), actor=alice, now=timezone.now())
    assert claimed.cause
    assert ConsentLink.objects.get().state == State.OPEN


def test_a_link_works_once_and_for_seven_days(sandbox: Control, alice: User) -> None:
    app = robots()
    _, url = admin_consent.start(app, actor=alice)
    with pytest.raises(SignInExpired):
        admin_consent.record_callback(came_back(url), actor=alice, now=timezone.now() + timedelta(days=7, seconds=1))
    admin_consent.record_callback(came_back(url), actor=alice, now=timezone.now())
    with pytest.raises(SignInExpired, match="already used"):
        admin_consent.record_callback(came_back(url, error="permission_denied"), actor=alice, now=timezone.now())
    assert ConsentLink.objects.get().state == State.GRANTED


@pytest.mark.parametrize("forged", ["", "state=", "state=x&admin_consent=True", "admin_consent=True&tenant=t"])
def test_a_made_up_link_changes_nothing(sandbox: Control, alice: User, forged: str) -> None:
    admin_consent.start(robots(), actor=alice)
    with pytest.raises(SignInExpired):
        admin_consent.record_callback(forged, actor=alice, now=timezone.now())
    assert ConsentLink.objects.get().state == State.OPEN


def test_of_two_browsers_with_one_link_the_second_is_told_it_is_over(
    sandbox: Control, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, url = admin_consent.start(robots(), actor=alice)
    stale = admin_consent.find_link(query(url)["state"], now=timezone.now())
    admin_consent.record_callback(came_back(url), actor=alice, now=timezone.now())
    monkeypatch.setattr(admin_consent, "find_link", lambda state, now: stale)
    with pytest.raises(SignInExpired):
        admin_consent.record_callback(came_back(url, error="permission_denied"), actor=alice, now=timezone.now())
    asked.refresh_from_db()
    assert asked.state == State.GRANTED


# --- The truth ------------------------------------------------------------------------------------


def granted_request(alice: User, app: AppRegistration) -> ConsentLink:
    _, url = admin_consent.start(app, actor=alice)
    return admin_consent.record_callback(came_back(url), actor=alice, now=timezone.now())


def test_a_token_with_all_roles_verifies(sandbox: Control, alice: User) -> None:
    asked = granted_request(alice, robots())
    now = timezone.now()
    assert admin_consent.verify(asked, actor=alice, now=now)
    assert admin_consent.verify(asked, actor=alice, now=now)
    asked.refresh_from_db()
    assert (asked.state, asked.verified_at) == (State.VERIFIED, now)
    assert "Mail.Read" in asked.cause
    event = AuditEvent.objects.get(action="consent.verified")
    assert event.changes["permissions"] == "Application.Read.All Mail.Read User.Read.All"


def test_a_callback_that_lied_is_found_out(sandbox: Control, alice: User) -> None:
    withdraw(sandbox)
    asked = granted_request(alice, robots())
    assert not admin_consent.verify(asked, actor=alice, now=timezone.now())
    asked.refresh_from_db()
    assert asked.state == State.GRANTED
    assert "no permission yet" in asked.cause


def test_what_is_still_missing_is_named_until_it_arrives(sandbox: Control, alice: User) -> None:
    withdraw(sandbox)
    grant(sandbox, "User.Read.All")
    asked = granted_request(alice, robots())
    assert not admin_consent.verify(asked, actor=alice, now=timezone.now())
    assert "not yet Mail.Read" in asked.cause
    grant(sandbox, "Mail.Read")
    assert admin_consent.verify_open(now=timezone.now()) == 1
    asked.refresh_from_db()
    assert asked.state == State.VERIFIED


def test_an_admin_without_account_here_is_noticed_by_the_routine(sandbox: Control, alice: User) -> None:
    withdraw(sandbox)
    admin_consent.start(robots(), actor=alice)
    assert admin_consent.verify_open(now=timezone.now()) == 0
    grant(sandbox, "Mail.Read", "User.Read.All")
    assert admin_consent.verify_open(now=timezone.now()) == 1
    assert AuditEvent.objects.get(action="consent.verified").actor is None


def test_old_roles_do_not_answer_an_open_request_whose_wishes_are_not_known(sandbox: Control, alice: User) -> None:
    admin_consent.start(robots(default_capabilities=[]), actor=alice)
    assert admin_consent.verify_open(now=timezone.now()) == 0


def test_a_declined_request_is_never_verified(sandbox: Control, alice: User) -> None:
    _, url = admin_consent.start(robots(), actor=alice)
    asked = admin_consent.record_callback(came_back(url, error="permission_denied"), actor=alice, now=timezone.now())
    assert not admin_consent.verify(asked, actor=alice, now=timezone.now())


def test_an_application_not_yet_in_a_foreign_directory_is_just_not_there_yet(sandbox: Control, alice: User) -> None:
    app = robots(
        name="Multi", client_id=seed.MULTI_APP, secret=seed.MULTI_SECRET, audience=AppRegistration.Audience.MULTI
    )
    _, url = admin_consent.start(app, directory_id=seed.FABRIKAM, actor=alice)
    asked = admin_consent.record_callback(came_back(url), actor=alice, now=timezone.now())
    assert not admin_consent.verify(asked, actor=alice, now=timezone.now())
    sandbox.grant_consent(client_id=seed.MULTI_APP, tenant=seed.FABRIKAM, roles=["Mail.Read", "User.Read.All"])
    assert admin_consent.verify(asked, actor=alice, now=timezone.now())


def test_an_outage_says_nothing_and_the_routine_survives_it(sandbox: Control, alice: User) -> None:
    asked = granted_request(alice, robots())
    sandbox.weather(kind="unavailable", where="token")
    with pytest.raises(MicrosoftUnavailable):
        admin_consent.verify(asked, actor=alice, now=timezone.now())
    assert admin_consent.verify_open(now=timezone.now()) == 0
    asked.refresh_from_db()
    assert (asked.state, asked.cause) == (State.GRANTED, "")


def test_the_second_secret_is_tried_when_the_first_is_dead(sandbox: Control, alice: User) -> None:
    app = robots()
    factories.make_secret(app, "sbx8Q~wrong-secret", verified_at=timezone.now())
    assert admin_consent.verify(granted_request(alice, app), actor=alice, now=timezone.now())


def test_a_sign_in_verifies_a_delegated_consent_that_was_granted(sandbox: Control, alice: User) -> None:
    app = delegated()
    asked = granted_request(alice, app)
    assert not admin_consent.verify(asked, actor=alice, now=timezone.now())
    admin_consent.verify_from_token(app, granted=["Mail.Send", "openid"], now=timezone.now())
    asked.refresh_from_db()
    assert asked.state == State.GRANTED
    admin_consent.verify_from_token(app, granted=["Mail.ReadWrite", "openid"], now=timezone.now())
    asked.refresh_from_db()
    assert asked.state == State.VERIFIED
    assert "openid" not in asked.cause


def test_a_persons_own_consent_does_not_answer_an_open_request(sandbox: Control, alice: User) -> None:
    app = delegated()
    admin_consent.start(app, actor=alice)
    admin_consent.verify_from_token(app, granted=["Mail.Read"], now=timezone.now())
    assert ConsentLink.objects.get().state == State.OPEN


def test_a_sign_in_from_another_directory_does_not_count(sandbox: Control, alice: User) -> None:
    app = delegated()
    asked = granted_request(alice, app)
    admin_consent.verify_from_token(app, granted=["Mail.Read"], now=timezone.now(), tid=seed.FABRIKAM)
    asked.refresh_from_db()
    assert asked.state == State.GRANTED


def test_roles_that_are_wanted_are_not_proved_by_a_sign_in(sandbox: Control, alice: User) -> None:
    app = robots(allows_delegated=True)
    asked = granted_request(alice, app)
    admin_consent.verify_from_token(app, granted=["Mail.Read"], now=timezone.now())
    asked.refresh_from_db()
    assert asked.state == State.GRANTED
