"""The policy's rules, their summary, and violations."""

from datetime import timedelta

from django.utils import timezone

from connections.models import AppRegistration, Share, User
from tests import factories
from tests.api.api_client import NOT_ALLOWED, NOT_FOUND, Program, problem, wrong_fields
from tests.services.governance.test_policy import rule


def test_it_admins_and_auditors_read_the_rules_and_others_a_summary(alice: User, bob: User, carol: User) -> None:
    rule(permissions={"Mail.Send": "forbidden"}, longest_share_days=30)
    for person in (alice, carol):
        policy = Program(person).get("policy").json()
        assert policy["rules"]["permissions"] == {"Mail.Send": "forbidden"}
        assert policy["rules"]["longest_share_days"] == 30
        assert (policy["app_registration_id"], policy["rules"]["tenants"]) == (None, None)
    seen = Program(bob).get("policy").json()
    assert (seen["rules"], seen["effective"], seen["changed_at"], seen["changed_by"]) == (None, None, None, "")
    assert seen["summary"] == policy["summary"]
    assert any("Mail.Send" in words for words in seen["summary"]["forbidden"])


def test_without_a_policy_nothing_is_restricted(alice: User) -> None:
    policy = Program(alice).get("policy").json()
    assert (policy["changed_at"], policy["rules"]["personal_accounts"]) == (None, True)
    assert policy["rules"]["permissions"] == {}
    assert policy["summary"] == {"forbidden": [], "approval": [], "allowed": [], "limits": []}


def test_the_stricter_rule_applies_to_an_app_registration(alice: User, bob: User, app: AppRegistration) -> None:
    rule(longest_share_days=30, permissions={"Mail.Send": "approval"})
    rule(app, longest_share_days=90, permissions={"Mail.Send": "forbidden"})
    policy = Program(alice).get(f"app-registrations/{app.pk}/policy").json()
    assert (policy["rules"]["longest_share_days"], policy["effective"]["longest_share_days"]) == (90, 30)
    assert policy["effective"]["permissions"] == {"Mail.Send": "forbidden"}
    assert Program(bob).get(f"app-registrations/{app.pk}/policy").json()["rules"] is None
    assert problem(Program(alice).get(f"app-registrations/{10**9}/policy")) == NOT_FOUND


def test_policy_violations_are_listed_and_counted(alice: User, bob: User, carol: User, dave: User) -> None:
    first, second = (factories.make_connection(owner=bob, name=name) for name in ("A", "B"))
    factories.make_connection(owner=bob, name="C", capabilities=[], scopes="", granted_scopes="")
    long = Share.objects.create(
        connection=second, person=dave, created_by=bob, until=timezone.now() + timedelta(days=300)
    )
    rule(permissions={"Mail.Read": "approval"}, longest_share_days=30)
    program = Program(carol)
    violations = program.get("policy/violations").json()
    listed = [(item["connection_id"], item["effect"]) for item in violations["connections"]]
    assert listed == [(first.pk, "approval"), (second.pk, "approval")]
    assert "Mail.Read" in violations["connections"][0]["why"][0]
    assert [(item["share_id"], item["shared_with"]) for item in violations["shares"]] == [(long.pk, "Dave Stranger")]
    assert violations["shares"][0]["shorten_to"] is not None
    fewer = program.get("policy/violations", limit=1).json()
    assert (len(fewer["connections"]), fewer["connection_count"], fewer["share_count"]) == (1, 2, 1)


def test_violations_are_hidden_from_members_and_limited_keys(alice: User, bob: User) -> None:
    assert problem(Program(bob).get("policy/violations")) == NOT_ALLOWED
    narrowed = Program(alice, only=[])
    for path in ("policy", "policy/violations"):
        assert problem(narrowed.get(path)) == NOT_ALLOWED
    program = Program(alice)
    assert wrong_fields(program.get("policy/violations", limit=0)) == {"limit"}
    assert problem(program.get("policy", app=1)) == (400, "unknown_parameter")
    assert problem(Program(alice, scopes=["connections:read"]).get("policy")) == NOT_ALLOWED
