"""The policy over the API: its rules, their words, and what breaks them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from connections.models import Share, User
from tests import factories
from tests.api.api_client import Program, told, wrong_fields
from tests.services.governance.test_policy import rule

pytestmark = pytest.mark.django_db


def test_it_admins_and_auditors_read_the_rules_and_others_their_words(alice: User, bob: User, carol: User) -> None:
    rule(permissions={"Mail.Send": "forbidden"}, longest_share_days=30)
    for person in (alice, carol):
        found = Program(person).get("policy").json()
        assert (found["rules"]["permissions"], found["rules"]["longest_share_days"]) == ({"Mail.Send": "forbidden"}, 30)
        assert (found["app_registration_id"], found["rules"]["tenants"]) == (None, None)
    seen = Program(bob).get("policy").json()
    assert (seen["rules"], seen["effective"], seen["changed_at"], seen["changed_by"]) == (None, None, None, "")
    assert seen["summary"] == found["summary"]
    assert any("Mail.Send" in words for words in seen["summary"]["forbidden"])


def test_without_a_policy_nothing_is_restricted(alice: User) -> None:
    found = Program(alice).get("policy").json()
    assert (found["changed_at"], found["rules"]["personal_accounts"], found["rules"]["permissions"]) == (None, True, {})
    assert found["summary"] == {"forbidden": [], "approval": [], "allowed": [], "limits": []}


def test_for_an_app_registration_the_stricter_rule_counts(alice: User, bob: User) -> None:
    app = factories.make_app_registration()
    rule(longest_share_days=30, permissions={"Mail.Send": "approval"})
    rule(app, longest_share_days=90, permissions={"Mail.Send": "forbidden"})
    found = Program(alice).get(f"app-registrations/{app.pk}/policy").json()
    assert (found["rules"]["longest_share_days"], found["effective"]["longest_share_days"]) == (90, 30)
    assert found["effective"]["permissions"] == {"Mail.Send": "forbidden"}
    assert Program(bob).get(f"app-registrations/{app.pk}/policy").json()["rules"] is None
    assert told(Program(alice, name="2").get(f"app-registrations/{10**9}/policy")) == (404, "not_found")


def test_what_breaks_the_policy_is_listed_and_counted(alice: User, bob: User, carol: User, dave: User) -> None:
    first, second = (factories.make_connection(owner=bob, name=name) for name in ("A", "B"))
    factories.make_connection(owner=bob, name="C", capabilities=[], scopes="", granted_scopes="")
    long = Share.objects.create(
        connection=second, person=dave, created_by=bob, until=timezone.now() + timedelta(days=300)
    )
    rule(permissions={"Mail.Read": "approval"}, longest_share_days=30)
    program = Program(carol)
    found = program.get("policy/violations").json()
    listed = [(one["connection_id"], one["effect"]) for one in found["connections"]]
    assert listed == [(first.pk, "approval"), (second.pk, "approval")]
    assert "Mail.Read" in found["connections"][0]["why"][0]
    assert [(one["share_id"], one["shared_with"]) for one in found["shares"]] == [(long.pk, "Dave Stranger")]
    assert found["shares"][0]["shorten_to"] is not None
    fewer = program.get("policy/violations", limit=1).json()
    assert (len(fewer["connections"]), fewer["connection_count"], fewer["share_count"]) == (1, 2, 1)


def test_what_breaks_it_is_not_for_members_nor_for_keys_of_chosen_connections(alice: User, bob: User) -> None:
    assert told(Program(bob).get("policy/violations")) == (403, "not_allowed")
    narrowed = Program(alice, only=[])
    for path in ("policy", "policy/violations"):
        assert told(narrowed.get(path)) == (403, "not_allowed")
    program = Program(alice, name="2")
    assert wrong_fields(program.get("policy/violations", limit=0)) == {"limit"}
    assert told(program.get("policy", app=1)) == (400, "unknown_parameter")
    assert told(Program(alice, name="3", scopes=["connections:read"]).get("policy")) == (403, "not_allowed")
