"""Many connections at once: select in the list, preview, start, and see the result. All without JavaScript."""

import pytest
from django.db import connection as database
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from connections.models import BulkAction, Connection, Share, Team, User
from connections.services.connections import bulk_actions, bulk_execution
from tests import browser_sessions, factories


@pytest.fixture
def three(bob: User) -> list[Connection]:
    return [factories.make_connection(name=name) for name in ("Archive", "Invoices", "Support")]


def prepare(client: Client, action: str, rows: list[Connection]) -> str:
    answer = client.post("/connections/bulk/add/", {"action": action, "connection": [row.pk for row in rows]})
    return str(answer["Location"])


def test_from_the_list_to_the_result(member: Client, three: list[Connection]) -> None:
    page = member.get("/connections/").content.decode()
    assert f'name="connection"\n      value="{three[0].pk}"' in page
    url = prepare(member, "disable", three[:2])
    preview = member.get(url).content.decode()
    assert "2 of 2 connections ready, 0 will be skipped" in preview
    assert "Disable connections (2)" in preview
    assert member.post(f"{url}start/")["Location"] == url
    running = member.get(url).content.decode()
    assert 'hx-trigger="every 2s"' in running
    assert "<progress" in running
    bulk_execution.run_due(timezone.now)
    result = member.get(url).content.decode()
    assert "2 done, 0 skipped" in result
    assert 'hx-trigger="every' not in result
    assert Connection.objects.filter(status="disabled").count() == 2


def test_all_that_match_the_filter(member: Client, three: list[Connection]) -> None:
    page = member.get("/connections/?q=Inv").content.decode()
    assert 'action="/connections/bulk/add/?q=Inv"' in page
    member.post("/connections/bulk/add/?q=Inv", {"action": "check", "all": "1"})
    assert [item.connection_name for item in BulkAction.objects.get().items.all()] == ["Invoices"]


def test_all_is_bounded(member: Client, three: list[Connection], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_actions, "MOST_CONNECTIONS", 2)
    answer = member.post("/connections/bulk/add/", {"action": "check", "all": "1"}, follow=True)
    assert "More than 2 connections match. Only the first 2 are selected." in answer.content.decode()
    assert BulkAction.objects.get().items.count() == 2


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"action": "check"}, "Select at least one connection."),
        ({"action": "", "connection": ["1"]}, "Choose an action."),
        ({"action": "explode", "connection": ["1"]}, "Choose an action."),
        ({"action": "check", "connection": ["x", "-1", "9" * 40, "²"]}, "Select at least one connection."),
    ],
)
def test_a_selection_of_nothing_leads_back(member: Client, data: dict[str, object], text: str) -> None:
    answer = member.post("/connections/bulk/add/?q=Inv", data, follow=True)
    assert text in answer.content.decode()
    assert answer.request["QUERY_STRING"] == "q=Inv"
    assert not BulkAction.objects.exists()


def test_sharing_with_three_people_and_a_team(member: Client, three: list[Connection], dave: User) -> None:
    una, tina = factories.make_person("una"), factories.make_person("tina")
    team = Team.objects.create(name="Finance")
    url = prepare(member, "share", three)
    form = {"recipients": f"dave\n{una.email}\nTina Teammate\nfinance\n", "level": "use"}
    assert member.post(f"{url}preview/", form).status_code == 302
    page = member.get(url).content.decode()
    assert "3 of 3 connections ready" in page
    assert "Dave Stranger &lt;dave&gt;" in page
    member.post(f"{url}start/")
    bulk_execution.run_due(timezone.now)
    assert Share.objects.filter(connection=three[0]).count() == 4
    assert set(Share.objects.values_list("person", "team")) == {
        (dave.pk, None), (una.pk, None), (tina.pk, None), (None, team.pk)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("recipients", "text"),
    [
        ("nobody-here", "No person, service account or team is called “nobody-here”."),
        ("", "This field is required."),
        ("\n".join(f"p{number}" for number in range(21)), "Enter up to 20 people and teams."),
        ("Twin Twinson", "“Twin Twinson” is ambiguous."),
    ],
)
def test_wrong_recipients_are_named(member: Client, three: list[Connection], recipients: str, text: str) -> None:
    for number in range(2):
        factories.make_person(f"twin{number}", first_name="Twin", last_name="Twinson")
    url = prepare(member, "share", three)
    answer = member.post(f"{url}preview/", {"recipients": recipients, "level": "use"})
    assert answer.status_code == 422
    assert text in answer.content.decode()
    assert not BulkAction.objects.get().is_previewed


def test_a_transfer_needs_a_known_owner_and_a_fresh_sign_in(bob: User, dave: User, three: list[Connection]) -> None:
    client = Client()
    browser_sessions.sign_in(client, bob, is_fresh=False)
    url = prepare(client, "transfer", three)
    assert client.post(f"{url}preview/", {"new_owner": "nobody", "grant": "keep"}).status_code == 422
    assert client.post(f"{url}preview/", {"new_owner": "dave", "grant": "keep"}).status_code == 302
    assert client.post(f"{url}start/")["Location"].startswith("/account/confirm/")
    assert BulkAction.objects.get().is_draft


def test_a_draft_is_discarded_and_a_running_action_stopped(member: Client, three: list[Connection]) -> None:
    url = prepare(member, "check", three)
    assert member.post(f"{url}stop/")["Location"] == "/connections/"
    assert not BulkAction.objects.exists()
    url = prepare(member, "check", three)
    member.post(f"{url}start/")
    member.post(f"{url}stop/")
    page = member.get(url).content.decode()
    assert "Bob Member stopped it. 3 connections stayed as before." in page


def test_only_its_person_sees_a_draft_and_admins_see_what_was_started(
    admin: Client, member: Client, stranger: Client, three: list[Connection]
) -> None:
    url = prepare(member, "disable", three)
    assert admin.get(url).status_code == 404
    member.post(f"{url}start/")
    assert stranger.get(url).status_code == 404
    assert "Bob Member" in admin.get("/connections/bulk/").content.decode()
    page = admin.get(url).content.decode()
    assert ">Stop<" in page
    assert admin.post(f"{url}stop/").status_code == 302
    assert BulkAction.objects.get().state == "stopped"


def test_auditors_get_no_check_boxes(auditor: Client, three: list[Connection]) -> None:
    page = auditor.get("/connections/").content.decode()
    assert 'name="connection"' not in page
    assert "With selected" not in page


def test_long_results_have_pages_and_a_filter(admin: Client, alice: User, bob: User) -> None:
    rows = [factories.make_connection(name=f"Connection {number:03}") for number in range(60)]
    url = prepare(admin, "check", rows)
    BulkAction.objects.get().items.filter(connection_pk=rows[55].pk).update(state="skipped", note="A reason.")
    with CaptureQueriesContext(database) as seen:
        page = admin.get(url).content.decode()
    assert page.count("Ready") == 50
    assert "50 of 60" in page
    assert "A reason." in admin.get(f"{url}?state=skipped").content.decode()
    for row in rows[10:]:
        BulkAction.objects.get().items.filter(connection_pk=row.pk).delete()
    with CaptureQueriesContext(database) as fewer:
        admin.get(url)
    assert len(seen) - len(fewer) <= 1  # the count of a list with several pages


def test_one_connection_is_shared_with_several_at_once(member: Client, three: list[Connection], dave: User) -> None:
    una = factories.make_person("una")
    team, robots = Team.objects.create(name="Finance"), factories.make_service_account("Robots")
    others = "Una User (una)\nfinance (team)\nRobots (service account)\ndave"
    form = {"whom": "dave", "others": others, "level": "use", "understood": "on"}
    answer = member.post(f"/connections/{three[0].pk}/shares/add/", form, follow=True)
    text = "Archive is shared with Dave Stranger, Una User, Robots and Finance."
    assert text in answer.content.decode()
    assert set(Share.objects.values_list("person", "team")) == {
        (dave.pk, None), (una.pk, None), (robots.pk, None), (None, team.pk)
    }  # fmt: skip


def test_a_wrong_line_shares_with_nobody(member: Client, three: list[Connection], bob: User, dave: User) -> None:
    url = f"/connections/{three[0].pk}/shares/add/"
    for others in ("Somebody Else (dave)", "bob", "Finance (team)"):
        form = {"whom": "dave", "others": others, "level": "use", "understood": "on"}
        assert member.post(url, form).status_code == 422, others
    assert not Share.objects.exists()
