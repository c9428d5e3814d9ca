"""Pages about the policy and approvals: what each person sees, and how a form behaves before and after its preview."""

import re
from datetime import timedelta
from typing import Any

import pytest
from django.core import mail
from django.test import Client
from django.utils import timezone

from connections.models import AppRegistration, Approval, Connection, Policy, Share, Team, User
from connections.services.governance import policy, violations
from connections.services.notifications import outbox
from portal.sandbox.client import Control
from tests import factories, full_dataset
from tests.services.governance.test_policy import rule
from tests.views.pages import assert_answer, assert_shows, text

FORBID = {"forbidden_permissions": "Mail.Read"}


@pytest.fixture(autouse=True)
def contoso(sandbox: Control) -> None:
    factories.make_app_registration()


def seen(response: Any) -> str:
    match = re.search(r'name="seen" value="([0-9a-f]{64})"', text(response))
    assert match, text(response)[:2000]
    return match[1]


def hidden(response: Any) -> dict[str, Any]:
    """Return the hidden fields that the preview's form would send."""
    fields: dict[str, Any] = {}
    for tag in re.findall(r'<input type="hidden"[^>]*>', response.content.decode()):
        name, value = re.search(r'name="([^"]*)"', tag), re.search(r'value="([^"]*)"', tag)
        if name and name[1] != "csrfmiddlewaretoken":
            fields.setdefault(name[1], []).append(value[1] if value else "")
    return fields


def test_each_role_gets_its_page(admin: Client, member: Client, auditor: Client) -> None:
    rule(permissions={"Mail.Send": "forbidden", "Files.*": "approval"}, share_with_people=False, longest_share_days=30)
    assert_shows(text(admin.get("/policy/")), "Preview impact", "Mail.Send</textarea>")
    for path in ("/policy/", f"/policy/apps/{AppRegistration.objects.get().pk}/"):
        table = text(auditor.get(path))
        assert "<form" not in table.split("<main")[1]
        assert "Permissions not allowed" in table
        words = text(member.get(path))
        assert_shows(words, "Connections can be shared only with teams", "at most 30 days")
        assert_shows(words, "the permission Mail.Send", "begin with Files.")
        assert "Policy violations" not in words


def test_without_rules_members_read_that_nothing_is_restricted(member: Client) -> None:
    assert "No restrictions" in text(member.get("/policy/"))


def test_a_rule_that_breaks_nothing_is_saved_at_once(admin: Client) -> None:
    form = full_dataset.policy_form(
        forbidden_permissions="mail.send, Files.*", approval_permissions="Mail.Read", version=0
    )
    answer = admin.post("/policy/", form)
    assert (answer.status_code, answer["Location"]) == (302, "/policy/")
    rules = policy.stored_policy().rules
    assert {name: str(effect) for name, effect in rules.permissions.items()} == {
        "Files.*": "forbidden",
        "Mail.Read": "approval",
        "Mail.Send": "forbidden",
    }
    assert rules.environments is rules.tenants is rules.authentication_types is None


def test_the_impact_is_shown_before_anything_is_saved(admin: Client, connection: Connection) -> None:
    Share.objects.create(connection=connection, team=Team.objects.create(name="Finance"))
    shown = admin.post("/policy/", full_dataset.policy_form(**FORBID, longest_share_days=7, version=0))
    words = text(shown)
    assert shown.status_code == 200
    assert not Policy.objects.exists()
    assert_shows(words, "1 connection<", "Invoices", "allowed by the organisation", "1 share<", "Can be short")
    answer = admin.post("/policy/", hidden(shown) | {"on_connections": "disable", "on_shares": "fix"})
    assert answer.status_code == 302
    assert Connection.objects.get().status == "disabled"
    assert Share.objects.get().until is not None
    assert "1 connection disabled. 1 share shortened." in text(admin.get("/policy/"))


def test_a_preview_without_impact_can_be_saved(admin: Client) -> None:
    shown = admin.post("/policy/", full_dataset.policy_form(**FORBID, share_app_only="", version=0, preview="1"))
    assert "No policy violations" in text(shown)
    assert not Policy.objects.exists()
    assert admin.post("/policy/", hidden(shown)).status_code == 302
    assert policy.stored_policy().rules.share_app_only is False


def test_back_from_the_preview_keeps_the_input_and_saves_nothing(admin: Client) -> None:
    factories.make_connection()
    shown = admin.post("/policy/", full_dataset.policy_form(**FORBID, version=0))
    assert_answer(admin.post("/policy/", hidden(shown) | {"back": "1"}), 200, "Mail.Read</textarea>")
    assert not Policy.objects.exists()


def test_violations_that_appeared_meanwhile_are_shown_again(admin: Client) -> None:
    factories.make_connection()
    shown = admin.post("/policy/", full_dataset.policy_form(**FORBID, version=0))
    factories.make_connection(name="Later")
    answer = admin.post("/policy/", hidden(shown) | {"on_connections": "disable", "on_shares": "leave"})
    assert_answer(answer, 409, "Nothing was changed", "Later")
    assert seen(answer) != seen(shown)
    assert not Policy.objects.exists()


def test_a_form_based_on_an_old_version_shows_an_error(admin: Client) -> None:
    admin.post("/policy/", full_dataset.policy_form(version=0, longest_share_days=9))
    answer = admin.post("/policy/", full_dataset.policy_form(version=0, longest_share_days=8))
    assert "Someone else changed this policy" in text(answer)
    assert policy.stored_policy().rules.longest_share_days == 9


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ({"forbidden_permissions": "Mail"}, "a Microsoft Graph permission"),
        ({"forbidden_permissions": "openid"}, "is part of every sign-in"),
        ({"forbidden_permissions": "Mail.Send", "allowed_permissions": "mail.send"}, "Remove one of them"),
        ({"forbidden_permissions": "Mail.Send\x00"}, "Null characters"),
        ({"longest_share_days": "0"}, "greater than or equal to 1"),
        ({"longest_share_days": "9" * 400}, "less than or equal to 1095"),
        ({"capability-mail.send": "perhaps"}, "Select a valid choice"),
        ({"tenants": ["moon/base"]}, "Select a valid choice"),
        (
            {"seen": "x", "on_connections": "explode", "on_shares": "leave", "forbidden_permissions": "Mail.Read"},
            "explode",
        ),
    ],
)
def test_invalid_rules_show_an_error_at_their_field(admin: Client, typed: dict[str, Any], says: str) -> None:
    factories.make_connection()
    answer = admin.post("/policy/", full_dataset.policy_form(**typed, version=0))
    assert answer.status_code in (200, 422)
    assert says in text(answer)
    assert not Policy.objects.exists()


def test_an_app_registrations_rules_show_the_organisations_rules(admin: Client, auditor: Client) -> None:
    app = AppRegistration.objects.get()
    rule(capabilities={"mail.send": "forbidden"})
    assert "(organisation: not allowed)" in text(admin.get(f"/policy/apps/{app.pk}/"))
    form = full_dataset.policy_form(version=0, share_app_only="", app_only_second_admin="on")
    assert admin.post(f"/policy/apps/{app.pk}/", form)["Location"] == f"/policy/apps/{app.pk}/"
    assert policy.stored_policy(app).rules.app_only_second_admin
    assert "Stricter rules" in text(auditor.get("/policy/"))
    assert admin.get("/policy/apps/999999999999999999999/").status_code == 404


def test_a_rule_about_a_deleted_tenant_is_kept(admin: Client) -> None:
    rule(tenants=["global/gone.example"])
    assert "global/gone.example (removed)" in text(admin.get("/policy/"))


def test_violations_are_listed_and_marked(admin: Client, member: Client, connection: Connection) -> None:
    assert "No policy violations" in text(admin.get("/policy/violations/"))
    rule(permissions={"Mail.Read": "forbidden"})
    assert "Invoices" in text(admin.get("/policy/violations/"))
    for client in (admin, member):
        assert "Policy violation" in text(client.get("/connections/"))
        assert "Policy violation." in text(client.get(f"/connections/{connection.pk}/"))
    assert "/sign-in/" not in text(member.get(f"/connections/{connection.pk}/")).split("<main")[1]


def test_the_list_of_violations_has_a_fixed_number_of_queries(admin: Client, max_queries: Any) -> None:
    for number in range(30):
        connection = factories.make_connection(name=f"Inbox {number:02}")
        Share.objects.create(connection=connection, team=Team.objects.create(name=f"Team {number}"))
    rule(permissions={"Mail.Read": "forbidden"}, longest_share_days=3)
    with max_queries(18):
        assert "Inbox 29" in text(admin.get("/policy/violations/"))


def test_violations_are_found_in_steps(admin: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """However large the organisation is, a page checks a part of it."""
    for number in range(5):
        connection = factories.make_connection(name=f"Inbox {number}")
        Share.objects.create(connection=connection, team=Team.objects.create(name=f"Team {number}"))
    rule(permissions={"Mail.Read": "forbidden"}, longest_share_days=3)
    monkeypatch.setattr(violations, "BATCH", 1)
    monkeypatch.setattr(violations, "CHECKED", 2)
    seen, url = list[str](), "/policy/violations/"
    while url:
        page = admin.get(url)
        seen += [broken.connection.name for broken in page.context["impact"].connections]
        assert len(page.context["impact"].shares) == 2
        assert "This page covers 2 shares" in text(page)
        step = next((step for step in page.context["steps"] if step["what"] == "connections"), None)
        url = f"/policy/violations/{step['url']}" if step else ""
    assert seen == [f"Inbox {number}" for number in range(5)]
    for key in ("x", "WyJh", "%00"):
        assert "Inbox 0" in text(admin.get(f"/policy/violations/?after={key}&shares_after={key}"))


def test_connecting_offers_what_is_allowed_and_explains_the_rest(member: Client) -> None:
    app = AppRegistration.objects.get()
    assert "Justification" not in text(member.get(f"/connect/several/?app={app.pk}"))
    rule(capabilities={"mail.send": "approval"}, permissions={"Files.*": "forbidden"})
    words = text(member.get(f"/connect/several/?app={app.pk}"))
    assert re.search(r'id="capability-files.read" disabled', words)
    assert "Not allowed.</strong> Files.Read isn't allowed by the organisation's policy through the rule" in words
    assert re.search(r'id="capability-mail.send"(?! disabled)', words)
    assert_shows(words, "“Send mail” needs an IT admin's approval", "Justification")


def test_a_forbidden_app_registration_is_not_offered(member: Client) -> None:
    app = AppRegistration.objects.get()
    factories.make_app_registration(name="Second", client_id=factories.ROBOTS_CLIENT_ID)
    rule(app, authentication_types=[])
    assert_shows(text(member.get("/connect/outlook/")), "through Second")
    AppRegistration.objects.filter(name="Second").delete()
    words = text(member.get("/connect/outlook/"))
    assert_shows(words, "Your policy doesn't allow this", "allowed by the policy for Contoso Connections")
    assert member.get(f"/connect/several/?app={app.pk}").status_code == 403


def test_editing_keeps_existing_capabilities_that_are_forbidden_now(member: Client, connection: Connection) -> None:
    rule(permissions={"Mail.Read": "forbidden", "Files.*": "forbidden"})
    words = text(member.get(f"/connections/{connection.pk}/edit/"))
    assert re.search(r'id="capability-mail.read" checked(?! disabled)', words)
    assert re.search(r'id="capability-files.read" disabled', words)
    answer = member.post(f"/connections/{connection.pk}/edit/", {"name": "Renamed", "chosen": ["mail.read"]})
    assert answer.status_code == 302
    assert Connection.objects.get().name == "Renamed"
    refused = member.post(
        f"/connections/{connection.pk}/edit/", {"name": "Renamed", "chosen": ["mail.read", "files.read"]}
    )
    assert_answer(refused, 422, "allowed by the organisation")


def test_sharing_offers_what_is_allowed(
    member: Client, dave: User, alice: User, admin: Client, connection: Connection
) -> None:
    robot = factories.make_app_only_connection(owner=alice)
    rule(share_with_people=False, longest_share_days=7, share_app_only=False)
    words = text(member.get(f"/connections/{connection.pk}/shares/add/"))
    assert "Your policy only allows sharing with teams" in words
    assert "Dave Stranger" not in words
    assert f'max="{(timezone.now() + timedelta(days=7)).date().isoformat()}"' in words
    closed = text(admin.get(f"/connections/{robot.pk}/shares/add/"))
    assert "Sharing app-only connections isn't allowed" in closed
    assert "<form" not in closed.split("<main")[1]


def asks(client: Client, **more: Any) -> Any:
    rule(capabilities={"mail.send": "approval"})
    app = AppRegistration.objects.get()
    form = {"kind": "authorization_code", "name": "Answers", "chosen": ["mail.send"], "reason": "To answer customers."}
    return client.post(f"/connect/several/?app={app.pk}", form | more, follow=True)


def test_a_member_asks_an_it_admin_approves_and_the_member_signs_in(admin: Client, member: Client) -> None:
    shown = text(asks(member))
    assert "Awaiting approval" in shown
    connection = Connection.objects.get()
    assert f'action="/connections/{connection.pk}/sign-in/"' not in shown
    approval = Approval.objects.get()
    assert_shows(text(admin.get("/")), "Answers", "Approval: Answers")
    page = text(admin.get(f"/approvals/{approval.pk}/"))
    assert_shows(page, "To answer customers.", "Mail.Send", "Send mail", "Bob Member")
    assert admin.post(f"/approvals/{approval.pk}/approve/", {"reason": "Fine."}).status_code == 302
    assert "Approval: Answers" not in text(admin.get("/"))
    assert_shows(text(member.get("/")), "Your approval requests", "Fine.")
    assert f'action="/connections/{connection.pk}/sign-in/"' in text(member.get(f"/connections/{connection.pk}/"))


def test_everybody_concerned_gets_one_mail(admin: Client, member: Client, carol: User) -> None:
    asks(member)
    outbox.deliver_due(timezone.now())
    (question,) = mail.outbox
    assert (question.to, question.subject) == (["alice@example.org"], "Bob Member requests approval: Answers")
    for part in ("To answer customers.", "“Send mail” needs an IT admin's approval", "/approvals/", "Mail.Send"):
        assert part in question.body
    mail.outbox.clear()
    approval = Approval.objects.get()
    admin.post(f"/approvals/{approval.pk}/decline/", {"reason": "Use the team mailbox."})
    outbox.deliver_due(timezone.now())
    (answer,) = mail.outbox
    assert (answer.to, answer.subject) == (["bob@example.org"], "Answers is declined")
    assert "Use the team mailbox." in answer.body


def test_declining_requires_a_reason(admin: Client, member: Client) -> None:
    asks(member)
    approval = Approval.objects.get()
    assert_answer(admin.post(f"/approvals/{approval.pk}/decline/", {"reason": " "}), 422, "Enter a reason")
    assert Approval.objects.get().is_waiting


def test_a_second_decision_is_refused(admin: Client, member: Client) -> None:
    asks(member)
    approval = Approval.objects.get()
    member.post(f"/approvals/{approval.pk}/withdraw/")
    assert_answer(admin.post(f"/approvals/{approval.pk}/approve/", {}), 409, "This request was already withdrawn")


def test_a_declined_request_is_explained_and_can_be_repeated(admin: Client, member: Client) -> None:
    asks(member)
    admin.post(f"/approvals/{Approval.objects.get().pk}/decline/", {"reason": "Too much."})
    connection = Connection.objects.get()
    page = text(member.get(f"/connections/{connection.pk}/"))
    assert_shows(page, "Too much.", f'href="/connections/{connection.pk}/approval/"')
    response = member.post(f"/connections/{connection.pk}/approval/", {"reason": "Only replies."})
    assert response["Location"] == f"/approvals/{Approval.objects.latest('pk').pk}/"
    assert Approval.objects.latest("pk").reason == "Only replies."


def test_the_only_it_admin_reads_who_else_could_decide(admin: Client) -> None:
    asks(admin)
    page = text(admin.get(f"/approvals/{Approval.objects.get().pk}/"))
    assert "break-glass account" in page
    assert "/approve/" not in page
    assert admin.post(f"/approvals/{Approval.objects.get().pk}/approve/", {}).status_code == 403


def test_an_approved_app_only_connection_is_connected_at_once(alice: User, admin: Client, sandbox: Control) -> None:
    anna = factories.make_person("anna")
    anna.groups.set(alice.groups.all())
    rule(app_only_second_admin=True)
    app = AppRegistration.objects.get()
    form = {"kind": "client_credentials", "name": "Nightly", "chosen": ["mail.read"], "reason": "Reports"}
    assert "Awaiting approval" in text(admin.post(f"/connect/several/?app={app.pk}", form, follow=True))
    sandbox.weather("unavailable", where="token")
    answer = factories.signed_in(anna).post(f"/approvals/{Approval.objects.get().pk}/approve/", {}, follow=True)
    assert "set up yet" in text(answer)
    sandbox.weather("normal", where="token")
    connection = Connection.objects.get()
    assert "Connect now" in text(admin.get(f"/connections/{connection.pk}/"))
    admin.post(f"/connections/{connection.pk}/connect/")
    assert Connection.objects.get().connected_at is not None
