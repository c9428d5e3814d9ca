"""The state that everything shows of a connection: computed for a row and in SQL, in the same way."""

import itertools
from collections import Counter
from typing import Any

import pytest
from django.utils import timezone

from connections import effective_status, presentation
from connections.effective_status import EffectiveStatus
from connections.errors import ApprovalNeeded
from connections.microsoft import account_status
from connections.models import AppConsent, Approval, Connection, ConsentRequest, User
from connections.services.operations import health
from tests import factories, full_dataset

Status, Requested = Connection.Status, ConsentRequest.State
CODES = ("", ApprovalNeeded.code, sorted(account_status.GONE_CODES)[0], "AADSTS65001")
REQUESTS = ("", "approval", "consent", "both", "approved", "granted", "decided")


def ask(connection: Connection, requests: str) -> None:
    if requests in ("approval", "both"):
        full_dataset.make_approval(connection)
    if requests == "decided":
        decided = {"decided_at": timezone.now(), "decided_by_name": "Alice"}
        full_dataset.make_approval(connection, state=Approval.State.DECLINED, **decided)
        factories.make_consent_request(connection, state=Requested.DECLINED, closed_at=timezone.now())
    if requests in ("consent", "both"):
        factories.make_consent_request(connection)
    if requests in ("approved", "granted"):
        factories.make_consent_request(connection, state=requests)


@pytest.fixture
def all_combinations(bob: User) -> list[Connection]:
    """Create a connection of every status, code, rejection and open request."""
    good = factories.make_app_registration()
    rejected = factories.make_app_registration(
        name="Rejected", client_id="r" * 36, tenant=good.tenant, rejected_at=timezone.now()
    )
    in_one_tenant = factories.make_app_registration(name="Half", client_id="h" * 36, tenant=good.tenant)
    AppConsent.objects.filter(app_registration=in_one_tenant).update(rejected_at=timezone.now())
    connections = []
    for number, (status, code, app, requests) in enumerate(
        itertools.product(Status, CODES, (good, rejected, in_one_tenant), REQUESTS)
    ):
        connection = factories.make_connection(
            name=f"Number {number}", owner=bob, app_registration=app, status=status, status_code=code
        )
        ask(connection, requests)
        connections.append(connection)
    app_only = {"status": Status.RECONNECT_NEEDED, "status_code": CODES[2]}
    connections.append(factories.make_app_only_connection(owner=bob, app_registration=good, **app_only))
    return connections


def test_a_row_and_sql_agree_about_every_combination(all_combinations: list[Connection], max_queries: Any) -> None:
    rows = list(Connection.objects.select_related("app_registration", "app_consent").order_by("pk"))
    assert len(rows) == len(all_combinations)
    with max_queries(1):
        effective_status.load(rows)
        by_row = {row.pk: effective_status.of(row).value for row in rows}
    assert set(by_row.values()) == set(EffectiveStatus), "every state occurs"
    for state in EffectiveStatus:
        met = set(Connection.objects.filter(effective_status.condition(state)).values_list("pk", flat=True))
        assert met == {pk for pk, value in by_row.items() if value == state}
    counts = Counter(by_row.values())
    incomplete = effective_status.count_incomplete(Connection.objects.all())
    assert incomplete == {state: counts[state] for state in incomplete}
    assert incomplete.total() == sum(row.status in effective_status.INCOMPLETE for row in rows)
    metrics = {dict(row.labels)["status"]: row.value for row in health.metrics() if row.name == "portal_connections"}
    assert metrics == {state.value: counts[state] for state in EffectiveStatus}


def test_a_connection_that_works_or_is_disabled_costs_no_query(bob: User, max_queries: Any) -> None:
    pks = [
        factories.make_connection(owner=bob, name=name, status=name).pk for name in ("active", "blocked", "disabled")
    ]
    rows = list(Connection.objects.select_related("app_registration", "app_consent").filter(pk__in=pks))
    with max_queries(0):
        assert sorted(effective_status.of(row) for row in rows) == ["active", "blocked", "disabled"]


@pytest.mark.parametrize("state", list(EffectiveStatus))
def test_every_state_has_a_word_and_a_tone(state: EffectiveStatus) -> None:
    assert presentation.status_badge(state).word == state.label
    assert (presentation.status_badge(state).tone in ("broken", "warning")) is (state in effective_status.BROKEN)


def test_an_open_consent_request_waits_for_an_it_admin_and_not_for_the_owner(alice: User, bob: User) -> None:
    connection = factories.make_connection(owner=bob, status=Status.PENDING, connected_at=None)
    assert presentation.assignee(connection) == Connection.Who.OWNER
    request = factories.make_consent_request(connection)
    for reader, action in (
        (bob, "An IT admin needs to review the consent request."),
        (alice, "Review the consent request."),
    ):
        state = presentation.connection_state(Connection.objects.get(pk=connection.pk), reader)
        assert (state.badge.word, state.action, state.who) == ("Awaiting admin consent", action, "IT admins")
    ConsentRequest.objects.filter(pk=request.pk).update(state=Requested.DECLINED, closed_at=timezone.now())
    assert presentation.connection_state(Connection.objects.get(pk=connection.pk), bob).who == "you"


def test_an_account_that_is_gone_says_so(bob: User) -> None:
    connection = factories.make_connection(owner=bob, status=Status.RECONNECT_NEEDED, status_code="AADSTS50057")
    state = presentation.connection_state(connection, bob)
    assert (state.badge.word, state.is_broken) == ("Account unavailable", True)
    assert "disabled or deleted" in state.cause
