"""Pages about people: the list, what each person owns, and who has left."""

from collections.abc import Callable

import pytest
from django.db import connection as database
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from connections.models import ApiKey, AuditEvent, Team, TeamMember, User
from connections.services.people import accounts, offboarding, ownership_transfer
from connections.services.sharing import shares
from tests import factories

pytestmark = pytest.mark.django_db

NOW = timezone.now()
SignIn = Callable[[User], Client]


def make_key(owner: User, name: str = "Robot") -> ApiKey:
    return ApiKey.objects.create(
        name=name, owner=owner, prefix=f"p{owner.pk}{name}"[:16], digest="0" * 64, scopes=["token:read"]
    )


def page(client: Client, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200, path
    return " ".join(answer.content.decode().split())


def test_the_list_shows_what_people_own_and_who_has_left(
    alice: User, bob: User, carol: User, signed_in: SignIn
) -> None:
    factories.make_connection(owner=bob)
    make_key(bob)
    offboarding.mark_departed(bob, how=User.Left.DIRECTORY, cause="Gone.", now=NOW)
    text = page(signed_in(carol), "/people/")
    assert "1 connection, 1 API key" in text
    assert "Has left" in text
    for name in ("Alice Admin", "Bob Member", "Carol Auditor"):
        assert name in text


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("left=1", {"bob"}),
        ("left=0", {"alice", "carol", "dave"}),
        ("role=admin", {"alice"}),
        ("role=auditor", {"carol"}),
        ("groups=left-out", {"dave"}),
        ("q=stranger", {"dave"}),
        ("q=%00", {"alice", "bob", "carol", "dave"}),
        ("left=nonsense", {"alice", "bob", "carol", "dave"}),
        ("q=nobody-at-all", set()),
    ],
)
def test_the_list_is_searched_and_narrowed(
    alice: User, bob: User, carol: User, dave: User, signed_in: SignIn, query: str, shown: set[str]
) -> None:
    offboarding.mark_departed(bob, how=User.Left.DIRECTORY, cause="Gone.", now=NOW)
    User.objects.filter(pk=dave.pk).update(groups_left_out_at=NOW)
    answer = signed_in(alice).get(f"/people/?{query}")
    assert {person.username for person in answer.context["page"].items} == shown


def test_the_number_of_queries_does_not_grow_with_the_list(
    alice: User, signed_in: SignIn, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    for number in range(60):
        person = factories.make_person(f"person{number}")
        factories.make_connection(owner=person, name="Mine")
    client = signed_in(alice)
    with django_assert_max_num_queries(11):
        assert client.get("/people/").status_code == 200


def test_the_page_of_a_person_shows_everything_they_own(alice: User, bob: User, dave: User, signed_in: SignIn) -> None:
    mine, theirs = factories.make_connection(owner=bob), factories.make_connection(owner=dave, name="Payroll")
    make_key(bob)
    team = Team.objects.create(name="Finance")
    TeamMember.objects.create(team=team, user=bob)
    shares.share(mine, person=dave, level="use", until=None, actor=bob, now=NOW)
    shares.share(theirs, team=team, level="manage", until=None, actor=dave, now=NOW)
    text = page(signed_in(alice), f"/people/{bob.pk}/")
    for shown in ("Invoices", "Robot", "Finance", "Payroll", "through team Finance", "Dave Stranger", "Disable…"):
        assert shown in text, shown
    assert "FictitiousRefreshToken" not in text


def test_no_page_about_a_person_reads_a_token(alice: User, bob: User, dave: User, signed_in: SignIn) -> None:
    mine, theirs = factories.make_connection(owner=bob), factories.make_connection(owner=dave, name="Payroll")
    shares.share(mine, person=dave, level="use", until=None, actor=bob, now=NOW)
    shares.share(theirs, person=bob, level="use", until=None, actor=dave, now=NOW)
    ownership_transfer.transfer(theirs, bob, keep_grant=True, actor=alice, now=NOW)
    client = signed_in(alice)
    paths = ("", "disable/", "hand-over/")
    with CaptureQueriesContext(database) as queries:
        for path in (f"/connections/{mine.pk}/hand-over/", "/people/", *(f"/people/{bob.pk}/{end}" for end in paths)):
            page(client, path)
    for query in queries.captured_queries:
        assert "refresh_token" not in query["sql"]
        assert "access_token" not in query["sql"]


def test_an_auditor_reads_without_buttons(alice: User, bob: User, carol: User, signed_in: SignIn) -> None:
    factories.make_connection(owner=bob)
    text = page(signed_in(carol), f"/people/{bob.pk}/")
    assert "Disable…" not in text
    assert "Hand over…" not in text


def test_an_unknown_person_is_not_found(alice: User, signed_in: SignIn) -> None:
    for path in ("/people/987654321/", "/people/987654321/hand-over/", "/people/987654321/disable/"):
        assert signed_in(alice).get(path).status_code == 404


def test_disabling_explains_what_stops_and_enabling_reverts_it(alice: User, bob: User, signed_in: SignIn) -> None:
    factories.make_connection(owner=bob)
    make_key(bob)
    client = signed_in(alice)
    text = page(client, f"/people/{bob.pk}/disable/")
    assert "1 API key of theirs is refused" in text
    assert "1 connection of theirs goes on" in text
    assert client.post(f"/people/{bob.pk}/disable/").status_code == 302
    assert "is shut out of this portal" in page(client, f"/people/{bob.pk}/")
    assert client.post(f"/people/{bob.pk}/enable/").status_code == 302
    assert User.objects.get(pk=bob.pk).is_active
    assert "is shut out of this portal" not in page(client, f"/people/{bob.pk}/")


def test_nobody_can_disable_their_own_account(alice: User, signed_in: SignIn) -> None:
    client = signed_in(alice)
    assert "cannot shut yourself out" in page(client, f"/people/{alice.pk}/disable/")
    assert client.post(f"/people/{alice.pk}/disable/").status_code == 403
    assert "Disable…" not in page(client, f"/people/{alice.pk}/")


def test_the_home_page_of_it_admins_counts_leavers_and_links_to_the_transfer(
    alice: User, bob: User, dave: User, carol: User, signed_in: SignIn
) -> None:
    for name in ("One", "Two", "Three"):
        factories.make_connection(owner=bob, name=name)
    factories.make_connection(owner=dave)
    client = signed_in(alice)
    assert "left and own" not in page(client, "/")
    for person in (bob, dave):
        offboarding.mark_departed(person, how=User.Left.DIRECTORY, cause="The account was deleted.", now=NOW)
    text = page(client, "/")
    assert "2 people have left and own 4 connections" in text
    assert f'href="/people/{bob.pk}/hand-over/"' in text
    assert "has left" not in page(signed_in(factories.make_person("eve")), "/")


def test_members_do_not_see_who_has_left(alice: User, bob: User, dave: User, signed_in: SignIn) -> None:
    connection = factories.make_connection(owner=bob)
    shares.share(connection, person=dave, level="use", until=None, actor=bob, now=NOW)
    offboarding.mark_departed(bob, how=User.Left.DIRECTORY, cause="The account was deleted.", now=NOW)
    assert "has left" not in page(signed_in(dave), "/incidents/")
    assert "has left" in page(signed_in(alice), "/incidents/")


def test_a_new_owner_finds_the_task_on_the_start_page_until_it_is_done(
    alice: User, bob: User, dave: User, signed_in: SignIn
) -> None:
    connection = factories.make_connection(owner=bob)
    ownership_transfer.transfer(connection, dave, keep_grant=True, actor=alice, now=NOW)
    client = signed_in(dave)
    text = page(client, "/")
    assert "Sign in for Invoices" in text
    assert f'action="/connections/{connection.pk}/sign-in/"' in text
    text = page(client, f"/connections/{connection.pk}/")
    assert "Alice Admin handed this connection over from Bob Member to you" in text
    assert "Sign in for it" in text
    assert "They have not signed in for it yet" in page(signed_in(alice), f"/connections/{connection.pk}/")


def test_omitted_groups_are_explained(alice: User, bob: User, signed_in: SignIn) -> None:
    User.objects.filter(pk=bob.pk).update(groups_left_out_at=NOW)
    for client, path in ((signed_in(bob), "/account/"), (signed_in(alice), f"/people/{bob.pk}/")):
        text = page(client, path)
        assert "Groups assigned to the application" in text
    assert "leaves the groups of 1 person out" in page(signed_in(alice), "/")


def test_the_audit_trail_links_to_the_person(alice: User, bob: User, signed_in: SignIn) -> None:
    accounts.disable_person(bob, actor=alice, now=NOW)
    event = AuditEvent.objects.get(action="account.disabled")
    assert f'href="/people/{bob.pk}/"' in page(signed_in(alice), f"/audit/{event.pk}/")
