"""Pages about people: who is here, what they own, who has left."""

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
from tests.views.pages import SignIn, assert_hides, assert_shows

NOW = timezone.now()


def make_key(owner: User, name: str = "Robot") -> ApiKey:
    return ApiKey.objects.create(
        name=name, owner=owner, prefix=f"p{owner.pk}{name}"[:16], digest="0" * 64, scopes=["token:read"]
    )


def page(client: Client, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200, path
    return " ".join(answer.content.decode().split())


def test_the_list_says_who_owns_what_and_who_has_left(alice: User, bob: User, auditor: Client) -> None:
    factories.make_connection(owner=bob)
    make_key(bob)
    offboarding.mark_departed(bob, how=User.Left.DIRECTORY, cause="Gone.", now=NOW)
    text = page(auditor, "/people/")
    assert_shows(text, "1 connection, 1 API key", "Has left")
    assert_shows(text, "Alice Admin", "Bob Member", "Carol Auditor")


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
    admin: Client, bob: User, carol: User, dave: User, query: str, shown: set[str]
) -> None:
    offboarding.mark_departed(bob, how=User.Left.DIRECTORY, cause="Gone.", now=NOW)
    User.objects.filter(pk=dave.pk).update(groups_left_out_at=NOW)
    answer = admin.get(f"/people/?{query}")
    assert {person.username for person in answer.context["page"].items} == shown


def test_the_list_asks_the_database_as_often_for_many_as_for_one(
    admin: Client, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    for number in range(60):
        person = factories.make_person(f"person{number}")
        factories.make_connection(owner=person, name="Mine")
    with django_assert_max_num_queries(11):
        assert admin.get("/people/").status_code == 200


def test_the_page_of_a_person_shows_what_they_have(admin: Client, bob: User, dave: User) -> None:
    mine, theirs = factories.make_connection(owner=bob), factories.make_connection(owner=dave, name="Payroll")
    make_key(bob)
    team = Team.objects.create(name="Finance")
    TeamMember.objects.create(team=team, user=bob)
    shares.share(mine, person=dave, level="use", until=None, actor=bob, now=NOW)
    shares.share(theirs, team=team, level="manage", until=None, actor=dave, now=NOW)
    text = page(admin, f"/people/{bob.pk}/")
    assert_shows(text, "Invoices", "Robot", "Finance", "Payroll", "through team Finance", "Dave Stranger", "Disable…")
    assert "FictitiousRefreshToken" not in text


def test_no_page_about_a_person_reads_a_token(admin: Client, alice: User, bob: User, dave: User) -> None:
    mine, theirs = factories.make_connection(owner=bob), factories.make_connection(owner=dave, name="Payroll")
    shares.share(mine, person=dave, level="use", until=None, actor=bob, now=NOW)
    shares.share(theirs, person=bob, level="use", until=None, actor=dave, now=NOW)
    ownership_transfer.transfer(theirs, bob, keep_grant=True, actor=alice, now=NOW)
    paths = ("", "disable/", "hand-over/")
    with CaptureQueriesContext(database) as asked:
        for path in (f"/connections/{mine.pk}/hand-over/", "/people/", *(f"/people/{bob.pk}/{end}" for end in paths)):
            page(admin, path)
    for query in asked.captured_queries:
        assert "refresh_token" not in query["sql"]
        assert "access_token" not in query["sql"]


def test_an_auditor_looks_and_presses_nothing(alice: User, bob: User, auditor: Client) -> None:
    factories.make_connection(owner=bob)
    text = page(auditor, f"/people/{bob.pk}/")
    assert_hides(text, "Disable…", "Hand over…")


def test_a_person_nobody_knows_is_not_found(admin: Client) -> None:
    for path in ("/people/987654321/", "/people/987654321/hand-over/", "/people/987654321/disable/"):
        assert admin.get(path).status_code == 404


def test_shutting_out_says_what_stops_and_letting_in_takes_it_back(admin: Client, bob: User) -> None:
    factories.make_connection(owner=bob)
    make_key(bob)
    text = page(admin, f"/people/{bob.pk}/disable/")
    assert_shows(text, "1 API key of theirs is refused", "1 connection of theirs goes on")
    assert admin.post(f"/people/{bob.pk}/disable/").status_code == 302
    assert "is shut out of this portal" in page(admin, f"/people/{bob.pk}/")
    assert admin.post(f"/people/{bob.pk}/enable/").status_code == 302
    assert User.objects.get(pk=bob.pk).is_active
    assert "is shut out of this portal" not in page(admin, f"/people/{bob.pk}/")


def test_one_cannot_shut_out_oneself_and_the_page_says_so(admin: Client, alice: User) -> None:
    assert "cannot shut yourself out" in page(admin, f"/people/{alice.pk}/disable/")
    assert admin.post(f"/people/{alice.pk}/disable/").status_code == 403
    assert "Disable…" not in page(admin, f"/people/{alice.pk}/")


def test_the_start_page_counts_leavers_and_links_them(admin: Client, bob: User, dave: User, signed_in: SignIn) -> None:
    for name in ("One", "Two", "Three"):
        factories.make_connection(owner=bob, name=name)
    factories.make_connection(owner=dave)
    assert "left and own" not in page(admin, "/")
    for person in (bob, dave):
        offboarding.mark_departed(person, how=User.Left.DIRECTORY, cause="The account was deleted.", now=NOW)
    text = page(admin, "/")
    assert_shows(text, "2 people have left and own 4 connections", f'href="/people/{bob.pk}/hand-over/"')
    assert "has left" not in page(signed_in(factories.make_person("eve")), "/")


def test_who_has_left_is_not_told_to_members(admin: Client, bob: User, stranger: Client, dave: User) -> None:
    connection = factories.make_connection(owner=bob)
    shares.share(connection, person=dave, level="use", until=None, actor=bob, now=NOW)
    offboarding.mark_departed(bob, how=User.Left.DIRECTORY, cause="The account was deleted.", now=NOW)
    assert "has left" not in page(stranger, "/incidents/")
    assert "has left" in page(admin, "/incidents/")


def test_a_new_owner_finds_the_task_on_the_start_page(
    admin: Client, alice: User, bob: User, stranger: Client, dave: User
) -> None:
    connection = factories.make_connection(owner=bob)
    ownership_transfer.transfer(connection, dave, keep_grant=True, actor=alice, now=NOW)
    text = page(stranger, "/")
    assert_shows(text, "Sign in for Invoices", f'action="/connections/{connection.pk}/sign-in/"')
    text = page(stranger, f"/connections/{connection.pk}/")
    assert_shows(text, "Alice Admin handed this connection over from Bob Member to you", "Sign in for it")
    assert "They have not signed in for it yet" in page(admin, f"/connections/{connection.pk}/")


def test_left_out_groups_are_told_with_what_to_do(admin: Client, member: Client, bob: User) -> None:
    User.objects.filter(pk=bob.pk).update(groups_left_out_at=NOW)
    for client, path in ((member, "/account/"), (admin, f"/people/{bob.pk}/")):
        text = page(client, path)
        assert "Groups assigned to the application" in text
    assert "leaves the groups of 1 person out" in page(admin, "/")


def test_the_audit_trail_leads_to_the_person(admin: Client, alice: User, bob: User) -> None:
    accounts.disable_person(bob, actor=alice, now=NOW)
    event = AuditEvent.objects.get(action="account.disabled")
    assert f'href="/people/{bob.pk}/"' in page(admin, f"/audit/{event.pk}/")
