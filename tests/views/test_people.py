"""Pages about people: the list, what each person owns, and who has left."""

from typing import Any

import pytest
from django.db import connection as database
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from connections.models import ApiKey, AuditEvent, Connection, Team, TeamMember, User
from connections.services.people import accounts, offboarding, ownership_transfer
from connections.services.sharing import shares
from tests import factories
from tests.views.pages import assert_hides, assert_shows

NOW = timezone.now()


def make_key(owner: User, name: str = "Robot") -> ApiKey:
    return ApiKey.objects.create(
        name=name, owner=owner, prefix=f"p{owner.pk}{name}"[:16], digest="0" * 64, scopes=["token:read"]
    )


def page(client: Client, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200, path
    return " ".join(answer.content.decode().split())


def test_the_list_shows_what_people_own_and_who_has_left(alice: User, bob: User, auditor: Client) -> None:
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


def test_the_number_of_queries_does_not_grow_with_the_list(admin: Client, max_queries: Any) -> None:
    for number in range(60):
        factories.make_connection(owner=factories.make_person(f"person{number}"), name="Mine")
    with max_queries(12):
        assert admin.get("/people/").status_code == 200


def test_the_page_of_a_person_shows_everything_they_own(admin: Client, bob: User, dave: User) -> None:
    own, theirs = factories.make_connection(owner=bob), factories.make_connection(owner=dave, name="Payroll")
    make_key(bob)
    team = Team.objects.create(name="Finance")
    TeamMember.objects.create(team=team, user=bob)
    shares.share(own, person=dave, level="use", until=None, actor=bob, now=NOW)
    shares.share(theirs, team=team, level="manage", until=None, actor=dave, now=NOW)
    text = page(admin, f"/people/{bob.pk}/")
    for shown in ("Invoices", "Robot", "Finance", "Payroll", "through team Finance", "Dave Stranger", "Disable…"):
        assert shown in text, shown
    assert "FictitiousRefreshToken" not in text


def test_no_page_about_a_person_reads_a_token(alice: User, admin: Client, bob: User, dave: User) -> None:
    own, theirs = factories.make_connection(owner=bob), factories.make_connection(owner=dave, name="Payroll")
    shares.share(own, person=dave, level="use", until=None, actor=bob, now=NOW)
    shares.share(theirs, person=bob, level="use", until=None, actor=dave, now=NOW)
    ownership_transfer.transfer(theirs, bob, keep_grant=True, actor=alice, now=NOW)
    paths = ("", "disable/", "hand-over/")
    with CaptureQueriesContext(database) as queries:
        for path in (f"/connections/{own.pk}/hand-over/", "/people/", *(f"/people/{bob.pk}/{end}" for end in paths)):
            page(admin, path)
    for query in queries.captured_queries:
        assert "refresh_token" not in query["sql"]
        assert "access_token" not in query["sql"]


def test_an_auditor_reads_without_buttons(alice: User, bob: User, auditor: Client) -> None:
    factories.make_connection(owner=bob)
    assert_hides(page(auditor, f"/people/{bob.pk}/"), "Disable…", "Transfer ownership…")


def test_an_unknown_person_is_not_found(admin: Client) -> None:
    for path in ("/people/987654321/", "/people/987654321/hand-over/", "/people/987654321/disable/"):
        assert admin.get(path).status_code == 404


def test_disabling_explains_what_stops_and_enabling_reverts_it(admin: Client, bob: User) -> None:
    factories.make_connection(owner=bob)
    make_key(bob)
    text = page(admin, f"/people/{bob.pk}/disable/")
    assert_shows(text, "1 API key stops working", "can still use 1 connection")
    assert admin.post(f"/people/{bob.pk}/disable/").status_code == 302
    assert "'s account is disabled" in page(admin, f"/people/{bob.pk}/")
    assert admin.post(f"/people/{bob.pk}/enable/").status_code == 302
    assert User.objects.get(pk=bob.pk).is_active
    assert "'s account is disabled" not in page(admin, f"/people/{bob.pk}/")


def test_nobody_can_disable_their_own_account(alice: User, admin: Client) -> None:
    assert "You can't disable your own account" in page(admin, f"/people/{alice.pk}/disable/")
    assert admin.post(f"/people/{alice.pk}/disable/").status_code == 403
    assert "Disable…" not in page(admin, f"/people/{alice.pk}/")


def test_the_home_page_of_it_admins_counts_leavers_and_links_to_the_transfer(
    admin: Client, bob: User, dave: User
) -> None:
    for name in ("One", "Two", "Three"):
        factories.make_connection(owner=bob, name=name)
    factories.make_connection(owner=dave)
    assert "left and own" not in page(admin, "/")
    for person in (bob, dave):
        offboarding.mark_departed(person, how=User.Left.DIRECTORY, cause="The account was deleted.", now=NOW)
    text = page(admin, "/")
    assert_shows(text, "2 people have left and own 4 connections", f'href="/people/{bob.pk}/hand-over/"')
    assert "has left" not in page(factories.signed_in(factories.make_person("eve")), "/")


def test_members_do_not_see_who_has_left(
    admin: Client, bob: User, dave: User, stranger: Client, connection: Connection
) -> None:
    shares.share(connection, person=dave, level="use", until=None, actor=bob, now=NOW)
    offboarding.mark_departed(bob, how=User.Left.DIRECTORY, cause="The account was deleted.", now=NOW)
    assert "has left" not in page(stranger, "/incidents/")
    assert "has left" in page(admin, "/incidents/")


def test_a_new_owner_finds_the_task_on_the_start_page_until_it_is_done(
    alice: User, admin: Client, dave: User, stranger: Client, connection: Connection
) -> None:
    ownership_transfer.transfer(connection, dave, keep_grant=True, actor=alice, now=NOW)
    text = page(stranger, "/")
    assert_shows(text, "Sign in for Invoices", f'action="/connections/{connection.pk}/sign-in/"')
    text = page(stranger, f"/connections/{connection.pk}/")
    assert_shows(text, "Alice Admin transferred ownership from Bob Member to you", "Sign in to take over")
    assert "The new owner needs to sign in." in page(admin, f"/connections/{connection.pk}/")


def test_omitted_groups_are_explained(admin: Client, bob: User, member: Client) -> None:
    User.objects.filter(pk=bob.pk).update(groups_left_out_at=NOW)
    for client, path in ((member, "/account/"), (admin, f"/people/{bob.pk}/")):
        assert "Groups assigned to the application" in page(client, path)
    assert "include the groups of 1 person in the sign-in" in page(admin, "/")


def test_the_audit_trail_links_to_the_person(alice: User, admin: Client, bob: User) -> None:
    accounts.disable_person(bob, actor=alice, now=NOW)
    event = AuditEvent.objects.get(action="account.disabled")
    assert f'href="/people/{bob.pk}/"' in page(admin, f"/audit/{event.pk}/")
