"""Fields for a person or team: exact texts, choices without JavaScript, and the suggestions."""

from typing import Any

import pytest
from django.db import connection as database
from django.test import Client
from django.test.utils import CaptureQueriesContext

from connections.access import search
from connections.models import Connection, Share, Team, User
from connections.services.api_keys import rate_limit
from tests import factories
from tests.views.pages import assert_answer, assert_hides, text


def share(client: Client, connection: Connection, whom: str, **more: str) -> Any:
    sent = {"whom": whom, "level": "use", "understood": "on", **more}
    return client.post(f"/connections/{connection.pk}/shares/add/", sent)


@pytest.mark.parametrize("typed", ["dave", "DAVE", " Dave  Stranger ", "dave@CONTOSO.example"])
def test_an_exact_name_or_address_is_enough(member: Client, connection: Connection, dave: User, typed: str) -> None:
    User.objects.filter(pk=dave.pk).update(email="dave@contoso.example")
    assert share(member, connection, typed).status_code == 302
    assert Share.objects.get().person == dave


def test_a_team_and_a_service_account_are_found_by_name(member: Client, connection: Connection) -> None:
    team, robot = Team.objects.create(name="Finance"), factories.make_service_account()
    share(member, connection, "finance")
    share(member, connection, str(robot))
    assert {(item.team, item.person) for item in Share.objects.all()} == {(team, None), (None, robot)}


def test_a_team_called_like_the_suggestion_of_a_person_is_no_trap(
    member: Client, connection: Connection, dave: User
) -> None:
    factories.make_person("una")
    Team.objects.create(name="Dave Stranger (dave)")
    answer = share(member, connection, "una", others="Dave Stranger (dave)")
    assert answer.status_code == 422
    assert "is ambiguous" in text(answer)
    assert not Share.objects.exists()


def test_part_of_a_name_gives_choices_and_never_a_guess(member: Client, connection: Connection, dave: User) -> None:
    answer = share(member, connection, "stran")
    assert_answer(answer, 422, "Choose one of the matches below", "Dave Stranger (dave)", f'value="person:{dave.pk}"')
    assert not Share.objects.exists()
    chosen = {"whom-for": "stran", "whom-choice": f"person:{dave.pk}"}
    assert share(member, connection, "somebody else", **chosen).status_code == 422, "made for another text"
    assert share(member, connection, "stran", **chosen).status_code == 302
    assert Share.objects.get().person == dave


def test_a_name_that_two_have_gives_both_as_choices(member: Client, connection: Connection) -> None:
    for username in ("anna1", "anna2"):
        factories.make_person(username, first_name="Anna", last_name="Lund")
    assert_answer(share(member, connection, "Anna Lund"), 422, "Anna Lund (anna1)", "Anna Lund (anna2)")
    Team.objects.create(name="anna1")
    assert_answer(share(member, connection, "anna1"), 422, "anna1 (team)", "Anna Lund (anna1)")


def test_a_choice_is_kept_when_another_field_is_wrong(member: Client, connection: Connection, dave: User) -> None:
    chosen = {"whom-for": "Dave Stranger (dave)", "whom-choice": f"person:{dave.pk}"}
    answer = share(member, connection, "Dave Stranger (dave)", **chosen, understood="")
    assert_answer(answer, 422, f'name="whom-choice" value="person:{dave.pk}"', 'value="Dave Stranger (dave)"')


@pytest.mark.parametrize(
    "typed", ["", "nobody", "x" * 400, "a\x00b", "person:999999", "person:" + "9" * 18, "team:1", "a", "%", "_"]
)
def test_what_names_nobody_is_an_error(member: Client, connection: Connection, typed: str) -> None:
    answer = share(member, connection, typed)
    assert answer.status_code == 422
    assert "whom" in answer.context["form"].errors
    assert not Share.objects.exists()


def test_who_has_left_or_is_not_on_offer_is_not_found(
    admin: Client, connection: Connection, bob: User, carol: User
) -> None:
    eve = factories.make_person("eve")
    User.objects.filter(pk=eve.pk).update(is_active=False)
    for typed in ("eve", f"person:{eve.pk}", f"person:{bob.pk}"):
        assert share(admin, connection, typed).status_code == 422, typed
    for typed in ("carol", f"person:{carol.pk}", "bob"):
        sent = {"seen_owner": bob.pk, "new_owner": typed, "grant": "keep"}
        assert "can't own" in text(admin.post(f"/connections/{connection.pk}/hand-over/", sent)) or "No one" in text(
            admin.post(f"/connections/{connection.pk}/hand-over/", sent)
        )
    assert Connection.objects.get().owner == bob


def test_an_ambiguous_member_is_chosen_on_the_page_of_the_team(admin: Client, dave: User) -> None:
    team = Team.objects.create(name="Finance")
    answer = admin.post(f"/teams/{team.pk}/members/add/", {"user": "dav"})
    assert_answer(answer, 422, "Choose one of the matches below", "Dave Stranger (dave)")
    assert not team.members.exists()
    admin.post(f"/teams/{team.pk}/members/add/", {"user": "dav", "user-for": "dav", "user-choice": f"person:{dave.pk}"})
    assert list(team.members.all()) == [dave]


def suggested(client: Client, source: str, q: str) -> list[str]:
    return [item["label"] for item in client.get(f"/suggestions/{source}/", {"q": q}).json()["items"]]


def test_suggestions_match_every_word_and_are_limited(member: Client, carol: User, dave: User) -> None:
    Team.objects.create(name="Strangers")
    assert suggested(member, "recipients", "stra") == ["Strangers (team)", "Dave Stranger (dave)"]
    assert suggested(member, "recipients", "strang dav") == ["Dave Stranger (dave)"]
    assert suggested(member, "owners", "carol") == [], "auditors can't own connections"
    assert suggested(member, "recipients", "d") == suggested(member, "recipients", "%%%") == []
    User.objects.bulk_create(User(username=f"smith{number}", first_name="Smith") for number in range(30))
    Team.objects.bulk_create(Team(name=f"Smith {number}") for number in range(30))
    assert len(suggested(member, "recipients", "smith")) == search.MOST


def test_the_form_and_its_suggestions_take_as_many_queries_with_many_people(
    member: Client, connection: Connection, max_queries: Any
) -> None:
    User.objects.bulk_create(User(username=f"person{number}", first_name="Many") for number in range(300))
    answer = member.get(f"/connections/{connection.pk}/shares/add/")
    assert_hides(text(answer), "person1")
    with max_queries(7):
        assert len(suggested(member, "recipients", "many")) == search.MOST


def test_many_words_cost_no_more_than_a_few(member: Client, dave: User) -> None:
    with CaptureQueriesContext(database) as seen:
        answer = member.get("/suggestions/recipients/", {"q": "d " * 150})
    assert [item["label"] for item in answer.json()["items"]] == ["Dave Stranger (dave)"]
    (statement,) = [each["sql"] for each in seen if "first_name" in each["sql"] and "LIKE" in each["sql"]]
    assert statement.count("LIKE") == 4 * search.MOST_WORDS


def test_too_many_suggestions_are_refused_for_a_minute(
    member: Client, monkeypatch: pytest.MonkeyPatch, dave: User
) -> None:
    exceeded = rate_limit.RateLimitState(limit=1, count=2, reset=30)
    monkeypatch.setattr(rate_limit, "count", lambda *args, **kwargs: exceeded)
    answer = member.get("/suggestions/recipients/", {"q": "dave"})
    assert (answer.status_code, answer["Retry-After"], answer.json()) == (429, "30", {"items": []})
