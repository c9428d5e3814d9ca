"""Pages about the policy and about approvals: what each person reads, and what a form does before and after its preview."""

import re
from datetime import timedelta
from typing import Any

import pytest
from django.core import mail
from django.test import Client
from django.utils import timezone

from connections.models import AppRegistration, Approval, Connection, Policy, Share, Team, User
from connections.services.governance import policy
from connections.services.notifications import outbox
from portal.sandbox.client import Control
from tests import factories, full_dataset
from tests.services.governance.test_policy import rule
from tests.views.pages import SignIn, assert_shows, text

FORBID = {"forbidden_permissions": "Mail.Read"}


@pytest.fixture(autouse=True)
def contoso(sandbox: Control) -> None:
    factories.make_app_registration()


def seen(response: Any) -> str:
    found = re.search(r'name="seen" value="([0-9a-f]{64})"', text(response))
    assert found, text(response)[:2000]
    return found[1]


def hidden(response: Any) -> dict[str, Any]:
    """What the preview's form would send: everything it carries along."""
    fields: dict[str, Any] = {}
    for tag in re.findall(r'<input type="hidden"[^>]*>', response.content.decode()):
        name, value = re.search(r'name="([^"]*)"', tag), re.search(r'value="([^"]*)"', tag)
        if name and name[1] != "csrfmiddlewaretoken":
            fields.setdefault(name[1], []).append(value[1] if value else "")
    return fields


def test_each_role_reads_what_it_needs(admin: Client, member: Client, auditor: Client) -> None:
    rule(permissions={"Mail.Send": "forbidden", "Files.*": "approval"}, share_with_people=False, longest_share_days=30)
    form = text(admin.get("/policy/"))
    assert_shows(form, "Show what would break", "Mail.Send</textarea>")
    for path in ("/policy/", f"/policy/apps/{AppRegistration.objects.get().pk}/"):
        table = text(auditor.get(path))
        assert "<form" not in table.split("<main")[1]
        assert "Permissions, forbidden" in table
        words = text(member.get(path))
        for sentence in (
            "Connections can be shared with teams only",
            "30 days at most",
            "the permission Mail.Send",
            "begin with Files.",
        ):
            assert sentence in words
        assert "What breaks it" not in words


def test_without_rules_members_read_that_nothing_is_restricted(member: Client) -> None:
    assert "Nothing is restricted" in text(member.get("/policy/"))


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


def test_what_would_break_is_shown_before_anything_is_saved(admin: Client, bob: User) -> None:
    connection = factories.make_connection(owner=bob)
    Share.objects.create(connection=connection, team=Team.objects.create(name="Finance"))
    form = full_dataset.policy_form(**FORBID, longest_share_days=7, version=0)
    shown = admin.post("/policy/", form)
    words = text(shown)
    assert shown.status_code == 200
    assert not Policy.objects.exists()
    assert_shows(
        words, "1 connection<", "Invoices", "Mail.Read is forbidden by the organisation", "1 share<", "Could be short"
    )
    carried = hidden(shown)
    answer = admin.post("/policy/", carried | {"on_connections": "disable", "on_shares": "mend"})
    assert answer.status_code == 302
    assert Connection.objects.get().status == "disabled"
    assert Share.objects.get().until is not None
    after = text(admin.get("/policy/"))
    assert "1 connection disabled. 1 share shortened." in after


def test_a_preview_of_what_breaks_nothing_can_be_saved_too(admin: Client) -> None:
    shown = admin.post("/policy/", full_dataset.policy_form(**FORBID, share_app_only="", version=0, preview="1"))
    assert "Nothing would break" in text(shown)
    assert not Policy.objects.exists()
    assert admin.post("/policy/", hidden(shown)).status_code == 302
    assert policy.stored_policy().rules.share_app_only is False


def test_back_from_the_preview_keeps_what_was_typed_and_saves_nothing(admin: Client) -> None:
    factories.make_connection()
    shown = admin.post("/policy/", full_dataset.policy_form(**FORBID, version=0))
    answer = admin.post("/policy/", hidden(shown) | {"back": "1"})
    assert answer.status_code == 200
    assert "Mail.Read</textarea>" in text(answer)
    assert not Policy.objects.exists()


def test_what_came_between_is_shown_again(admin: Client) -> None:
    factories.make_connection()
    shown = admin.post("/policy/", full_dataset.policy_form(**FORBID, version=0))
    factories.make_connection(name="Later")
    answer = admin.post("/policy/", hidden(shown) | {"on_connections": "disable", "on_shares": "leave"})
    assert answer.status_code == 409
    assert "Nothing was changed" in text(answer)
    assert "Later" in text(answer)
    assert seen(answer) != seen(shown)
    assert not Policy.objects.exists()


def test_a_form_that_somebody_overtook_is_told_so(admin: Client) -> None:
    admin.post("/policy/", full_dataset.policy_form(version=0, longest_share_days=9))
    answer = admin.post("/policy/", full_dataset.policy_form(version=0, longest_share_days=8))
    assert "Somebody else has changed this policy" in text(answer)
    assert policy.stored_policy().rules.longest_share_days == 9


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ({"forbidden_permissions": "Mail"}, "not the name of a Microsoft Graph permission"),
        ({"forbidden_permissions": "openid"}, "belongs to every sign-in"),
        ({"forbidden_permissions": "Mail.Send", "allowed_permissions": "mail.send"}, "Name it once"),
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
def test_an_invalid_rule_is_told_at_the_field(admin: Client, typed: dict[str, Any], says: str) -> None:
    factories.make_connection()
    answer = admin.post("/policy/", full_dataset.policy_form(**typed, version=0))
    assert answer.status_code in (200, 422)
    assert says in text(answer)
    assert not Policy.objects.exists()


def test_own_rules_of_an_app_show_what_the_organisation_says(admin: Client, auditor: Client) -> None:
    app = AppRegistration.objects.get()
    rule(capabilities={"mail.send": "forbidden"})
    assert "(organisation: forbidden)" in text(admin.get(f"/policy/apps/{app.pk}/"))
    form = full_dataset.policy_form(version=0, share_app_only="", app_only_second_admin="on")
    assert admin.post(f"/policy/apps/{app.pk}/", form)["Location"] == f"/policy/apps/{app.pk}/"
    assert policy.stored_policy(app).rules.app_only_second_admin
    assert "stricter rules of its own" in text(auditor.get("/policy/"))
    assert admin.get("/policy/apps/999999999999999999999/").status_code == 404


def test_a_rule_about_a_tenant_that_is_gone_is_not_forgotten(admin: Client) -> None:
    rule(tenants=["global/gone.example"])
    page = text(admin.get("/policy/"))
    assert "global/gone.example (not registered any more)" in page


def test_what_breaks_the_policy_is_listed_and_marked(
    signed_in: SignIn, admin: Client, alice: User, member: Client, bob: User
) -> None:
    connection = factories.make_connection(owner=bob)
    assert "Nothing breaks the policy" in text(admin.get("/policy/violations/"))
    rule(permissions={"Mail.Read": "forbidden"})
    assert "Invoices" in text(admin.get("/policy/violations/"))
    for user in (alice, bob):
        assert "Breaks policy" in text(signed_in(user).get("/connections/"))
        assert "Breaks policy." in text(signed_in(user).get(f"/connections/{connection.pk}/"))
    assert "/sign-in/" not in text(member.get(f"/connections/{connection.pk}/")).split("<main")[1]


def test_the_list_of_violations_asks_as_often_for_many(admin: Client, django_assert_max_num_queries: Any) -> None:
    for number in range(30):
        connection = factories.make_connection(name=f"Inbox {number:02}")
        Share.objects.create(connection=connection, team=Team.objects.create(name=f"Team {number}"))
    rule(permissions={"Mail.Read": "forbidden"}, longest_share_days=3)
    with django_assert_max_num_queries(18):
        assert "Inbox 29" in text(admin.get("/policy/violations/"))


def test_connecting_offers_what_is_allowed_and_says_why_not(member: Client) -> None:
    app = AppRegistration.objects.get()
    plain = text(member.get(f"/connections/add/{app.pk}/"))
    assert "Why it is needed" not in plain
    rule(capabilities={"mail.send": "approval"}, permissions={"Files.*": "forbidden"})
    page = member.get(f"/connections/add/{app.pk}/")
    words = text(page)
    assert re.search(r'id="capability-files.read" disabled', words)
    assert "Not allowed.</strong> Files.Read is forbidden by the organisation&#x27;s policy through the rule" in words
    assert re.search(r'id="capability-mail.send"(?! disabled)', words)
    assert_shows(words, "“Send mail” needs the approval of an IT admin", "Why it is needed")


def test_an_app_registration_that_is_closed_is_not_offered(member: Client) -> None:
    app = AppRegistration.objects.get()
    factories.make_app_registration(name="Second", client_id=factories.ROBOTS_CLIENT_ID)
    rule(app, authentication_types=[])
    words = text(member.get("/connections/add/"))
    assert f'href="/connections/add/{app.pk}/"' not in words
    assert "forbidden by the policy for Contoso Connections" in words
    assert member.get(f"/connections/add/{app.pk}/").status_code == 403


def test_editing_keeps_what_is_there_though_it_is_forbidden_by_now(member: Client, bob: User) -> None:
    connection = factories.make_connection(owner=bob)
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
    assert refused.status_code == 422
    assert "Files.Read is forbidden" in text(refused)


def test_sharing_offers_what_is_allowed(member: Client, bob: User, dave: User, admin: Client, alice: User) -> None:
    connection = factories.make_connection(owner=bob)
    robot = factories.make_app_only_connection(owner=alice)
    rule(share_with_people=False, longest_share_days=7, share_app_only=False)
    words = text(member.get(f"/connections/{connection.pk}/shares/add/"))
    assert "teams only" in words
    assert "Dave Stranger" not in words
    assert f'max="{(timezone.now() + timedelta(days=7)).date().isoformat()}"' in words
    closed = text(admin.get(f"/connections/{robot.pk}/shares/add/"))
    assert "Sharing app-only connections is forbidden" in closed
    assert "<form" not in closed.split("<main")[1]


def asks(client: Client, **more: Any) -> Any:
    rule(capabilities={"mail.send": "approval"})
    app = AppRegistration.objects.get()
    form = {"kind": "authorization_code", "name": "Answers", "chosen": ["mail.send"], "reason": "To answer customers."}
    return client.post(f"/connections/add/{app.pk}/", form | more, follow=True)


def test_a_member_asks_an_it_admin_approves_and_the_member_goes_on(signed_in: SignIn, admin: Client, bob: User) -> None:
    member, admin = signed_in(bob), admin
    shown = text(asks(member))
    assert "Waits for an approval" in shown
    connection = Connection.objects.get()
    assert f'action="/connections/{connection.pk}/sign-in/"' not in shown
    approval = Approval.objects.get()
    assert "Answers" in text(admin.get("/"))
    assert "Approval of Answers" in text(admin.get("/"))
    page = text(admin.get(f"/approvals/{approval.pk}/"))
    assert_shows(page, "To answer customers.", "Mail.Send", "Send mail", "Bob Member")
    assert admin.post(f"/approvals/{approval.pk}/approve/", {"reason": "Fine."}).status_code == 302
    assert "Approval of Answers" not in text(admin.get("/"))
    home = text(member.get("/"))
    assert_shows(home, "Approvals you asked for", "Fine.")
    assert f'action="/connections/{connection.pk}/sign-in/"' in text(member.get(f"/connections/{connection.pk}/"))


def test_everybody_concerned_is_told_by_mail_once(admin: Client, member: Client, carol: User) -> None:
    asks(member)
    outbox.deliver_due(timezone.now())
    (question,) = mail.outbox
    assert question.to == ["alice@example.org"]
    assert question.subject == "Bob Member asks for approval: Answers"
    for part in ("To answer customers.", "“Send mail” needs the approval", "/approvals/", "Mail.Send"):
        assert part in question.body
    mail.outbox.clear()
    approval = Approval.objects.get()
    admin.post(f"/approvals/{approval.pk}/decline/", {"reason": "Use the team mailbox."})
    outbox.deliver_due(timezone.now())
    (answer,) = mail.outbox
    assert answer.to == ["bob@example.org"]
    assert answer.subject == "Answers is declined"
    assert "Use the team mailbox." in answer.body


def test_declining_without_a_reason_is_asked_for_one(admin: Client, member: Client) -> None:
    asks(member)
    approval = Approval.objects.get()
    answer = admin.post(f"/approvals/{approval.pk}/decline/", {"reason": " "})
    assert answer.status_code == 422
    assert "Say why" in text(answer)
    assert Approval.objects.get().is_waiting


def test_the_second_answer_is_told_that_it_is_too_late(admin: Client, member: Client) -> None:
    asks(member)
    approval = Approval.objects.get()
    member.post(f"/approvals/{approval.pk}/withdraw/")
    answer = admin.post(f"/approvals/{approval.pk}/approve/", {})
    assert answer.status_code == 409
    assert "It was withdrawn meanwhile" in text(answer)


def test_a_declined_request_is_explained_and_can_be_repeated(admin: Client, member: Client) -> None:
    asks(member)
    admin.post(f"/approvals/{Approval.objects.get().pk}/decline/", {"reason": "Too much."})
    connection = Connection.objects.get()
    page = text(member.get(f"/connections/{connection.pk}/"))
    assert_shows(page, "Too much.", f'href="/connections/{connection.pk}/approval/"')
    asked = member.post(f"/connections/{connection.pk}/approval/", {"reason": "Only replies."})
    assert asked["Location"] == f"/approvals/{Approval.objects.latest('pk').pk}/"
    assert Approval.objects.latest("pk").reason == "Only replies."


def test_the_only_it_admin_reads_who_else_could_decide(admin: Client) -> None:
    asks(admin)
    page = text(admin.get(f"/approvals/{Approval.objects.get().pk}/"))
    assert "break-glass account" in page
    assert "/approve/" not in page
    assert admin.post(f"/approvals/{Approval.objects.get().pk}/approve/", {}).status_code == 403


def test_an_approved_app_only_connection_is_connected_at_once(
    signed_in: SignIn, admin: Client, alice: User, sandbox: Control
) -> None:
    anna = factories.make_person("anna")
    anna.groups.set(alice.groups.all())
    rule(app_only_second_admin=True)
    app = AppRegistration.objects.get()
    form = {"kind": "client_credentials", "name": "Nightly", "chosen": ["mail.read"], "reason": "Reports"}
    assert "Waits for an approval" in text(admin.post(f"/connections/add/{app.pk}/", form, follow=True))
    sandbox.weather("unavailable", where="token")
    answer = signed_in(anna).post(f"/approvals/{Approval.objects.get().pk}/approve/", {}, follow=True)
    assert "It is not connected yet" in text(answer)
    sandbox.weather("normal", where="token")
    connection = Connection.objects.get()
    page = text(admin.get(f"/connections/{connection.pk}/"))
    assert "Connect now" in page
    admin.post(f"/connections/{connection.pk}/connect/")
    assert Connection.objects.get().connected_at is not None


def test_the_list_of_approvals_asks_as_often_for_many(
    signed_in: SignIn, admin: Client, bob: User, django_assert_max_num_queries: Any
) -> None:
    for number in range(30):
        full_dataset.make_approval(factories.make_connection(owner=bob, name=f"Inbox {number:02}"))
    with django_assert_max_num_queries(10):
        assert "Inbox 29" in text(admin.get("/approvals/"))
    assert "Nothing matches" in text(admin.get("/approvals/", {"q": "zzz"}))
    assert "You have asked for no approval" in text(signed_in(factories.make_person("dave")).get("/approvals/"))
