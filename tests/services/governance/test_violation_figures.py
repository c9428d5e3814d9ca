"""The number of policy violations on the home page: counted by a worker, at most once an hour unless the policy changes."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from connections.models import Policy, Share, User
from connections.services.governance import violation_figures, violations
from tests import factories
from tests.views.pages import text

NOW = datetime(2026, 11, 30, 23, 30, tzinfo=UTC)


@pytest.fixture
def broken(bob: User, dave: User) -> Policy:
    """A policy that one connection and two shares violate."""
    first = factories.make_connection(owner=bob, name="First", capabilities=["mail.read"])
    second = factories.make_connection(owner=bob, name="Second", capabilities=["calendar.events"])
    for connection in (first, second):
        Share.objects.create(connection=connection, person=dave)
    rules = {"capabilities": {"mail.read": "forbidden"}, "longest_share_days": 30}
    return Policy.objects.create(rules=rules, changed_at=NOW - timedelta(days=1))


def test_they_are_what_the_list_of_violations_shows(broken: Policy) -> None:
    assert violation_figures.latest() is None
    violation_figures.update(now=NOW)
    figures = violation_figures.latest()
    assert figures is not None
    assert (figures.connections, figures.shares, figures.counted_at) == (1, 2, NOW)


def test_they_are_counted_again_after_an_hour_or_a_change_of_the_policy(
    broken: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    times: list[Any] = []
    real = violations.impact

    def counted(policies: Any, **options: Any) -> violations.Impact:
        times.append(policies)
        return real(policies, **options)

    monkeypatch.setattr(violations, "impact", counted)
    violation_figures.update(now=NOW)
    violation_figures.update(now=NOW + timedelta(minutes=20))
    assert len(times) == 1
    Policy.objects.update(rules={}, changed_at=NOW + timedelta(minutes=21))
    violation_figures.update(now=NOW + timedelta(minutes=40))
    assert violation_figures.latest() == violation_figures.ViolationFigures(0, 0, NOW + timedelta(minutes=40))
    violation_figures.update(now=NOW + timedelta(minutes=101))
    assert len(times) == 3


def test_the_home_page_of_an_it_admin_shows_them_without_counting(
    broken: Policy, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = factories.signed_in(alice)
    assert "Policy violations" not in text(browser.get("/"))
    violation_figures.update(now=NOW)
    monkeypatch.setattr(violations, "impact", None)
    page = text(browser.get("/"))
    assert "Policy violations" in page
    assert "/policy/violations/" in page
