"""The policy applies wherever connections are created, renewed and shared, and a preview shows what a change breaks."""

from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
from django.utils import timezone

from connections.errors import ApprovalNeeded, Conflict, NotAllowed, PolicyForbids
from connections.microsoft import token_endpoint
from connections.microsoft.account_claims import Account
from connections.microsoft.clouds import CONSUMERS_TID
from connections.models import AppRegistration, Approval, AuditEvent, Connection, Policy, Share, Team, User
from connections.services.connections import app_only, connections, sign_in
from connections.services.governance import policy, violations
from connections.services.policy import approvals, evaluate
from connections.services.policy import rules as policy_rules
from connections.services.policy.rules import Rules
from connections.services.sharing import shares as sharing_service
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories
from tests.api.api_client import at_once

NOW = timezone.now()
Status = Connection.Status


def rule(app: AppRegistration | None = None, **given: Any) -> Rules:
    """Store rules without validating them."""
    rules = policy_rules.from_dict(given)
    Policy.objects.update_or_create(app_registration=app, defaults={"rules": policy_rules.to_dict(rules)})
    return rules


def start(actor: User, **overrides: Any) -> Connection:
    app = overrides.pop("app", None) or AppRegistration.objects.first() or factories.make_app_registration()
    values: dict[str, Any] = {"name": "Inbox", "chosen": ["mail.read"], "now": NOW} | overrides
    return connections.start_delegated(app, actor=actor, **values)


def robots() -> AppRegistration:
    return factories.make_app_registration(client_id=seed.ROBOTS_APP, secret=seed.ROBOTS_SECRET, name="Robots")


def answer(*granted: str) -> token_endpoint.TokenSet:
    return token_endpoint.TokenSet("an.access.token", 3600, ("openid", "profile", *granted), "1.a-refresh-token")


def ada(tid: str = factories.DIRECTORY_ID) -> Account:
    return Account(tid, factories.ADA_ID, factories.ADA, "Ada Lovelace")


def finish(connection: Connection, *granted: str, account: Account | None = None) -> None:
    sign_in.complete(connection, actor=connection.owner, answer=answer(*granted), account=account or ada(), now=NOW)


def test_without_a_policy_everything_is_allowed(bob: User) -> None:
    assert evaluate.load_policies().restricts is False
    finish(start(bob, chosen=["mail.send"]), "Mail.Send", "Files.ReadWrite.All")
    assert Connection.objects.get().status == Status.ACTIVE
    assert not Approval.objects.exists()


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ({"authentication_types": []}, {}),
        ({"environments": ["global"]}, {}),
        ({"tenants": []}, {}),
        ({"capabilities": {"mail.read": "forbidden"}}, {}),
        ({"permissions": {"Mail.Read": "forbidden"}}, {}),
        ({"permissions": {"Mail.*": "forbidden"}}, {"chosen": [], "extra_scopes": ["Mail.Send.Shared"]}),
    ],
)
def test_a_forbidden_connection_is_not_created(bob: User, given: dict[str, Any], values: dict[str, Any]) -> None:
    rule(**given)
    with pytest.raises(PolicyForbids, match="the organisation's policy"):
        start(bob, **values)
    assert not Connection.objects.exists()
    assert not AuditEvent.objects.exists()


def test_an_app_registration_can_be_stricter_than_the_organisation_but_not_looser(bob: User) -> None:
    strict, other = factories.make_app_registration(), robots()
    rule(strict, permissions={"Mail.Read": "forbidden"})
    with pytest.raises(PolicyForbids, match="the policy for Contoso Connections"):
        start(bob, app=strict)
    assert start(bob, app=other).pk
    rule(permissions={"Calendars.Read": "forbidden"})
    rule(strict, permissions={"Calendars.Read": "allowed"})
    with pytest.raises(PolicyForbids, match="the organisation's policy"):
        start(bob, app=strict, chosen=["calendar.events"])


def test_a_forbidden_app_only_connection_makes_no_request_to_microsoft(alice: User, sandbox: Control) -> None:
    app = robots()
    rule(authentication_types=["authorization_code"])
    with pytest.raises(PolicyForbids):
        app_only.connect(app, name="Nightly", chosen=["mail.read"], actor=alice, now=NOW)
    assert sandbox.calls()["by_endpoint"] == {}
    assert not Connection.objects.exists()


def test_no_token_is_stored_if_the_application_has_a_forbidden_role(alice: User, sandbox: Control) -> None:
    app = robots()
    before = app_only.connect(app, name="Nightly", chosen=["mail.read"], actor=alice, now=NOW)
    beyond = sorted(before.granted - {"Mail.Read", "User.Read.All"})
    assert beyond, "the sandbox's application has more roles than this takes"
    rule(permissions={beyond[0]: "forbidden"})
    with pytest.raises(PolicyForbids, match="which Microsoft also granted"):
        app_only.connect(app, name="Second", chosen=["mail.read"], actor=alice, now=NOW)
    assert Connection.objects.count() == 1


def test_signing_in_again_is_refused_when_the_policy_has_become_stricter(bob: User) -> None:
    connection = factories.make_connection(owner=bob, status=Status.RECONNECT_NEEDED)
    rule(permissions={"Mail.Read": "forbidden"})
    with pytest.raises(PolicyForbids, match=r"Mail\.Read isn't allowed"):
        sign_in.begin(connection, actor=bob, now=NOW)
    rule(permissions={"Mail.Read": "approval"})
    with pytest.raises(ApprovalNeeded, match=r"Mail\.Read needs an IT admin's approval"):
        sign_in.begin(connection, actor=bob, now=NOW)
    assert not AuditEvent.objects.filter(action="connection.sign_in_started").exists()
    rule()
    sign_in.begin(connection, actor=bob, now=NOW)


def test_a_grant_with_a_forbidden_permission_is_refused_and_not_stored(bob: User) -> None:
    connection = start(bob)
    rule(permissions={"Mail.Send": "forbidden"})
    with pytest.raises(PolicyForbids, match=r"Mail\.Send, which Microsoft also granted, isn't allowed"):
        finish(connection, "Mail.Read", "Mail.Send")
    stored: Any = Connection.objects.get()
    assert (stored.status, stored.refresh_token, stored.access_token) == (Status.PENDING, None, None)
    finish(connection, "Mail.Read")
    assert Connection.objects.get().status == Status.ACTIVE


def test_a_grant_with_a_permission_that_needs_approval_is_stored_only_after_approval(alice: User, bob: User) -> None:
    connection = start(bob)
    rule(permissions={"Mail.Send": "approval"})
    for _ in range(2):
        with pytest.raises(ApprovalNeeded):
            finish(connection, "Mail.Read", "Mail.Send")
    approval = Approval.objects.get()
    assert approval.permissions == ["Mail.Read", "Mail.Send"]
    assert Connection.objects.get().refresh_token is None
    with pytest.raises(ApprovalNeeded):
        sign_in.begin(connection, actor=bob, now=NOW)
    assert Approval.objects.get().is_waiting, "trying again makes no new request"
    approvals.approve(approval, actor=alice, now=NOW)
    finish(connection, "Mail.Read", "Mail.Send")
    assert Connection.objects.get().status == Status.ACTIVE


def test_a_personal_account_is_refused_at_sign_in(bob: User) -> None:
    app = factories.make_multitenant_app(directory_id="common")
    connection = start(bob, app=app)
    rule(personal_accounts=False)
    with pytest.raises(PolicyForbids, match="personal Microsoft accounts isn't allowed"):
        finish(connection, "Mail.Read", account=ada(CONSUMERS_TID))
    assert Connection.objects.get().refresh_token is None
    rule(personal_accounts=True)
    finish(connection, "Mail.Read", account=ada(CONSUMERS_TID))
    assert Connection.objects.get().account_tid == CONSUMERS_TID


def test_an_account_of_a_directory_that_is_not_registered_is_refused(bob: User) -> None:
    factories.make_tenant()
    app = factories.make_multitenant_app()
    rule(other_tenants=False)
    connection = start(bob, app=app)
    with pytest.raises(PolicyForbids, match="unregistered directories"):
        finish(connection, "Mail.Read", account=ada(seed.FABRIKAM))
    assert Connection.objects.get().refresh_token is None
    finish(connection, "Mail.Read", account=ada())
    assert Connection.objects.get().status == Status.ACTIVE


def change(connection: Connection, chosen: list[str], name: str = "Invoices", by: User | None = None) -> bool:
    actor = by or connection.owner
    return connections.change(connection, name=name, chosen=chosen, extra_scopes=(), actor=actor, now=NOW)


def test_a_forbidden_permission_cannot_be_added_but_an_existing_one_is_tolerated(connection: Connection) -> None:
    rule(permissions={"Mail.Read": "forbidden", "Files.Read": "forbidden"})
    assert change(connection, ["mail.read"], name="Renamed") is False
    with pytest.raises(PolicyForbids, match=r"Files\.Read isn't allowed"):
        change(connection, ["mail.read", "files.read"])
    assert (connection.capabilities, Connection.objects.get().capabilities) == (["mail.read"], ["mail.read"])
    change(connection, ["calendar.events"])
    assert Connection.objects.get().capabilities == ["calendar.events"]


def test_a_connection_that_breaks_the_policy_cannot_be_enabled_or_shared(
    bob: User, dave: User, connection: Connection
) -> None:
    connections.disable(connection, actor=bob, now=NOW)
    rule(permissions={"Mail.*": "forbidden"})
    with pytest.raises(PolicyForbids):
        connections.enable(connection, actor=bob, now=NOW)
    with pytest.raises(PolicyForbids):
        sharing_service.share(connection, person=dave, level="use", until=None, actor=bob, now=NOW)
    assert Connection.objects.get().status == Status.DISABLED
    assert not Share.objects.exists()
    rule()
    connections.enable(connection, actor=bob, now=NOW)
    assert Connection.objects.get().status == Status.ACTIVE


def test_a_connection_with_an_account_that_is_forbidden_by_now_cannot_be_enabled(bob: User) -> None:
    connection = factories.make_connection(owner=bob, account_tid=CONSUMERS_TID, status=Status.DISABLED)
    rule(personal_accounts=False)
    with pytest.raises(PolicyForbids, match="personal"):
        connections.enable(connection, actor=bob, now=NOW)


def share(connection: Connection, until: datetime | None = None, **target: Any) -> Share:
    return sharing_service.share(connection, **target, level="use", until=until, actor=connection.owner, now=NOW)


def test_sharing_follows_the_policy_and_names_the_field(dave: User, connection: Connection) -> None:
    team = Team.objects.create(name="Finance")
    rule(share_with_people=False)
    with pytest.raises(PolicyForbids) as caught:
        share(connection, person=dave)
    assert caught.value.field == "whom"
    assert share(connection, team=team).pk
    rule(longest_share_days=7)
    with pytest.raises(PolicyForbids) as caught:
        share(connection, person=dave)
    assert caught.value.field == "until"
    with pytest.raises(PolicyForbids):
        share(connection, NOW + timedelta(days=9), person=dave)
    assert share(connection, NOW + timedelta(days=7), person=dave).pk


def test_app_only_connections_cannot_be_shared_if_the_policy_forbids_it(alice: User) -> None:
    connection = factories.make_app_only_connection()
    rule(share_app_only=False)
    with pytest.raises(PolicyForbids, match="Sharing app-only connections isn't allowed"):
        share(connection, team=Team.objects.create(name="Finance"))


def test_a_share_is_extended_only_within_the_limit(dave: User, connection: Connection) -> None:
    share(connection, NOW + timedelta(days=2), person=dave)
    rule(longest_share_days=7)
    with pytest.raises(PolicyForbids):
        share(connection, NOW + timedelta(days=30), person=dave)
    assert Share.objects.get().until == NOW + timedelta(days=2)


def put(rules: Rules | None = None, *, by: User, app: AppRegistration | None = None, **more: Any) -> policy.Outcome:
    return policy.change(app, rules or Rules(), actor=by, now=NOW, **more)


STRICT = policy_rules.from_dict(
    {"permissions": {"Mail.Read": "forbidden"}, "share_with_people": False, "longest_share_days": 7}
)


def test_only_it_admins_change_the_policy(bob: User, carol: User, alice: User) -> None:
    for person in (bob, carol):
        with pytest.raises(NotAllowed):
            put(STRICT, by=person)
    assert not Policy.objects.exists()
    assert put(STRICT, by=alice).changed


def test_a_change_is_recorded_once_rule_by_rule(alice: User) -> None:
    put(STRICT, by=alice)
    assert put(STRICT, by=alice).changed is False
    put(policy_rules.from_dict({"longest_share_days": 30}), by=alice)
    first, second = AuditEvent.objects.filter(action="policy.changed").order_by("pk")
    assert first.target_name == "Policy of the organisation"
    assert first.changes == {
        "permissions not allowed": ["none", "Mail.Read"],
        "sharing with people": ["allowed", "not allowed"],
        "maximum share duration": ["no limit", "7 days"],
    }
    assert second.changes["maximum share duration"] == ["7 days", "30 days"]
    assert Policy.objects.get().version == 2


def test_an_outdated_form_changes_nothing(alice: User) -> None:
    put(STRICT, by=alice, version=0)
    with pytest.raises(Conflict):
        put(by=alice, version=0)
    assert policy.stored_policy().rules == STRICT
    put(by=alice, version=1)
    assert not policy.stored_policy().rules.restricts


def existing(bob: User, dave: User) -> tuple[Connection, Connection, list[Share]]:
    """Return a connection that violates STRICT, one that does not, and three shares of these connections."""
    reads = factories.make_connection(owner=bob)
    plans = factories.make_connection(
        owner=bob, name="Plans", capabilities=["calendar.events"], granted_scopes="Calendars.Read openid"
    )
    team = Team.objects.create(name="Finance")
    shares = [
        Share.objects.create(connection=plans, person=dave, until=NOW + timedelta(days=1)),
        Share.objects.create(connection=plans, team=team),
        Share.objects.create(connection=reads, team=team, until=NOW + timedelta(days=2)),
    ]
    return reads, plans, shares


def test_the_preview_lists_violations_and_changes_nothing(alice: User, bob: User, dave: User) -> None:
    reads, _, shares = existing(bob, dave)
    factories.make_connection(owner=bob, name="Off", status=Status.DISABLED)
    factories.make_connection(owner=bob, name="Pending", status=Status.PENDING)
    seen = policy.preview(None, STRICT, now=NOW)
    assert [violation.connection for violation in seen.connections] == [reads]
    assert seen.connections[0].sentences == ("Mail.Read isn't allowed by the organisation's policy.",)
    assert [(row.share, row.shorten_to is not None) for row in seen.shares] == [(shares[0], False), (shares[1], True)]
    assert (seen.connection_count, seen.share_count) == (1, 2)
    assert not Policy.objects.exists()


def test_violations_that_are_left_stay_active_and_marked(alice: User, bob: User, dave: User) -> None:
    reads, plans, _ = existing(bob, dave)
    outcome = put(STRICT, by=alice)
    assert (outcome.left_connections, outcome.left_shares, outcome.disabled) == (1, 2, 0)
    assert Connection.objects.filter(status=Status.ACTIVE).count() == 2
    assert list(violations.violations_by_connection(evaluate.load_policies(), [reads, plans])) == [reads.pk]


def test_the_change_does_what_the_preview_showed(alice: User, bob: User, dave: User) -> None:
    reads, plans, shares = existing(bob, dave)
    seen = policy.preview(None, STRICT, now=NOW)
    outcome = put(STRICT, by=alice, on_connections="disable", on_shares="fix", seen=seen.fingerprint)
    assert (outcome.disabled, outcome.ended, outcome.shortened) == (1, 1, 1)
    reads, plans = Connection.objects.get(pk=reads.pk), Connection.objects.get(pk=plans.pk)
    assert (reads.status, reads.refresh_after, reads.status_code) == (Status.DISABLED, None, "policy")
    assert "Mail.Read isn't allowed" in reads.status_cause
    assert plans.status == Status.ACTIVE
    ended, shortened, kept = (Share.objects.get(pk=share.pk) for share in shares)
    assert ended.ended_at == NOW
    assert shortened.until == evaluate.latest_end(7, NOW)
    assert (kept.ended_at, kept.until) == (None, NOW + timedelta(days=2))
    assert not violations.impact(evaluate.load_policies(), now=NOW)
    actions = set(AuditEvent.objects.values_list("action", flat=True))
    assert actions == {"policy.changed", "connection.disabled", "connection.unshared", "connection.share_changed"}


def test_a_change_after_an_outdated_preview_is_refused(alice: User, bob: User, dave: User) -> None:
    seen = policy.preview(None, STRICT, now=NOW)
    existing(bob, dave)
    with pytest.raises(Conflict, match="have changed since your preview"):
        put(STRICT, by=alice, on_connections="disable", seen=seen.fingerprint)
    assert not Policy.objects.exists()
    assert Connection.objects.filter(status=Status.ACTIVE).count() == 2


def test_the_owner_fixes_a_disabled_connection_by_removing_the_permission(alice: User, bob: User, dave: User) -> None:
    reads, _, _ = existing(bob, dave)
    put(STRICT, by=alice, on_connections="disable")
    reads.refresh_from_db()
    with pytest.raises(PolicyForbids):
        connections.enable(reads, actor=bob, now=NOW)
    change(reads, ["calendar.events"])
    with pytest.raises(PolicyForbids, match="Microsoft also granted"):
        connections.enable(reads, actor=bob, now=NOW)
    # The old grant still includes the permission. A new sign-in shows what Microsoft grants now.
    sign_in.begin(reads, actor=bob, now=NOW)
    finish(reads, "Calendars.Read")
    assert Connection.objects.get(pk=reads.pk).status == Status.ACTIVE


def test_the_preview_counts_thousands_but_lists_few(alice: User, bob: User, max_queries: Any) -> None:
    first = factories.make_connection(owner=bob)
    Connection.objects.bulk_create(
        Connection(
            name=f"Inbox {number}", owner=bob, app_registration=first.app_registration, status=Status.RECONNECT_NEEDED,
            tenant=first.tenant, app_consent=first.app_consent,
            authentication_type="authorization_code", capabilities=["mail.read"], connected_at=NOW,
        )
        for number in range(1200)
    )  # fmt: skip
    with max_queries(15):
        seen = policy.preview(None, STRICT, now=NOW)
    assert (seen.connection_count, len(seen.connections)) == (1201, violations.LISTED)
    outcome = put(STRICT, by=alice, on_connections="disable", seen=seen.fingerprint)
    assert outcome.disabled == Connection.objects.filter(status=Status.DISABLED).count() == 1201


def test_the_plain_form_includes_app_registrations_with_rules_only(alice: User) -> None:
    put(STRICT, by=alice)
    put(policy_rules.from_dict({"share_app_only": False}), app=robots(), by=alice)
    put(app=factories.make_app_registration(name="Unrestricted"), by=alice)
    values = policy.current()
    assert policy_rules.from_dict(values["organisation"]) == STRICT
    (own,) = values["app_registrations"].items()
    assert own[0] == "Robots"
    assert policy_rules.from_dict(own[1], of_app=True) == policy_rules.from_dict({"share_app_only": False})


@pytest.mark.only_on("postgres")
@pytest.mark.django_db(transaction=True)
def test_only_one_of_two_simultaneous_changes_is_saved(alice: User) -> None:
    def save(days: int) -> str:
        try:
            put(policy_rules.from_dict({"longest_share_days": days}), by=alice, version=0)
        except Conflict:
            return "too late"
        return f"saved {days}"

    outcomes = at_once(partial(save, 5), partial(save, 6))
    assert sorted(outcomes)[1] == "too late"
    assert f"saved {policy.stored_policy().rules.longest_share_days}" in outcomes
    assert AuditEvent.objects.filter(action="policy.changed").count() == 1
