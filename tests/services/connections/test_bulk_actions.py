"""Actions on many connections: what is previewed happens, the rest is skipped with its reason, and nothing is lost."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection as database
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from connections.errors import Conflict, InvalidInput, NotAllowed
from connections.models import AuditEvent, BulkAction, BulkItem, Connection, ConnectionTag, Share, Team, User
from connections.services.connections import bulk_actions, bulk_execution, connections
from connections.services.connections.bulk_options import Options
from connections.services.governance import policy
from connections.services.policy.rules import Rules
from connections.services.tokens import scheduler
from portal.sandbox.client import Control
from tests import factories

pytestmark = pytest.mark.django_db
NOW = timezone.now
Action, State = BulkAction.Action, BulkAction.State


@pytest.fixture
def three(bob: User) -> list[Connection]:
    return [factories.make_connection(name=name) for name in ("Archive", "Invoices", "Support")]


def started(action: str, rows: list[Connection], actor: User, options: Options | None = None) -> BulkAction:
    bulk_action = bulk_actions.draft(action, rows, actor=actor, now=NOW())
    if options is not None:
        bulk_actions.preview(bulk_action, options, actor=actor, now=NOW())
    bulk_actions.start(bulk_action, actor=actor, now=NOW())
    return bulk_action


def outcome(bulk_action: BulkAction) -> dict[str, tuple[str, str]]:
    return {item.connection_name: (item.state, item.note) for item in bulk_action.items.all()}


def statuses() -> dict[str, str]:
    return dict(Connection.objects.values_list("name", "status"))


def test_a_draft_changes_nothing_and_says_what_it_would_skip(alice: User, three: list[Connection]) -> None:
    connections.disable(three[1], actor=alice, now=NOW())
    before = statuses()
    bulk_action = bulk_actions.draft(Action.DISABLE, three, actor=alice, now=NOW())
    assert outcome(bulk_action) == {
        "Archive": ("waiting", ""),
        "Invoices": ("skipped", "It is already disabled."),
        "Support": ("waiting", ""),
    }
    assert bulk_execution.run_due(NOW) == 0
    assert statuses() == before


def test_it_disables_and_records_each_connection_under_one_operation(alice: User, three: list[Connection]) -> None:
    bulk_action = started(Action.DISABLE, three, alice)
    assert bulk_execution.run_due(NOW) == 3
    assert set(statuses().values()) == {"disabled"}
    bulk_action.refresh_from_db()
    assert bulk_action.state == State.DONE
    events = AuditEvent.objects.filter(request_id=str(bulk_action.operation))
    assert sorted(events.values_list("action", "target_name")) == [
        ("connection.disabled", name) for name in ("Archive", "Invoices", "Support")
    ]
    assert {event.actor_id for event in events} == {alice.pk}
    start = AuditEvent.objects.get(action="bulk_action.started")
    assert start.changes == {"action": "disable", "connections": 3, "operation": str(bulk_action.operation)}


def test_it_enables_what_may_be_enabled(alice: User, three: list[Connection]) -> None:
    for row in three[:2]:
        connections.disable(row, actor=alice, now=NOW())
    bulk_action = started(Action.ENABLE, three, alice)
    bulk_execution.run_due(NOW)
    assert outcome(bulk_action)["Support"] == ("skipped", "It isn't disabled.")
    assert set(statuses().values()) == {"active"}


def test_it_removes_and_says_what_is_in_use(bob: User, three: list[Connection]) -> None:
    key, _ = factories.make_key(bob)
    three[0].fetches.create(
        key=key, key_name=key.name, owner_name="Bob", connection_name="Archive", minute=NOW(), count=1
    )
    bulk_action = started(Action.REMOVE, three[:2], bob)
    assert outcome(bulk_action)["Archive"][1] == "In use: tokens were requested in the last 30 days."
    bulk_execution.run_due(NOW)
    assert set(statuses()) == {"Support"}
    assert {state for state, _ in outcome(bulk_action).values()} == {"done"}


def test_it_shares_with_people_and_teams_except_the_owner(bob: User, dave: User, three: list[Connection]) -> None:
    carol = factories.make_person("una")
    team = Team.objects.create(name="Finance", created_by=bob)
    until = NOW() + timedelta(days=30)
    options = Options(people=(dave, carol, bob), teams=(team,), level="use", until=until)
    started(Action.SHARE, three[:2], bob, options)
    bulk_execution.run_due(NOW)
    for row in three[:2]:
        shares = Share.objects.filter(connection=row)
        assert {share.person or share.team for share in shares} == {dave, carol, team}
        assert {share.until for share in shares} == {until}
    assert not Share.objects.filter(connection=three[2]).exists()


def test_a_connection_is_shared_with_all_or_with_nobody(bob: User, dave: User, three: list[Connection]) -> None:
    una = factories.make_person("una")
    bulk_action = started(Action.SHARE, three[:1], bob, Options(people=(dave, una)))
    una.is_active = False
    una.save(update_fields=["is_active"])
    bulk_execution.run_due(NOW)
    state, note = outcome(bulk_action)["Archive"]
    assert state == "skipped"
    assert note.startswith("Una User can't sign in")
    assert not Share.objects.exists()


def test_an_admin_gets_no_access_to_others_connections_by_it(alice: User, three: list[Connection]) -> None:
    bulk_action = bulk_actions.draft(Action.SHARE, three[:1], actor=alice, now=NOW())
    bulk_actions.preview(bulk_action, Options(people=(alice,)), actor=alice, now=NOW())
    state, note = outcome(bulk_action)["Archive"]
    assert state == "skipped"
    assert "needs approval by a second person" in note
    # Whoever forges the preview gets no further.
    bulk_action.items.update(state="waiting", note="")
    bulk_actions.start(bulk_action, actor=alice, now=NOW())
    bulk_execution.run_due(NOW)
    assert outcome(bulk_action)["Archive"][0] == "skipped"
    assert not Share.objects.exists()


def test_the_policy_is_part_of_the_preview(alice: User, bob: User, dave: User, three: list[Connection]) -> None:
    policy.change(None, Rules(share_with_people=False), actor=alice, now=NOW())
    bulk_action = bulk_actions.draft(Action.SHARE, three[:1], actor=bob, now=NOW())
    bulk_actions.preview(bulk_action, Options(people=(dave,)), actor=bob, now=NOW())
    state, note = outcome(bulk_action)["Archive"]
    assert state == "skipped"
    assert "teams" in note


def test_it_transfers_what_the_new_owner_can_get(alice: User, bob: User, dave: User, three: list[Connection]) -> None:
    factories.make_connection(name="Archive", owner=dave)
    app_only = factories.make_app_only_connection(owner=bob)
    bulk_action = started(Action.TRANSFER, [*three, app_only], alice, Options(owner=dave, keep_grant=True))
    assert outcome(bulk_action)["Archive"] == (
        "skipped", "Dave Stranger already has a connection with this name."
    )  # fmt: skip
    assert outcome(bulk_action)["Support"][1] == "Keeps working until Dave Stranger has signed in."
    bulk_execution.run_due(NOW)
    owners = dict(Connection.objects.exclude(owner=dave, name="Archive").values_list("name", "owner"))
    assert owners == {"Archive": bob.pk, "Invoices": dave.pk, "Support": dave.pk, "Nightly robot": dave.pk}


def test_it_tests_with_microsoft_one_after_the_other(alice: User, sandbox: Control) -> None:
    good = factories.make_granted_connection(sandbox, name="Good")
    never = factories.make_connection(
        name="Never", status="pending", refresh_token=None, access_token=None, connected_at=None
    )
    bulk_action = started(Action.CHECK, [good, never], alice)
    assert outcome(bulk_action)["Never"][0] == "skipped"
    bulk_execution.run_due(NOW)
    assert outcome(bulk_action)["Good"] == ("done", "Active")
    assert AuditEvent.objects.filter(action="connection.checked").count() == 1


def test_tags_are_added_and_removed(bob: User, three: list[Connection]) -> None:
    three[0].tags.create(name="nightly")
    started(Action.TAG, three[:2], bob, Options(tags=("finance", "nightly")))
    bulk_execution.run_due(NOW)
    assert [tag.name for tag in three[0].tags.all()] == ["finance", "nightly"]
    started(Action.UNTAG, three, bob, Options(tags=("nightly",)))
    bulk_execution.run_due(NOW)
    assert [tag.name for tag in three[1].tags.all()] == ["finance"]


def test_somebody_elses_connections_are_skipped(dave: User, max_: User, three: list[Connection]) -> None:
    Share.objects.create(connection=three[0], person=max_, level="manage", created_by=three[0].owner)
    bulk_action = bulk_actions.draft(Action.REMOVE, three, actor=max_, now=NOW())
    assert outcome(bulk_action) == {
        "Archive": ("skipped", "Only its owner and IT admins can do this."),
        "Invoices": ("skipped", "It was removed, or you can no longer see it."),
        "Support": ("skipped", "It was removed, or you can no longer see it."),
    }
    with pytest.raises(InvalidInput):
        bulk_actions.start(bulk_action, actor=max_, now=NOW())


@pytest.fixture
def max_(db: None) -> User:
    return factories.make_person("max")


def test_a_right_lost_in_the_meantime_counts(bob: User, dave: User, three: list[Connection]) -> None:
    bulk_action = started(Action.DISABLE, three, bob)
    Connection.objects.filter(pk=three[2].pk).update(owner=dave)
    bulk_execution.run_due(NOW)
    assert statuses() == {"Archive": "disabled", "Invoices": "disabled", "Support": "active"}
    assert outcome(bulk_action)["Support"] == ("skipped", "It was removed, or you can no longer see it.")


def test_it_stops_when_its_person_is_disabled(alice: User, three: list[Connection]) -> None:
    bulk_action = started(Action.DISABLE, three, alice)
    alice.is_active = False
    alice.save(update_fields=["is_active"])
    assert bulk_execution.run_due(NOW) == 0
    bulk_action.refresh_from_db()
    assert bulk_action.state == State.STOPPED
    assert bulk_action.stop_reason == "Alice Admin can't sign in to this portal any longer."
    assert set(statuses().values()) == {"active"}


def killed_at(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the worker die while it disables connection ``number``, after the change and before the commit."""
    calls: list[Connection] = []
    real = connections.disable

    def dying(connection: Connection, **arguments: Any) -> None:
        calls.append(connection)
        real(connection, **arguments)
        if len(calls) == number:
            raise KeyboardInterrupt

    monkeypatch.setattr(connections, "disable", dying)


def test_another_worker_resumes_after_the_lease(
    alice: User, three: list[Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    bulk_action = started(Action.DISABLE, three, alice)
    with monkeypatch.context() as patch:
        killed_at(2, patch)
        with pytest.raises(KeyboardInterrupt):
            bulk_execution.run_due(NOW)
    # What was under way is neither done nor marked; the lease still belongs to the dead worker.
    assert statuses() == {"Archive": "disabled", "Invoices": "active", "Support": "active"}
    assert bulk_execution.run_due(NOW) == 0
    assert bulk_execution.run_due(lambda: NOW() + bulk_execution.LEASE) == 2
    assert set(statuses().values()) == {"disabled"}
    assert AuditEvent.objects.filter(action="connection.disabled").count() == 3
    bulk_action.refresh_from_db()
    assert bulk_action.state == State.DONE


def test_a_run_leaves_the_worker_after_its_slice(alice: User, three: list[Connection]) -> None:
    started(Action.DISABLE, three, alice)
    clock = iter(range(1000))
    begin = NOW()

    def slow() -> datetime:
        return begin + next(clock) * timedelta(seconds=8)

    assert bulk_execution.run_due(slow) == 1
    assert bulk_execution.run_due(lambda: begin + timedelta(hours=1)) == 2


def test_the_longest_waiting_action_is_next(alice: User, bob: User, three: list[Connection]) -> None:
    first, second = started(Action.DISABLE, three, alice), started(Action.TAG, three, bob, Options(tags=("a",)))
    BulkAction.objects.filter(pk=first.pk).update(claimed_until=NOW() - timedelta(seconds=1))
    clock = iter(range(1000))
    begin = NOW()
    bulk_execution.run_due(lambda: begin + next(clock) * timedelta(seconds=8))
    assert first.items.filter(state="waiting").count() == 3
    assert second.items.filter(state="waiting").count() == 2


def test_stopping_keeps_what_is_done(alice: User, three: list[Connection], monkeypatch: pytest.MonkeyPatch) -> None:
    bulk_action = started(Action.DISABLE, three, alice)
    real = connections.disable

    def stopped_meanwhile(connection: Connection, **arguments: Any) -> None:
        real(connection, **arguments)
        bulk_actions.stop(bulk_action, actor=alice, now=NOW())

    monkeypatch.setattr(connections, "disable", stopped_meanwhile)
    assert bulk_execution.run_due(NOW) == 1
    bulk_action.refresh_from_db()
    assert (bulk_action.state, bulk_action.stop_reason) == (State.STOPPED, "Alice Admin stopped it.")
    assert sorted(state for state, _ in outcome(bulk_action).values()) == ["done", "waiting", "waiting"]
    assert AuditEvent.objects.get(action="bulk_action.stopped").changes["not_done"] == 2


def test_one_failing_connection_keeps_no_other_from_being_done(
    alice: User, three: list[Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    bulk_action = started(Action.DISABLE, three, alice)
    real = connections.disable

    def failing(connection: Connection, **arguments: Any) -> None:
        real(connection, **arguments)
        if connection.name == "Invoices":
            raise RuntimeError("a secret detail")

    monkeypatch.setattr(connections, "disable", failing)
    bulk_execution.run_due(NOW)
    assert statuses() == {"Archive": "disabled", "Invoices": "active", "Support": "disabled"}
    assert "secret detail" not in outcome(bulk_action)["Invoices"][1]
    assert str(bulk_action.operation) in outcome(bulk_action)["Invoices"][1]


def test_a_rule_of_the_database_that_one_connection_breaks_stops_no_other(
    alice: User, three: list[Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the action would fail there whenever its lease ends, for ever."""
    bulk_action = started(Action.DISABLE, three, alice)
    real = connections.disable

    def refused(connection: Connection, **arguments: Any) -> None:
        real(connection, **arguments)
        if connection.name == "Archive":
            ConnectionTag.objects.bulk_create(ConnectionTag(connection=connection, name="twice") for _ in range(2))

    monkeypatch.setattr(connections, "disable", refused)
    bulk_execution.run_due(NOW)
    assert statuses() == {"Archive": "active", "Invoices": "disabled", "Support": "disabled"}
    assert outcome(bulk_action)["Archive"][0] == "skipped"
    bulk_action.refresh_from_db()
    assert bulk_action.state == State.DONE


def test_sharing_with_nobody_is_not_done(bob: User, dave: User, three: list[Connection]) -> None:
    team = Team.objects.create(name="Finance", created_by=bob)
    bulk_action = started(Action.SHARE, three[:1], bob, Options(teams=(team,)))
    team.delete()
    bulk_execution.run_due(NOW)
    assert outcome(bulk_action)["Archive"] == ("skipped", "None of the recipients is available.")


def test_two_workers_do_nothing_twice(alice: User, three: list[Connection]) -> None:
    bulk_action = started(Action.DISABLE, three, alice)
    item = bulk_action.items.get(connection_name="Archive")
    bulk_execution._handle(bulk_action, item, alice, NOW())
    bulk_execution._handle(bulk_action, item, alice, NOW())
    assert AuditEvent.objects.filter(action="connection.disabled").count() == 1


def test_an_action_is_started_once_and_by_its_person(alice: User, bob: User, three: list[Connection]) -> None:
    bulk_action = bulk_actions.draft(Action.CHECK, three, actor=bob, now=NOW())
    with pytest.raises(NotAllowed):
        bulk_actions.start(bulk_action, actor=alice, now=NOW())
    for _ in range(2):
        bulk_actions.start(bulk_action, actor=bob, now=NOW())
    assert AuditEvent.objects.filter(action="bulk_action.started").count() == 1
    with pytest.raises(Conflict):
        bulk_actions.preview(bulk_action, Options(), actor=bob, now=NOW())


def test_what_was_discarded_in_another_tab_is_not_started(bob: User, three: list[Connection]) -> None:
    bulk_action = bulk_actions.draft(Action.CHECK, three, actor=bob, now=NOW())
    bulk_actions.discard(BulkAction.objects.get(), actor=bob)
    with pytest.raises(Conflict, match="discarded"):
        bulk_actions.start(bulk_action, actor=bob, now=NOW())
    assert not AuditEvent.objects.filter(action="bulk_action.started").exists()


def test_options_are_previewed_before_the_start(bob: User, three: list[Connection]) -> None:
    bulk_action = bulk_actions.draft(Action.TAG, three, actor=bob, now=NOW())
    with pytest.raises(Conflict):
        bulk_actions.start(bulk_action, actor=bob, now=NOW())


def test_auditors_prepare_nothing(carol: User, three: list[Connection]) -> None:
    with pytest.raises(NotAllowed):
        bulk_actions.draft(Action.CHECK, three, actor=carol, now=NOW())


def test_the_number_of_connections_and_actions_is_bounded(
    bob: User, three: list[Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(bulk_actions.MOST_DRAFTS + 2):
        bulk_actions.draft(Action.CHECK, three, actor=bob, now=NOW())
    assert BulkAction.objects.count() == bulk_actions.MOST_DRAFTS
    monkeypatch.setattr(bulk_actions, "MOST_RUNNING", 1)
    started(Action.CHECK, three, bob)
    with pytest.raises(InvalidInput, match="in progress"):
        started(Action.CHECK, three, bob)
    monkeypatch.setattr(bulk_actions, "MOST_CONNECTIONS", 2)
    with pytest.raises(InvalidInput, match="up to 2"):
        bulk_actions.draft(Action.CHECK, three, actor=bob, now=NOW())
    with pytest.raises(InvalidInput, match="at least one"):
        bulk_actions.draft(Action.CHECK, [], actor=bob, now=NOW())


def test_drafts_go_after_a_day_and_results_after_thirty(alice: User, bob: User, three: list[Connection]) -> None:
    bulk_actions.draft(Action.CHECK, three, actor=bob, now=NOW() - timedelta(days=2))
    result = started(Action.DISABLE, three, alice)
    bulk_execution.run_due(NOW)
    running = started(Action.TAG, three, bob, Options(tags=("a",)))
    bulk_actions.prune(now=NOW())
    assert set(BulkAction.objects.all()) == {result, running}
    bulk_actions.prune(now=NOW() + timedelta(days=31))
    assert set(BulkAction.objects.all()) == {running}
    assert set(BulkItem.objects.values_list("bulk_action", flat=True)) == {running.pk}


@pytest.mark.parametrize("action", [Action.CHECK, Action.DISABLE, Action.REMOVE])
def test_a_preview_needs_no_more_queries_for_more_connections(action: str, alice: User, bob: User) -> None:
    def queries(count: int) -> int:
        rows = [factories.make_connection(name=f"{count} {number}") for number in range(count)]
        with CaptureQueriesContext(database) as seen:
            bulk_actions.draft(action, rows, actor=alice, now=NOW())
        return len(seen)

    queries(1)  # reads the person's roles once
    assert queries(2) == queries(30)


def test_microsoft_is_asked_for_one_connection_at_a_time(
    alice: User, three: list[Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed: list[int] = []

    def claim_one(pk: int, *, now: datetime) -> list[Any]:
        claimed.append(pk)
        return []

    monkeypatch.setattr(scheduler, "claim_one", claim_one)
    started(Action.CHECK, three, alice)
    bulk_execution.run_due(NOW)
    assert claimed == [row.pk for row in three]
