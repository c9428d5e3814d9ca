"""A denial is recorded in the trail once per minute, however often it is repeated."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from django.test import Client

from connections import denial_logging
from connections.models import AuditEvent, Connection, RepeatedDenial, User
from connections.models.audit import AuditAction
from connections.services.audit import denials, sealing, verification
from tests import factories
from tests.asgi_client import PortalClient

NOW = datetime(2026, 11, 25, 12, 0, 30, tzinfo=UTC)


def denied() -> list[dict[str, object]]:
    """Return the facts of every recorded denial, in order."""
    events = AuditEvent.objects.filter(action=AuditAction.ACCESS_DENIED).order_by("pk")
    return list(events.values_list("changes", flat=True))


def deny(actor: User, target_id: str = "7", *, seconds: int = 0) -> None:
    denials.record_denial(
        actor,
        tried="POST connection disable",
        target_type="Connection",
        target_id=target_id,
        why="Not yours.",
        now=NOW + timedelta(seconds=seconds),
    )


def test_repeats_within_a_minute_are_counted_instead_of_recorded(dave: User) -> None:
    for second in range(25):
        deny(dave, seconds=second)
    assert len(denied()) == 1
    assert denials.write_events(NOW + timedelta(seconds=60)) == 0
    assert denials.write_events(NOW + timedelta(minutes=2)) == 1
    assert denials.write_events(NOW + timedelta(minutes=2)) == 0
    first, repeated = AuditEvent.objects.filter(action=AuditAction.ACCESS_DENIED).order_by("pk")
    assert (repeated.changes["repeated"], repeated.changes["first_event"]) == (24, first.pk)
    assert {first.actor, repeated.actor} == {dave}
    assert {first.outcome, repeated.outcome} == {"denied"}
    assert not RepeatedDenial.objects.exists()
    sealing.seal_due(NOW)
    assert verification.verify_read_only() == (2, [])


def test_a_denial_that_happened_once_is_one_event(dave: User) -> None:
    deny(dave)
    assert denials.write_events(NOW + timedelta(minutes=5)) == 0
    assert len(denied()) == 1


def test_another_person_target_or_minute_is_recorded_separately(bob: User, dave: User) -> None:
    deny(dave)
    deny(bob)
    deny(dave, "8")
    deny(dave, seconds=60)
    assert len(denied()) == 4


def test_one_person_cannot_flood_the_trail(dave: User) -> None:
    for number in range(denials.MAX_PER_MINUTE + 50):
        deny(dave, str(number))
    assert len(denied()) == denials.MAX_PER_MINUTE + 1
    assert denials.write_events(NOW + timedelta(minutes=5)) == 1
    assert denied()[-1]["repeated"] == 49


def test_a_denied_page_is_recorded(
    signed_in: Callable[[User], Client], alice: User, carol: User, connection: Connection
) -> None:
    client = signed_in(carol)
    for _ in range(3):
        assert client.post(f"/connections/{connection.pk}/disable/").status_code == 403
    event = AuditEvent.objects.get(action=AuditAction.ACCESS_DENIED)
    assert (event.actor, event.target_type, event.target_id) == (carol, "Connection", str(connection.pk))
    assert event.target_name == "Invoices"
    assert event.changes["tried"] == "POST connection disable"
    assert event.address == "127.0.0.1"
    assert RepeatedDenial.objects.get().count == 3


def test_an_api_route_that_refuses_records_the_key(bob: User, connection: Connection) -> None:
    key, text = factories.make_key(bob, scopes=["connections:read"])
    client = PortalClient(headers={"Authorization": f"Bearer {text}"})
    assert client.get(f"/api/v1/connections/{connection.pk}/token").status_code == 403
    event = AuditEvent.objects.get(action=AuditAction.ACCESS_DENIED)
    assert (event.actor, event.target_id, event.changes["api_key"]) == (bob, str(connection.pk), key.name)


def test_an_invisible_object_is_not_a_denial(
    signed_in: Callable[[User], Client], dave: User, connection: Connection
) -> None:
    assert signed_in(dave).get(f"/connections/{connection.pk}/").status_code == 404
    assert denied() == []


@pytest.mark.parametrize(
    ("path", "target_type"),
    [
        ("/approvals/{pk}/approve/", "Approval"),
        ("/requests/{pk}/withdraw/", "ConsentRequest"),
        ("/reviews/{pk}/cancel/", "AccessReview"),
        ("/service-accounts/{pk}/disable/", "User"),
    ],
)
def test_a_denial_names_its_object(path: str, target_type: str) -> None:
    assert denial_logging._target(path.format(pk=7)) == (target_type, "7")
    assert denials._subject(target_type, "7").name == f"{target_type} 7"
