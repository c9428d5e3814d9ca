"""Staff or an operator sets a password for somebody else's account, signs in as them and uses their connections."""

from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse
from social_django.models import UserSocialAuth

from connections.models import AuditEvent, Delivery, User
from tests import factories

pytestmark = pytest.mark.django_db

NEW = "another-long-pass-phrase"


@pytest.fixture(params=["superuser", "staff"])
def attacker(request: pytest.FixtureRequest, db: None) -> Client:
    if request.param == "superuser":
        return factories.signed_in(User.objects.create_superuser("root", "root@example.org", factories.PASSWORD))
    staff = factories.make_person("stan", is_staff=True)
    staff.user_permissions.set(Permission.objects.filter(content_type__model="user"))
    return factories.signed_in(staff)


def without_password(person: User) -> User:
    person.set_unusable_password()
    person.save()
    return person


def at_microsoft(person: User) -> User:
    UserSocialAuth.objects.create(user=person, provider="microsoft", uid="t.o")
    return person


def set_password(client: Client, person: User, **values: Any) -> Any:
    path = reverse("admin:auth_user_password_change", args=[person.pk])
    return client.post(path, {"password1": NEW, "password2": NEW, "usable_password": "true", **values})


def change(client: Client, person: User, **values: Any) -> Any:
    path = reverse("admin:connections_user_change", args=[person.pk])
    return client.post(path, {"username": person.username, "email": person.email, **values})


def gets_in(person: User) -> bool:
    return Client().post("/sign-in/", {"username": person.username, "password": NEW}).status_code == 302


def messages() -> dict[str, str]:
    return dict(Delivery.objects.values_list("email", "subject"))


def test_a_microsoft_account_gets_no_password(attacker: Client, bob: User) -> None:
    answer = set_password(attacker, at_microsoft(without_password(bob)))
    assert "signs in with Microsoft, so this account can&#x27;t have a password here." in answer.content.decode()
    assert not gets_in(bob)
    assert not AuditEvent.objects.filter(action="account.password_changed").exists()


def test_a_password_that_a_microsoft_account_has_can_only_be_taken_away(attacker: Client, bob: User) -> None:
    assert set_password(attacker, at_microsoft(bob)).status_code == 200
    assert not gets_in(bob)
    assert set_password(attacker, bob, usable_password="false", **{"unset-password": "1"}).status_code == 302
    assert not User.objects.get(pk=bob.pk).has_usable_password()


@pytest.mark.parametrize("owns", ["a connection", "a key"])
def test_nor_does_an_account_without_a_password_that_owns_something(attacker: Client, bob: User, owns: str) -> None:
    without_password(bob)
    if owns == "a key":
        factories.make_key(bob)
    else:
        factories.make_connection(owner=bob)
    assert "owns connections or API keys" in set_password(attacker, bob).content.decode()
    assert not gets_in(bob)


def test_nor_does_a_service_account(attacker: Client, bob: User) -> None:
    service = factories.make_service_account(responsible=bob)
    assert "Service accounts can&#x27;t sign in." in set_password(attacker, service).content.decode()


def test_a_new_account_without_anything_gets_its_first_password(attacker: Client, dave: User) -> None:
    assert set_password(attacker, without_password(dave)).status_code == 302
    assert gets_in(dave)


def test_name_and_address_of_a_microsoft_account_come_from_the_directory(attacker: Client, bob: User) -> None:
    change(attacker, at_microsoft(bob), username="robert", email="evil@example.org")
    bob.refresh_from_db()
    assert (bob.username, bob.email) == ("bob", "bob@example.org")


def test_a_password_set_for_somebody_alarms_them_it_admins_and_auditors(
    attacker: Client, alice: User, carol: User, bob: User
) -> None:
    assert set_password(attacker, bob).status_code == 302
    event = AuditEvent.objects.get(action="account.password_changed")
    assert (event.target_name, event.changes) == ("Bob Member", {})
    assert event.actor is not None
    assert event.actor.username in ("root", "stan")
    assert messages().keys() >= {"bob@example.org", "alice@example.org", "carol@example.org"}
    assert messages()["bob@example.org"].endswith("changed the password of your account")
    assert messages()["alice@example.org"].endswith("changed the password of Bob Member")
    assert NEW not in str(list(Delivery.objects.values_list("payload", flat=True)))


def test_an_address_changed_for_somebody_alarms_them_at_the_old_one(attacker: Client, alice: User, bob: User) -> None:
    Delivery.objects.all().delete()
    change(attacker, bob, email="evil@example.org")
    assert User.objects.get(pk=bob.pk).email == "evil@example.org"
    event = AuditEvent.objects.get(action="account.updated")
    assert event.changes == {"email": ["bob@example.org", "evil@example.org"]}
    assert messages()["bob@example.org"].endswith("changed the email address of your account")
    assert "alice@example.org" in messages()
    assert "evil@example.org" not in messages()


def test_saving_without_a_change_alarms_nobody(attacker: Client, alice: User, bob: User) -> None:
    change(attacker, bob)
    assert messages() == {}
