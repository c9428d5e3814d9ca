"""Second factors of local accounts: authenticator apps, recovery codes, and who must have one."""

import re
from datetime import timedelta
from typing import Any

import pyotp
import pytest
from django.core.management import call_command
from django.db import connection as database
from django.test import Client
from django.utils import timezone

from connections.models import AuditEvent, RecoveryCode, SecondFactor, User
from connections.services.people import accounts, second_factors, sessions, sign_in_limits
from tests import factories
from tests.browser_sessions import MICROSOFT, sign_in
from tests.records import actions

pytestmark = pytest.mark.django_db

KEY = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"


def with_app(person: User) -> SecondFactor:
    return SecondFactor.objects.create(person=person, kind=SecondFactor.Kind.APP, name="Phone", secret=KEY)


def give_password(client: Client, name: str = "bob", **more: Any) -> Any:
    return client.post("/sign-in/", {"username": name, "password": factories.PASSWORD, **more})


def give_code(client: Client, code: str) -> Any:
    return client.post("/sign-in/second-factor/", {"code": code})


def current_code() -> str:
    return pyotp.TOTP(KEY).now()


def is_signed_in(client: Client) -> bool:
    return bool(client.get("/account/").status_code == 200)


def test_an_app_is_added_and_recovery_codes_are_shown_once(bob: User) -> None:
    client = factories.signed_in(bob)
    page = client.get("/account/security/app/").content.decode()
    secret = re.search(r'name="secret" value="([A-Z2-7]{32})"', page)
    assert secret
    assert 'src="data:image/svg+xml' in page
    answer = client.post(
        "/account/security/app/", {"name": "Phone", "secret": secret[1], "code": pyotp.TOTP(secret[1]).now()}
    )
    codes = re.findall(r"\b[a-z2-9]{5}-[a-z2-9]{5}-[a-z2-9]{5}\b", answer.content.decode())
    assert len(set(codes)) == 10
    factor = SecondFactor.objects.get(person=bob)
    with database.cursor() as cursor:
        cursor.execute("SELECT secret FROM connections_secondfactor")
        assert secret[1] not in cursor.fetchone()[0]
    assert factor.secret == secret[1]
    assert not RecoveryCode.objects.filter(digest__in=codes).exists()
    assert secret[1] not in client.get("/account/security/").content.decode()
    assert actions() == ["account.second_factor_added", "account.recovery_codes_made"]


def test_a_wrong_first_code_adds_nothing(bob: User) -> None:
    client = factories.signed_in(bob)
    answer = client.post("/account/security/app/", {"name": "Phone", "secret": KEY, "code": "000000"})
    assert answer.status_code == 422
    assert not SecondFactor.objects.exists()


def test_the_password_alone_no_longer_signs_in(client: Client, bob: User) -> None:
    with_app(bob)
    answer = give_password(client, next="/mailboxes/")
    assert answer["Location"] == "/sign-in/second-factor/"
    assert not is_signed_in(client)
    assert give_code(client, "000000").status_code == 422
    assert not is_signed_in(client)
    answer = give_code(client, current_code())
    assert answer["Location"] == "/mailboxes/"
    assert is_signed_in(client)
    event = AuditEvent.objects.get(action="account.signed_in")
    assert event.changes == {"method": "password", "second_factor": "authenticator app"}


def test_a_code_is_good_once(client: Client, bob: User) -> None:
    with_app(bob)
    code = current_code()
    give_password(client)
    give_code(client, code)
    thief = Client()
    give_password(thief)
    assert give_code(thief, code).status_code == 422
    assert not is_signed_in(thief)


def test_a_recovery_code_is_good_once(client: Client, bob: User) -> None:
    with_app(bob)
    codes = second_factors.make_recovery_codes(bob, actor=bob, now=timezone.now())
    give_password(client)
    assert give_code(client, codes[0].upper().replace("-", " ")).status_code == 302
    assert is_signed_in(client)
    assert AuditEvent.objects.get(action="account.recovery_code_used").changes == {"left": 9}
    other = Client()
    give_password(other)
    assert give_code(other, codes[0]).status_code == 422


def test_codes_cannot_be_guessed(client: Client, bob: User) -> None:
    with_app(bob)
    give_password(client)
    assert [give_code(client, f"{number:06}").status_code for number in range(6)] == [422] * 4 + [429] * 2
    other = Client(REMOTE_ADDR="192.0.2.9")
    give_password(other)
    assert give_code(other, current_code()).status_code == 429, "from other addresses neither"
    sign_in_limits.close_windows(now=timezone.now() + timedelta(minutes=16))
    assert give_code(client, current_code()).status_code == 302


def test_the_second_step_expires_and_needs_the_first(client: Client, bob: User) -> None:
    with_app(bob)
    assert give_code(client, current_code())["Location"] == "/sign-in/"
    give_password(client)
    session = client.session
    session["second_factor_for"] = {**session["second_factor_for"], "at": timezone.now().timestamp() - 601}
    session.save()
    assert give_code(client, current_code())["Location"] == "/sign-in/"
    assert not is_signed_in(client)


@pytest.mark.parametrize("meanwhile", ["password changed", "signed out everywhere", "disabled"])
def test_the_second_step_is_refused_if_the_first_no_longer_counts(client: Client, bob: User, meanwhile: str) -> None:
    with_app(bob)
    give_password(client)
    if meanwhile == "password changed":
        accounts.change_password(bob, password="another-long-pass-phrase", actor=bob)
    elif meanwhile == "signed out everywhere":
        sessions.end_all(bob, actor=bob, now=timezone.now())
    else:
        User.objects.filter(pk=bob.pk).update(is_active=False)
    assert give_code(client, current_code())["Location"] == "/sign-in/"
    assert not is_signed_in(client)


def test_a_confirmation_asks_for_the_second_factor_too(client: Client, bob: User) -> None:
    with_app(bob)
    sign_in(client, bob, is_fresh=False)
    answer = client.post("/account/confirm/", {"password": factories.PASSWORD, "next": "/api-keys/add/"})
    assert answer["Location"] == "/sign-in/second-factor/"
    assert client.get("/api-keys/add/").status_code == 302
    assert give_code(client, current_code())["Location"] == "/api-keys/add/"
    assert client.get("/api-keys/add/").status_code == 200


def test_an_operator_sets_up_a_second_factor_before_anything_else(client: Client) -> None:
    call_command("createsuperuser", "--noinput", username="root", email="root@example.org")
    root = User.objects.get(username="root")
    root.set_password(factories.PASSWORD)
    root.save()
    give_password(client, "root")
    for path in ("/", "/tenants/", "/admin/", "/people/", "/account/"):
        assert client.get(path)["Location"] == "/account/security/", path
    assert client.post("/tenants/add/", {"name": "x"})["Location"] == "/account/security/"
    assert "require a second factor" in client.get("/account/security/").content.decode()
    client.post("/account/security/app/", {"name": "Phone", "secret": KEY, "code": current_code()})
    assert client.get("/admin/").status_code == 200
    assert client.get("/").status_code == 200


def test_an_older_session_of_an_operator_must_give_the_second_factor(client: Client) -> None:
    root = User.objects.create_superuser("root", password=factories.PASSWORD)
    sign_in(client, root, second_factor=False)
    with_app(root)
    assert client.get("/")["Location"] == "/account/confirm/"
    client.post("/account/confirm/", {"password": factories.PASSWORD})
    give_code(client, current_code())
    assert client.get("/").status_code == 200


def test_an_operator_who_signed_in_at_microsoft_needs_none_here(client: Client) -> None:
    root = User.objects.create_superuser("root", password=factories.PASSWORD)
    sign_in(client, root, backend=MICROSOFT, second_factor=False)
    assert client.get("/tenants/").status_code == 200


def test_an_operator_keeps_at_least_one(client: Client) -> None:
    root = User.objects.create_superuser("root", password=factories.PASSWORD)
    sign_in(client, root)
    factor = with_app(root)
    client.post(f"/account/security/{factor.pk}/remove/")
    assert SecondFactor.objects.filter(pk=factor.pk).exists()


def test_removing_the_last_one_removes_the_recovery_codes(bob: User) -> None:
    client, factor = factories.signed_in(bob), with_app(bob)
    second_factors.make_recovery_codes(bob, actor=bob, now=timezone.now())
    client.post(f"/account/security/{factor.pk}/remove/")
    assert not SecondFactor.objects.exists()
    assert not RecoveryCode.objects.exists()
    assert actions()[-1] == "account.second_factor_removed"


def test_another_persons_factor_is_not_found(bob: User, dave: User) -> None:
    factor = with_app(bob)
    assert factories.signed_in(dave).post(f"/account/security/{factor.pk}/remove/").status_code == 404


def test_who_has_lost_everything_is_helped_at_the_command_line(bob: User) -> None:
    with_app(bob)
    call_command("reset_second_factors", "bob")
    assert not SecondFactor.objects.exists()
    assert actions() == ["account.second_factors_reset"]


def test_a_made_up_passkey_is_refused(client: Client, bob: User) -> None:
    SecondFactor.objects.create(
        person=bob, kind=SecondFactor.Kind.PASSKEY, name="Key", credential_id="AAAA", public_key="AAAA"
    )
    give_password(client)
    assert 'data-passkey="get"' in client.get("/sign-in/second-factor/").content.decode()
    for made_up in (
        "{}",
        "x",
        '{"id": "AAAA"}',
        '{"id": "AAAA", "rawId": "AAAA", "response": {}, "type": "public-key"}',
    ):
        assert client.post("/sign-in/second-factor/", {"passkey": made_up}).status_code in (422, 429)
    assert not is_signed_in(client)


def test_changing_the_password_is_recorded_and_ends_the_other_sessions(bob: User) -> None:
    here, elsewhere = factories.signed_in(bob), factories.signed_in(bob)
    new = {"new_password1": "another-long-pass-phrase", "new_password2": "another-long-pass-phrase"}
    assert here.post("/account/password/", new)["Location"] == "/account/"
    assert is_signed_in(here)
    assert not is_signed_in(elsewhere)
    assert actions() == ["account.password_changed"]
