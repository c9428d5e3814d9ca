"""The kept counts of connections: always what counting would give, however rows are written."""

from collections import Counter

import pytest
from django.db import connection as database
from django.db import transaction

from connections.models import Connection, Tally, User
from connections.services.audit import reports
from connections.services.operations import tallies
from tests import factories


def kept() -> dict[tuple[int, str], int]:
    return {(consent, status): number for consent, status, number in
            Tally.objects.connections().totals("app_consent", "value")}  # fmt: skip


def counted() -> dict[tuple[int, str], int]:
    return dict(Counter(Connection.objects.values_list("app_consent", "status")))


def assert_right() -> None:
    assert kept() == counted()
    granted = Connection.objects.exclude(status="disabled").values_list("granted_scopes", "other_granted")
    assert reports.permissions_in_use() == Counter(name for texts in granted for name in set(" ".join(texts).split()))


def test_they_follow_every_way_of_writing_connections(bob: User, dave: User) -> None:
    first = factories.make_connection(owner=bob, granted_scopes="Mail.Read")
    second = factories.make_connection(owner=dave, name="Second", granted_scopes="Mail.Read Files.Read")
    assert_right()
    assert reports.permissions_in_use() == {"Files.Read": 1, "Mail.Read": 2}
    Connection.objects.filter(pk=first.pk).update(status="disabled")
    assert_right()
    second.granted_scopes, second.status = "Mail.Read", "blocked"
    second.save(update_fields=["granted_scopes", "status"])
    assert_right()
    with database.cursor() as cursor:
        cursor.execute("UPDATE connections_connection SET status = 'reconnect_needed'")
    assert_right()
    Connection.objects.filter(pk=second.pk).update(other_granted="Sites.Read.All")
    assert_right()
    Connection.objects.filter(pk=second.pk).delete()
    assert_right()
    assert sum(kept().values()) == 1


def test_what_is_rolled_back_is_not_counted(bob: User) -> None:
    with transaction.atomic():
        factories.make_connection(owner=bob)
        transaction.set_rollback(True)
    assert kept() == {}


def test_a_refresh_writes_no_rows(bob: User) -> None:
    connection = factories.make_connection(owner=bob, granted_scopes="Mail.Read")
    before = Tally.objects.count()
    Connection.objects.filter(pk=connection.pk).update(granted_scopes="Mail.Read", status=connection.status)
    assert Tally.objects.count() == before


def test_adding_up_keeps_the_counts_and_few_rows(monkeypatch: pytest.MonkeyPatch, connection: Connection) -> None:
    for number in range(20):
        status = ("blocked", "active")[number % 2]
        Connection.objects.filter(pk=connection.pk).update(status=status)
    before = Tally.objects.count()
    monkeypatch.setattr(tallies, "MOST", 7)
    for _ in range(20):
        tallies.add_up()
        assert_right()
    monkeypatch.undo()
    tallies.add_up()
    assert_right()
    assert Tally.objects.count() == 2 < before
    tallies.add_up()
    assert Tally.objects.count() == 2


def test_the_start_page_shows_the_kept_counts(alice: User, bob: User) -> None:
    factories.make_connection(owner=bob)
    figures = factories.signed_in(alice).get("/").context["figures"]
    assert figures["total"] == 1
