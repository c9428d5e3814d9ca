"""What is denied becomes part of the trail, once, however often it is tried."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from django.test import Client

from connections import denial_logging
from connections.models import AuditEvent, RepeatedDenial, User
from connections.models.audit import AuditAction
from connections.services.audit import denials, sealing, verification
from tests import factories
from tests.asgi_client import PortalClient

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 25, 12, 0, 30, tzinfo=UTC)


def denied() -> list[dict[str, object]]:
    """The facts of every denial, in their order."""
    return list(
        AuditEvent.objects.filter(action=AuditAction.ACCESS_DENIED).order_by("pk").values_list("changes", flat=True)
    )


def note(actor: User, target_id: str = "7", *, seconds: int = 0) -> None:
    denials.record_denial(
        actor,
        tried="POST connection disable",
        target_type="Connection",
        target_id=target_id,
        why="Not yours.",
        now=NOW + timedelta(seconds=seconds),
    )


def test_the_same_denial_within_a_minute_is_counted_and_not_multiplied(dave: User) -> None:
    for second in range(25):
        note(dave, seconds=second)
    assert len(denied()) == 1
    assert denials.write_events(NOW + timedelta(seconds=60)) == 0
    assert denials.write_events(NOW + timedelta(minutes=2)) == 1
    assert denials.write_events(NOW + timedelta(minutes=2)) == 0
    first, repeated = AuditEvent.objects.filter(action=AuditAction.ACCESS_DENIED).order_by("pk")
    assert (repeated.changes["repeated"], repeated.changes["first_event"]) == (24, first.pk)
    assert {first.actor, repeated.actor} == {dave}
    assert {first.outcome, repeated.outcome} == {"denied"}
    assert not RepeatedDenial.objects.exists()


def test_a_denial_that_happened_once_is_one_event(dave: User) -> None:
    note(dave)
    assert denials.write_events(NOW + timedelta(minutes=5)) == 0
    assert len(denied()) == 1


def test_another_person_target_or_minute_is_another_denial(bob: User, dave: User) -> None:
    note(dave)
    note(bob)
    note(dave, "8")
    note(dave, seconds=60)
    assert len(denied()) == 4


def test_somebody_who_tries_everything_does_not_flood_the_trail(dave: User) -> None:
    for number in range(denials.MOST + 50):
        note(dave, str(number))
    assert len(denied()) == denials.MOST + 1
    assert denials.write_events(NOW + timedelta(minutes=5)) == 1
    assert denied()[-1]["repeated"] == 49


def test_a_page_that_refuses_records_who_tried_what(
    signed_in: Callable[[User], Client], alice: User, bob: User, carol: User
) -> None:
    connection = factories.make_connection(owner=bob)
    client = signed_in(carol)
    for _ in range(3):
        assert client.post(f"/connections/{connection.pk}/disable/").status_code == 403
    event = AuditEvent.objects.get(action=AuditAction.ACCESS_DENIED)
    assert (event.actor, event.target_type, event.target_id) == (carol, "Connection", str(connection.pk))
    assert event.target_name == "Invoices"
    assert event.changes["tried"] == "POST connection disable"
    assert event.address == "127.0.0.1"
    assert RepeatedDenial.objects.get().count == 3


def test_a_route_of_the_api_that_refuses_records_the_key(bob: User) -> None:
    connection = factories.make_connection(owner=bob)
    key, text = factories.make_key(bob, scopes=["connections:read"])
    answer = PortalClient(headers={"Authorization": f"Bearer {text}"}).get(f"/api/v1/connections/{connection.pk}/token")
    assert answer.status_code == 403
    event = AuditEvent.objects.get(action=AuditAction.ACCESS_DENIED)
    assert (event.actor, event.target_id, event.changes["api_key"]) == (bob, str(connection.pk), key.name)


def test_what_does_not_exist_for_somebody_is_no_denial(
    signed_in: Callable[[User], Client], bob: User, dave: User
) -> None:
    connection = factories.make_connection(owner=bob)
    assert signed_in(dave).get(f"/connections/{connection.pk}/").status_code == 404
    assert denied() == []


def test_denials_are_sealed_like_everything_else(dave: User) -> None:
    note(dave)
    note(dave)
    denials.write_events(NOW + timedelta(minutes=5))
    sealing.seal_due(NOW)
    assert verification.verify_read_only() == (2, [])


@pytest.mark.parametrize(
    ("path", "about"),
    [
        ("/approvals/{pk}/approve/", "Approval"),
        ("/requests/{pk}/withdraw/", "ConsentRequest"),
        ("/reviews/{pk}/cancel/", "AccessReview"),
        ("/service-accounts/{pk}/disable/", "User"),
    ],
)
def test_a_denial_says_what_it_is_about(path: str, about: str) -> None:
    assert denial_logging._target(path.format(pk=7)) == (about, "7")
    assert denials._subject(about, "7").name == f"{about} 7"
