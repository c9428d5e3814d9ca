"""Signing in to the portal with Microsoft: accounts, roles, and what is stored."""

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import time_machine
from django.core import checks
from django.test import Client
from django.utils import timezone
from social_django.models import UserSocialAuth

from connections.microsoft.backends import MicrosoftSignIn
from connections.models import AuditEvent, Incident, User
from connections.models.accounts import AUDITORS, IT_ADMINS
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import browser_sessions, factories
from tests.flows.conftest import Person
from tests.sandbox.conftest import Browser
from tests.views.pages import assert_answer

ADMIN = "admin@contoso.example"
GRACE = "grace@contoso.example"
BARBARA = "barbara@fabrikam.example"


@pytest.fixture(autouse=True)
def _microsoft_sign_in(sandbox: Control, settings: Any) -> None:
    settings.LOGIN_MICROSOFT = factories.MICROSOFT_SIGN_IN
    forget_microsoft()


def forget_microsoft() -> None:
    """Clear social-auth's cache, which keeps discovery documents and keys for a day."""
    MicrosoftSignIn.get_openid_configuration.invalidate()
    MicrosoftSignIn.get_jwks_keys_for_uri.invalidate()


@pytest.fixture
def somebody(sandbox: Control) -> Person:
    """A person with new browsers who is not signed in anywhere."""
    return Person(Client(), Browser(sandbox.base_url))


def begin(person: Person, **fields: str) -> Any:
    return person.post("/auth/login/microsoft/", **fields)


def sign_in(person: Person, upn: str, **fields: str) -> Any:
    person.microsoft.session.cookies.clear()
    return person.connect(begin(person, **fields), upn)


def is_signed_in(person: Person) -> bool:
    return "_auth_user_id" in person.portal.session


def signed_in_as(person: Person) -> User:
    return User.objects.get(pk=person.portal.session["_auth_user_id"])


def roles(user: User) -> list[str]:
    return sorted(user.groups.values_list("name", flat=True))


def events(action: str) -> list[AuditEvent]:
    return list(AuditEvent.objects.filter(action=action))


def assert_refused(person: Person, answer: Any, status: int, *words: str) -> None:
    text = answer.content.decode()
    assert answer.status_code == status, text
    for word in words:
        assert word in text, text
    assert not is_signed_in(person)


def test_the_first_sign_in_makes_an_account(somebody: Person) -> None:
    answer = sign_in(somebody, factories.ADA)

    assert (answer.status_code, answer["Location"]) == (302, "/")
    ada = signed_in_as(somebody)
    assert (ada.username, ada.first_name, ada.last_name, ada.email) == (factories.ADA, "Ada", "Lovelace", factories.ADA)
    assert not ada.has_usable_password()
    assert not ada.is_staff
    assert not ada.is_superuser
    assert roles(ada) == []
    assert UserSocialAuth.objects.get().uid == f"{seed.CONTOSO}.{factories.ADA_ID}"
    assert events("account.admitted")[0].changes == {"method": "microsoft"}
    assert events("account.signed_in")[0].changes == {"method": "microsoft"}
    assert "Ada Lovelace" in somebody.get("/account/").content.decode()


@pytest.mark.parametrize(("upn", "role"), [(ADMIN, IT_ADMINS), (GRACE, AUDITORS)])
def test_app_roles_of_the_directory_become_roles_here(somebody: Person, upn: str, role: str) -> None:
    sign_in(somebody, upn)
    assert roles(signed_in_as(somebody)) == [role]
    assert somebody.get("/audit/").status_code == 200
    assert somebody.get("/tenants/add/").status_code == (200 if role == IT_ADMINS else 403)
    assert events("account.roles_changed")[0].changes == {"roles": [[], [role]]}


def test_groups_of_the_directory_can_be_mapped_too(somebody: Person, sandbox: Control, settings: Any) -> None:
    group = seed.fixed_id("group of administrators")
    settings.LOGIN_MICROSOFT = {**settings.LOGIN_MICROSOFT, "admins": ["ITAdmin", group]}
    sandbox.assign(seed.SIGN_IN_APP, factories.ADA, roles=[], groups=[group, seed.fixed_id("other")])
    sign_in(somebody, factories.ADA)
    assert roles(signed_in_as(somebody)) == [IT_ADMINS]


def test_a_later_sign_in_follows_the_directory(somebody: Person, sandbox: Control) -> None:
    sign_in(somebody, ADMIN)
    first = signed_in_as(somebody)
    somebody.post("/sign-out/")
    sandbox.assign(seed.SIGN_IN_APP, ADMIN, roles=["Auditor"])
    sign_in(somebody, ADMIN)

    again = signed_in_as(somebody)
    assert again == first
    assert roles(again) == [AUDITORS]
    assert UserSocialAuth.objects.count() == 1
    assert {tuple(map(tuple, event.changes["roles"])) for event in events("account.roles_changed")} == {
        ((), (IT_ADMINS,)),
        ((IT_ADMINS,), (AUDITORS,)),
    }
    assert somebody.get("/tenants/add/").status_code == 403


def test_a_sign_in_that_changes_nothing_says_only_that_it_happened(somebody: Person) -> None:
    sign_in(somebody, ADMIN)
    somebody.post("/sign-out/")
    before = set(AuditEvent.objects.values_list("pk", flat=True))
    sign_in(somebody, ADMIN)
    assert [event.action for event in AuditEvent.objects.exclude(pk__in=before)] == ["account.signed_in"]


def test_after_sign_in_the_requested_page_opens(somebody: Person) -> None:
    assert sign_in(somebody, factories.ADA, next="/mailboxes/")["Location"] == "/mailboxes/"


@pytest.mark.parametrize(
    "wanted", ["https://evil.example/", "//evil.example/x", "/\\evil.example", "javascript:alert(1)"]
)
def test_after_sign_in_no_other_site_opens(somebody: Person, wanted: str) -> None:
    assert sign_in(somebody, factories.ADA, next=wanted)["Location"] == "/"


def test_next_in_microsofts_answer_is_not_obeyed(somebody: Person) -> None:
    somebody.follow_to_microsoft(begin(somebody))
    somebody.consent(factories.ADA)
    somebody.microsoft.page.headers["Location"] += "&next=https://evil.example/"
    assert somebody.return_to_portal()["Location"].partition("?")[0] == "/"


def test_sign_in_requests_identity_scopes_only(somebody: Person) -> None:
    query = {name: values[0] for name, values in parse_qs(urlsplit(begin(somebody)["Location"]).query).items()}
    assert set(query["scope"].split()) == {"openid", "profile", "email"}
    assert query["code_challenge_method"] == "S256"
    assert len(query["state"]) >= 32
    assert len(query["nonce"]) >= 32
    assert query["redirect_uri"] == "http://localhost:8000/auth/complete/microsoft/"


def test_no_token_of_a_sign_in_is_stored(somebody: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    original = MicrosoftSignIn.request_access_token

    def watch(self: MicrosoftSignIn, *args: Any, **kwargs: Any) -> Any:
        seen.update(original(self, *args, **kwargs))
        return dict(seen)

    monkeypatch.setattr(MicrosoftSignIn, "request_access_token", watch)
    sign_in(somebody, factories.ADA)
    tokens = [seen["access_token"], seen["id_token"], parse_qs(urlsplit(_returned(somebody)).query)["code"][0]]
    kept = json.dumps(dict(somebody.portal.session), default=str) + str(list(UserSocialAuth.objects.values()))
    kept += str(list(AuditEvent.objects.values()))
    assert all(len(token) > 20 for token in tokens)
    for token in tokens:
        assert token not in kept
    assert UserSocialAuth.objects.get().extra_data == {}
    assert "refresh_token" not in seen, "offline_access was not asked for"


def _returned(person: Person) -> str:
    return str(person.microsoft.page.headers["Location"])


@pytest.mark.parametrize("superuser", [True, False])
def test_a_local_account_of_the_same_name_is_not_linked(somebody: Person, superuser: bool) -> None:
    local = User.objects.create_user(
        factories.ADA.upper(), factories.ADA, factories.PASSWORD, is_superuser=superuser, is_staff=superuser
    )
    sign_in(somebody, factories.ADA)
    ada = signed_in_as(somebody)
    assert ada != local
    assert ada.username == f"{factories.ADA} ({factories.ADA_ID[:8]})"
    assert not ada.is_superuser
    assert factories.reloaded(local).check_password(factories.PASSWORD)


def test_an_account_is_its_object_id_and_not_its_name(somebody: Person) -> None:
    """Microsoft may give a user name to another person once it is free."""
    sign_in(somebody, factories.ADA)
    ada = signed_in_as(somebody)
    somebody.post("/sign-out/")
    UserSocialAuth.objects.update(uid=f"{seed.CONTOSO}.{seed.fixed_id('who was called so before')}")
    sign_in(somebody, factories.ADA)
    assert signed_in_as(somebody) != ada


def test_a_disabled_account_stays_out(somebody: Person) -> None:
    sign_in(somebody, ADMIN)
    somebody.post("/sign-out/")
    User.objects.update(is_active=False)
    before = AuditEvent.objects.filter(action="account.signed_in").count()
    assert_refused(somebody, sign_in(somebody, ADMIN), 403, "disabled", "IT admin")
    assert AuditEvent.objects.filter(action="account.signed_in").count() == before
    assert events("account.sign_in_failed")[0].outcome == "denied"
    assert User.objects.count() == 1, "no second account instead"


def test_an_account_disabled_at_microsoft_does_not_get_as_far_as_the_portal(somebody: Person) -> None:
    somebody.follow_to_microsoft(begin(somebody))
    assert "AADSTS50057" in somebody.microsoft.sign_in("dennis@contoso.example").text
    assert not User.objects.exists()


def test_signing_in_while_signed_in_links_nobody(somebody: Person, bob: User) -> None:
    """Linking would let anyone at bob's unlocked browser add their own account and keep access as bob."""
    somebody.portal.force_login(bob, backend="django.contrib.auth.backends.ModelBackend")
    assert_answer(sign_in(somebody, factories.ADA), 400, "You are signed in as Bob Member")
    assert not UserSocialAuth.objects.exists()
    assert list(User.objects.all()) == [bob]


def test_a_person_of_another_directory_is_refused(somebody: Person, sandbox: Control, settings: Any) -> None:
    """This holds even if the registration in Entra is multitenant by mistake and the token is valid."""
    sandbox.set_app(seed.SIGN_IN_APP, audience="AzureADMultipleOrgs")
    settings.LOGIN_MICROSOFT = {**settings.LOGIN_MICROSOFT, "tenant": seed.FABRIKAM}
    begun = begin(somebody)
    settings.LOGIN_MICROSOFT = {**settings.LOGIN_MICROSOFT, "tenant": seed.CONTOSO}
    forget_microsoft()
    somebody.follow_to_microsoft(begun)
    somebody.consent(BARBARA)
    assert somebody.return_to_portal().status_code in (400, 409)
    assert not is_signed_in(somebody)
    assert not User.objects.exists()


@pytest.mark.parametrize("tenant", ["common", "organizations", "consumers", "Common"])
def test_a_sign_in_for_everybody_in_the_world_is_refused(somebody: Person, settings: Any, tenant: str) -> None:
    settings.LOGIN_MICROSOFT = {**settings.LOGIN_MICROSOFT, "tenant": tenant}
    assert "connections.E003" in [problem.id for problem in checks.run_checks()]
    assert_refused(somebody, begin(somebody), 400, "configured in this portal")


def test_a_directory_given_by_its_domain_works(somebody: Person, settings: Any) -> None:
    settings.LOGIN_MICROSOFT = {**settings.LOGIN_MICROSOFT, "tenant": "contoso.example"}
    assert sign_in(somebody, factories.ADA).status_code == 302
    assert is_signed_in(somebody)


def test_a_callback_without_a_sign_in_is_refused(somebody: Person) -> None:
    query = urlencode({"code": "0.invented", "state": "invented"})
    assert_refused(somebody, somebody.get(f"/auth/complete/microsoft/?{query}"), 400, "This sign-in was already used")
    assert_refused(somebody, somebody.get("/auth/complete/microsoft/"), 400)


def test_a_stolen_callback_is_useless_in_another_browser(somebody: Person) -> None:
    somebody.follow_to_microsoft(begin(somebody))
    somebody.consent(factories.ADA)
    other = Person(Client(), somebody.microsoft)
    assert_refused(other, other.return_to_portal(), 400, "This sign-in was already used")


def test_a_callback_works_once(somebody: Person) -> None:
    sign_in(somebody, factories.ADA)
    somebody.post("/sign-out/")
    assert_refused(somebody, somebody.return_to_portal(), 400)


def test_another_state_of_the_same_browser_is_refused(somebody: Person) -> None:
    """This is login CSRF: the code from the attacker's own sign-in is combined with the victim's state."""
    attacker = Person(Client(), Browser(somebody.microsoft.url))
    attacker.follow_to_microsoft(begin(attacker))
    attacker.consent(GRACE)
    code = parse_qs(urlsplit(_returned(attacker)).query)["code"][0]
    state = parse_qs(urlsplit(begin(somebody)["Location"]).query)["state"][0]
    answer = somebody.get(f"/auth/complete/microsoft/?{urlencode({'code': code, 'state': state})}")
    assert answer.status_code >= 400  # the code does not match this browser's PKCE verifier
    assert not is_signed_in(somebody)
    assert not User.objects.exists()


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "another"},
        {"nonce": None},
        {"oid": "0a1b2c3d-1111-4222-8333-abcdefabcdef"},
        {"roles": ["ITAdmin"]},
        {"aud": seed.CONNECTIONS_APP},
        {"exp": 1},
        {"tid": seed.FABRIKAM},
    ],
    ids=str,
)
@pytest.mark.parametrize("signed", ["as before", "none"])
def test_a_tampered_id_token_is_refused(
    somebody: Person, monkeypatch: pytest.MonkeyPatch, claims: dict[str, Any], signed: str
) -> None:
    original = MicrosoftSignIn.request_access_token

    def tamper(self: MicrosoftSignIn, *args: Any, **kwargs: Any) -> Any:
        answer = dict(original(self, *args, **kwargs))
        head, body, signature = answer["id_token"].split(".")
        payload = {**_decoded(body), **claims}
        if signed == "none":
            head, signature = _encoded({"alg": "none", "typ": "JWT"}), ""
        answer["id_token"] = f"{head}.{_encoded(payload)}.{signature}"
        return answer

    monkeypatch.setattr(MicrosoftSignIn, "request_access_token", tamper)
    answer = sign_in(somebody, factories.ADA)
    assert_refused(somebody, answer, 400)
    assert not User.objects.exists()


def test_an_id_token_of_another_sign_in_is_refused(somebody: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token is genuine and signed but replayed, so only its nonce differs."""
    original = MicrosoftSignIn.request_access_token
    kept: list[str] = []

    def replay(self: MicrosoftSignIn, *args: Any, **kwargs: Any) -> Any:
        answer = dict(original(self, *args, **kwargs))
        kept.append(answer["id_token"])
        return {**answer, "id_token": kept[0]}

    monkeypatch.setattr(MicrosoftSignIn, "request_access_token", replay)
    sign_in(somebody, GRACE)
    somebody.post("/sign-out/")
    assert_refused(somebody, sign_in(somebody, factories.ADA), 400)
    assert [user.username for user in User.objects.all()] == [GRACE]


def _decoded(part: str) -> dict[str, Any]:
    payload: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return payload


def _encoded(part: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


def test_cancelling_leads_to_a_page_and_back(somebody: Person, sandbox: Control) -> None:
    sandbox.withdraw_consent(seed.SIGN_IN_APP)
    somebody.follow_to_microsoft(begin(somebody))
    somebody.microsoft.sign_in(factories.ADA)
    somebody.microsoft.submit("cancel", why="consent")
    assert_refused(somebody, somebody.return_to_portal(), 400, "cancelled", "Back to sign-in")


WEATHERS = ("unavailable", "error", "broken_json", "empty_504", "throttle", "refuse")


@pytest.mark.parametrize("known", [True, False], ids=["keys known", "keys not known"])
@pytest.mark.parametrize("weather", WEATHERS)
def test_an_outage_on_return_is_explained(somebody: Person, sandbox: Control, weather: str, known: bool) -> None:
    somebody.follow_to_microsoft(begin(somebody))
    somebody.consent(factories.ADA)
    sandbox.weather(weather, where="everything")
    if not known:
        forget_microsoft()
    assert_refused(somebody, somebody.return_to_portal(), 503, "Microsoft")
    assert not User.objects.exists()
    assert not AuditEvent.objects.filter(action="account.signed_in").exists()


@pytest.mark.parametrize("weather", WEATHERS)
def test_an_outage_before_the_redirect_is_handled(somebody: Person, sandbox: Control, weather: str) -> None:
    sandbox.weather(weather, where="everything")
    assert begin(somebody).status_code in (302, 503)


def test_keys_that_microsoft_has_changed_are_fetched_again(somebody: Person, sandbox: Control) -> None:
    sign_in(somebody, factories.ADA)
    somebody.post("/sign-out/")
    sandbox.rotate_keys()
    assert sign_in(somebody, factories.ADA)["Location"] == "/"


def test_an_expired_secret_of_the_portal_is_reported(somebody: Person, sandbox: Control) -> None:
    somebody.follow_to_microsoft(begin(somebody))
    somebody.consent(factories.ADA)
    sandbox.expire_secret(seed.SIGN_IN_APP, seed.SIGN_IN_SECRET_ID)
    assert_refused(somebody, somebody.return_to_portal(), 400, "accept this portal", "operator")
    assert Incident.objects.get().code == "AADSTS7000222"


def test_without_configuration_there_is_no_sign_in_with_microsoft(somebody: Person, settings: Any) -> None:
    settings.LOGIN_MICROSOFT = {**settings.LOGIN_MICROSOFT, "tenant": "", "client_id": "", "client_secret": ""}
    assert_refused(somebody, begin(somebody), 400, "configured in this portal")
    assert_refused(somebody, somebody.get("/auth/complete/microsoft/?code=x&state=y"), 400)


def test_a_lock_out_stops_one_name_from_one_address_only(bob: User, dave: User, settings: Any) -> None:
    attacker = Client(REMOTE_ADDR="192.0.2.66")
    for _ in range(settings.LOGIN_FAILURE_LIMIT):
        answer = attacker.post("/sign-in/", {"username": "bob", "password": "guess"})
    assert answer.status_code == 429
    assert attacker.post("/sign-in/", {"username": "bob", "password": factories.PASSWORD}).status_code == 429
    assert attacker.post("/sign-in/", {"username": "BOB", "password": factories.PASSWORD}).status_code != 302
    assert (
        Client(REMOTE_ADDR="192.0.2.67")
        .post("/sign-in/", {"username": "bob", "password": factories.PASSWORD})
        .status_code
        == 302
    )
    assert attacker.post("/sign-in/", {"username": "dave", "password": factories.PASSWORD}).status_code == 302
    refused = [event for event in events("account.sign_in_failed") if event.address == "192.0.2.66"]
    assert len(refused) == 2, "the first failure and the pause"
    assert {event.outcome for event in refused} == {"denied"}


def test_an_address_in_a_header_does_not_get_round_the_lock_out(bob: User, settings: Any) -> None:
    for number in range(settings.LOGIN_FAILURE_LIMIT + 1):
        answer = Client(headers={"x-forwarded-for": f"192.0.2.{number}"}).post(
            "/sign-in/", {"username": "bob", "password": "guess"}
        )
    assert answer.status_code == 429


def test_a_microsoft_account_has_no_password_to_guess(somebody: Person) -> None:
    sign_in(somebody, factories.ADA)
    somebody.post("/sign-out/")
    for password in ("", "!", "None"):
        assert somebody.post("/sign-in/", username=factories.ADA, password=password).status_code == 422
    assert not is_signed_in(somebody)


def test_a_clock_that_is_behind_microsofts_keeps_nobody_out(somebody: Person) -> None:
    """The ID token is then issued in the future, as this clock sees it."""
    with time_machine.travel(datetime.now(UTC) - timedelta(minutes=2), tick=True):
        sign_in(somebody, ADMIN)
        assert is_signed_in(somebody)


def test_an_id_token_from_far_in_the_future_is_refused(somebody: Person) -> None:
    with time_machine.travel(datetime.now(UTC) - timedelta(minutes=20), tick=True):
        sign_in(somebody, ADMIN)
        assert not is_signed_in(somebody)


def make_stale(person: Person) -> None:
    session = person.portal.session
    session["fresh_at"] = 0
    session.save()


def confirm_at_microsoft(person: Person, upn: str) -> Any:
    answer = person.get("/api-keys/add/")
    assert answer["Location"].startswith("/account/confirm/")
    page = person.get(answer["Location"]).content.decode()
    assert "Sign in with Microsoft again" in page
    person.follow_to_microsoft(begin(person, next="/api-keys/add/"))
    person.consent(upn)
    return person.return_to_portal()


def test_a_sign_in_with_a_password_at_microsoft_is_fresh(somebody: Person) -> None:
    sign_in(somebody, factories.ADA)
    assert somebody.get("/api-keys/add/").status_code == 200


def with_an_old_session_at_microsoft(person: Person, sandbox: Control) -> None:
    """Sign in here and there as if the password had been entered half an hour ago."""
    sandbox.clock(-1800)
    sign_in(person, factories.ADA)
    sandbox.clock(0)


def test_a_sign_in_by_an_old_session_at_microsoft_is_not_fresh(somebody: Person, sandbox: Control) -> None:
    with_an_old_session_at_microsoft(somebody, sandbox)
    assert somebody.get("/api-keys/add/").status_code == 302
    somebody.post("/sign-out/")
    somebody.connect(begin(somebody), factories.ADA)
    assert is_signed_in(somebody)
    assert somebody.get("/api-keys/add/").status_code == 302


def test_the_confirmation_asks_for_the_password_at_microsoft(somebody: Person) -> None:
    sign_in(somebody, factories.ADA)
    make_stale(somebody)
    query = parse_qs(urlsplit(begin(somebody)["Location"]).query)
    assert query["prompt"] == ["login"]
    assert json.loads(query["claims"][0]) == {"id_token": {"auth_time": {"essential": True}}}
    answer = confirm_at_microsoft(somebody, factories.ADA)
    assert answer["Location"] == "/api-keys/add/"
    assert somebody.get("/api-keys/add/").status_code == 200
    assert [event.changes for event in events("account.confirmed")] == [{"method": "microsoft"}]


def test_an_operator_confirms_at_microsoft_instead_of_a_second_factor(somebody: Person) -> None:
    sign_in(somebody, factories.ADA)
    ada = signed_in_as(somebody)
    ada.is_superuser = True
    ada.set_password(factories.PASSWORD)
    ada.save()
    browser_sessions.sign_in(somebody.portal, ada, second_factor=False)
    assert somebody.get("/tenants/")["Location"] == "/account/security/"
    somebody.follow_to_microsoft(begin(somebody, next="/tenants/"))
    somebody.consent(factories.ADA)
    assert somebody.return_to_portal()["Location"] == "/tenants/"
    assert somebody.get("/tenants/").status_code == 200


def test_another_account_confirms_nothing(somebody: Person) -> None:
    sign_in(somebody, ADMIN)
    somebody.post("/sign-out/")
    sign_in(somebody, factories.ADA)
    make_stale(somebody)
    answer = confirm_at_microsoft(somebody, ADMIN)
    assert answer.status_code == 400
    assert somebody.get("/api-keys/add/").status_code == 302


def test_an_edited_address_that_skips_the_password_confirms_nothing(somebody: Person, sandbox: Control) -> None:
    """A thief at an unlocked browser drops prompt=login, and Microsoft's own session signs in without a password."""
    with_an_old_session_at_microsoft(somebody, sandbox)
    begun = begin(somebody)
    parts = urlsplit(begun["Location"])
    query = {name: values[0] for name, values in parse_qs(parts.query).items() if name not in ("prompt", "max_age")}
    begun["Location"] = parts._replace(query=urlencode(query)).geturl()
    answer = somebody.connect(begun, factories.ADA)
    assert answer.status_code == 400
    assert "didn&#x27;t ask you to sign in again" in answer.content.decode()
    assert somebody.get("/api-keys/add/").status_code == 302


def test_without_auth_time_only_a_confirmation_counts() -> None:
    """Entra may leave the claim out. A callback of a sign-in with prompt=login has then just happened."""
    backend, now = MicrosoftSignIn(), timezone.now()
    backend._oauth2_transaction = {"confirms": False}
    assert backend.proved_at({}, now=now) is None
    backend._oauth2_transaction = {"confirms": True}
    assert backend.proved_at({}, now=now) == now
    assert backend.proved_at({"auth_time": 1_700_000_000}, now=now) == datetime.fromtimestamp(1_700_000_000, UTC)
    future = now.timestamp() + 86400
    assert backend.proved_at({"auth_time": future}, now=now) == now


def test_an_expired_secret_of_the_portal_is_named_and_stands_until_a_sign_in_works(
    somebody: Person, sandbox: Control, settings: Any, alice: User
) -> None:
    right = settings.LOGIN_MICROSOFT
    settings.LOGIN_MICROSOFT = {**right, "client_secret": "wrong"}
    answer = sign_in(somebody, factories.ADA)
    assert_refused(
        somebody, answer, 400, "nobody can sign in with Microsoft", "LOGIN_MICROSOFT_CLIENT_SECRET", "operator"
    )
    assert "AADSTS7000215" not in answer.content.decode()
    incident = Incident.objects.get()
    assert (incident.kind, incident.code, incident.is_open) == ("portal_sign_in", "AADSTS7000215", True)
    home = factories.signed_in(alice).get("/").content.decode()
    assert "Microsoft rejects the portal" in home
    settings.LOGIN_MICROSOFT = right
    sign_in(somebody, factories.ADA)
    incident.refresh_from_db()
    assert not incident.is_open


def test_a_forged_callback_opens_no_incident(somebody: Person) -> None:
    state = parse_qs(urlsplit(begin(somebody)["Location"]).query)["state"][0]
    error = {
        "error": "invalid_client",
        "error_description": "AADSTS7000222: The provided client secret keys are expired.",
    }
    somebody.get(f"/auth/complete/microsoft/?{urlencode({**error, 'state': state})}")
    assert not Incident.objects.exists()


def test_refused_callbacks_become_one_event(somebody: Person) -> None:
    for _ in range(3):
        state = parse_qs(urlsplit(begin(somebody)["Location"]).query)["state"][0]
        somebody.get(f"/auth/complete/microsoft/?{urlencode({'error': 'server_error', 'state': state})}")
    assert len(events("account.sign_in_failed")) == 1
