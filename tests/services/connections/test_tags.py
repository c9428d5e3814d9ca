import pytest

from connections.errors import InvalidInput, NotAllowed
from connections.models import AuditEvent, Connection, Share, User
from connections.services.connections import tags
from tests import factories

pytestmark = pytest.mark.django_db


@pytest.fixture
def invoices(bob: User) -> Connection:
    return factories.make_connection()


def names(connection: Connection) -> list[str]:
    return [tag.name for tag in connection.tags.all()]


def test_tags_are_trimmed_and_in_lower_case(bob: User, invoices: Connection) -> None:
    tags.replace(invoices, ["  Month   End ", "FINANCE", "finance", "ﬁnance", "", "\u200bÜber"], actor=bob)
    assert names(invoices) == ["finance", "month end", "über"]


def test_a_change_is_recorded_once(bob: User, invoices: Connection) -> None:
    for _ in range(2):
        tags.replace(invoices, ["a", "b"], actor=bob)
    tags.add(invoices, ["c"], actor=bob)
    tags.remove(invoices, ["a", "not there"], actor=bob)
    events = AuditEvent.objects.filter(action="connection.tagged").order_by("pk")
    assert [event.changes["tags"] for event in events] == [["", "a, b"], ["a, b", "a, b, c"], ["a, b, c", "b, c"]]
    assert names(invoices) == ["b", "c"]


@pytest.mark.parametrize(
    "wrong", [["x" * 41], ["a,b"], ["a\u202eb"], ["a\x07b"], [f"t{number}" for number in range(11)]]
)
def test_wrong_tags_change_nothing(bob: User, invoices: Connection, wrong: list[str]) -> None:
    tags.add(invoices, ["kept"], actor=bob)
    with pytest.raises(InvalidInput):
        tags.replace(invoices, wrong, actor=bob)
    assert names(invoices) == ["kept"]


def test_adding_stops_at_the_limit(bob: User, invoices: Connection) -> None:
    tags.replace(invoices, [f"t{number}" for number in range(10)], actor=bob)
    with pytest.raises(InvalidInput, match="up to 10"):
        tags.add(invoices, ["one more"], actor=bob)
    assert tags.add(invoices, ["t1"], actor=bob) == tuple(sorted(f"t{number}" for number in range(10)))


def test_who_may_tag(alice: User, bob: User, carol: User, invoices: Connection) -> None:
    max_, una = factories.make_person("max"), factories.make_person("una")
    Share.objects.create(connection=invoices, person=max_, level="manage", created_by=bob)
    Share.objects.create(connection=invoices, person=una, level="use", created_by=bob)
    for allowed in (alice, bob, max_):
        tags.add(invoices, [allowed.username], actor=allowed)
    for other in (una, carol):
        with pytest.raises(NotAllowed):
            tags.add(invoices, ["x"], actor=other)
    assert names(invoices) == ["alice", "bob", "max"]


def test_a_removed_connection_has_no_tags(bob: User, invoices: Connection) -> None:
    Connection.objects.filter(pk=invoices.pk).delete()
    with pytest.raises(InvalidInput, match="removed"):
        tags.add(invoices, ["x"], actor=bob)
