"""Pages about the policy and approvals: what each person sees, and how a form behaves before and after its preview."""

import re
from collections.abc import Callable
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

pytestmark = pytest.mark.django_db

SignIn = Callable[[User], Client]
FORBID = {"forbidden_permissions": "Mail.Read"}


@pytest.fixture(autouse=True)
def contoso(sandbox: Control) -> None:
    factories.make_app_registration()


def text(response: Any) -> str:
    return re.sub(r"\s+", " ", response.content.decode())


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


def test_each_role_gets_its_page(signed_in: SignIn, alice: User, bob: User, carol: User) -> None:
    rule(permissions={"Mail.Send": "forbidden", "Files.*": "approval"}, share_with_people=False, longest_share_days=30)
    form = text(signed_in(alice).get("/policy/"))
    assert "Show what would break" in form
    assert "Mail.Send</textarea>" in form
    for path in ("/policy/", f"/policy/apps/{AppRegistration.objects.get().pk}/"):
        table = text(signed_in(carol).get(path))
        assert "<form" not in table.split("<main")[1]
        assert "Permissions, forbidden" in table
        words = text(signed_in(bob).get(path))
        for sentence in (
            "Connections can be shared with teams only",
            "30 days at most",
            "the permission Mail.Send",
            "begin with Files.",
        ):
            assert sentence in words
        assert "What breaks it" not in words


def test_without_rules_members_read_that_nothing_is_restricted(signed_in: SignIn, bob: User) -> None:
    assert "Nothing is restricted" in text(signed_in(bob).get("/policy/"))


def test_a_rule_that_breaks_nothing_is_saved_at_once(signed_in: SignIn, alice: User) -> None:
    client = signed_in(alice)
    form = full_dataset.policy_form(
        forbidden_permissions="mail.send, Files.*", approval_permissions="Mail.Read", version=0
    )
    answer = client.post("/policy/", form)
    assert (answer.status_code, answer["Location"]) == (302, "/policy/")
    rules = policy.stored_policy().rules
    assert {name: str(effect) for name, effect in rules.permissions.items()} == {
        "Files.*": "forbidden",
        "Mail.Read": "approval",
        "Mail.Send": "forbidden",
    }
    assert rules.environments is rules.tenants is rules.authentication_types is None


def test_the_impact_is_shown_before_anything_is_saved(signed_in: SignIn, alice: User, bob: User) -> None:
    connection = factories.make_connection(owner=bob)
    Share.objects.create(connection=connection, team=Team.objects.create(name="Finance"))
    client = signed_in(alice)
    form = full_dataset.policy_form(**FORBID, longest_share_days=7, version=0)
    shown = client.post("/policy/", form)
    words = text(shown)
    assert shown.status_code == 200
    assert not Policy.objects.exists()
    for part in (
        "1 connection<",
        "Invoices",
        "Mail.Read is forbidden by the organisation",
        "1 share<",
        "Could be short",
    ):
        assert part in words
    carried = hidden(shown)
    answer = client.post("/policy/", carried | {"on_connections": "disable", "on_shares": "mend"})
    assert answer.status_code == 302
    assert Connection.objects.get().status == "disabled"
    assert Share.objects.get().until is not None
    after = text(client.get("/policy/"))
    assert "1 connection disabled. 1 share shortened." in after


def test_a_preview_without_impact_can_be_saved(signed_in: SignIn, alice: User) -> None:
    client = signed_in(alice)
    shown = client.post("/policy/", full_dataset.policy_form(**FORBID, share_app_only="", version=0, preview="1"))
    assert "Nothing would break" in text(shown)
    assert not Policy.objects.exists()
    assert client.post("/policy/", hidden(shown)).status_code == 302
    assert policy.stored_policy().rules.share_app_only is False


def test_back_from_the_preview_keeps_the_input_and_saves_nothing(signed_in: SignIn, alice: User) -> None:
    factories.make_connection()
    client = signed_in(alice)
    shown = client.post("/policy/", full_dataset.policy_form(**FORBID, version=0))
    answer = client.post("/policy/", hidden(shown) | {"back": "1"})
    assert answer.status_code == 200
    assert "Mail.Read</textarea>" in text(answer)
    assert not Policy.objects.exists()


def test_violations_that_appeared_meanwhile_are_shown_again(signed_in: SignIn, alice: User) -> None:
    factories.make_connection()
    client = signed_in(alice)
    shown = client.post("/policy/", full_dataset.policy_form(**FORBID, version=0))
    factories.make_connection(name="Later")
    answer = client.post("/policy/", hidden(shown) | {"on_connections": "disable", "on_shares": "leave"})
    assert answer.status_code == 409
    assert "Nothing was changed" in text(answer)
    assert "Later" in text(answer)
    assert seen(answer) != seen(shown)
    assert not Policy.objects.exists()


def test_a_form_based_on_an_old_version_shows_an_error(signed_in: SignIn, alice: User) -> None:
    client = signed_in(alice)
    client.post("/policy/", full_dataset.policy_form(version=0, longest_share_days=9))
    answer = client.post("/policy/", full_dataset.policy_form(version=0, longest_share_days=8))
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
def test_invalid_rules_show_an_error_at_their_field(
    signed_in: SignIn, alice: User, typed: dict[str, Any], says: str
) -> None:
    factories.make_connection()
    answer = signed_in(alice).post("/policy/", full_dataset.policy_form(**typed, version=0))
    assert answer.status_code in (200, 422)
    assert says in text(answer)
    assert not Policy.objects.exists()


def test_an_app_registrations_rules_show_the_organisations_rules(signed_in: SignIn, alice: User, carol: User) -> None:
    app = AppRegistration.objects.get()
    rule(capabilities={"mail.send": "forbidden"})
    client = signed_in(alice)
    assert "(organisation: forbidden)" in text(client.get(f"/policy/apps/{app.pk}/"))
    form = full_dataset.policy_form(version=0, share_app_only="", app_only_second_admin="on")
    assert client.post(f"/policy/apps/{app.pk}/", form)["Location"] == f"/policy/apps/{app.pk}/"
    assert policy.stored_policy(app).rules.app_only_second_admin
    assert "stricter rules of its own" in text(signed_in(carol).get("/policy/"))
    assert client.get("/policy/apps/999999999999999999999/").status_code == 404


def test_a_rule_about_a_deleted_tenant_is_kept(signed_in: SignIn, alice: User) -> None:
    rule(tenants=["global/gone.example"])
    page = text(signed_in(alice).get("/policy/"))
    assert "global/gone.example (not registered any more)" in page


def test_violations_are_listed_and_marked(signed_in: SignIn, alice: User, bob: User) -> None:
    connection = factories.make_connection(owner=bob)
    client = signed_in(alice)
    assert "Nothing breaks the policy" in text(client.get("/policy/violations/"))
    rule(permissions={"Mail.Read": "forbidden"})
    assert "Invoices" in text(client.get("/policy/violations/"))
    for user in (alice, bob):
        assert "Breaks policy" in text(signed_in(user).get("/connections/"))
        assert "Breaks policy." in text(signed_in(user).get(f"/connections/{connection.pk}/"))
    assert "/sign-in/" not in text(signed_in(bob).get(f"/connections/{connection.pk}/")).split("<main")[1]


def test_the_list_of_violations_has_a_fixed_number_of_queries(
    signed_in: SignIn, alice: User, django_assert_max_num_queries: Any
) -> None:
    for number in range(30):
        connection = factories.make_connection(name=f"Inbox {number:02}")
        Share.objects.create(connection=connection, team=Team.objects.create(name=f"Team {number}"))
    rule(permissions={"Mail.Read": "forbidden"}, longest_share_days=3)
    client = signed_in(alice)
    with django_assert_max_num_queries(18):
        assert "Inbox 29" in text(client.get("/policy/violations/"))


def test_connecting_offers_what_is_allowed_and_explains_the_rest(signed_in: SignIn, bob: User) -> None:
    app = AppRegistration.objects.get()
    client = signed_in(bob)
    plain = text(client.get(f"/connections/add/{app.pk}/"))
    assert "Why it is needed" not in plain
    rule(capabilities={"mail.send": "approval"}, permissions={"Files.*": "forbidden"})
    page = client.get(f"/connections/add/{app.pk}/")
    words = text(page)
    assert re.search(r'id="capability-files.read" disabled', words)
    assert "Not allowed.</strong> Files.Read is forbidden by the organisation&#x27;s policy through the rule" in words
    assert re.search(r'id="capability-mail.send"(?! disabled)', words)
    assert "“Send mail” needs the approval of an IT admin" in words
    assert "Why it is needed" in words


def test_a_forbidden_app_registration_is_not_offered(signed_in: SignIn, bob: User) -> None:
    app = AppRegistration.objects.get()
    factories.make_app_registration(name="Second", client_id=factories.ROBOTS_CLIENT_ID)
    rule(app, authentication_types=[])
    client = signed_in(bob)
    words = text(client.get("/connections/add/"))
    assert f'href="/connections/add/{app.pk}/"' not in words
    assert "forbidden by the policy for Contoso Connections" in words
    assert client.get(f"/connections/add/{app.pk}/").status_code == 403


def test_editing_keeps_existing_capabilities_that_are_forbidden_now(signed_in: SignIn, bob: User) -> None:
    connection = factories.make_connection(owner=bob)
    rule(permissions={"Mail.Read": "forbidden", "Files.*": "forbidden"})
    client = signed_in(bob)
    words = text(client.get(f"/connections/{connection.pk}/edit/"))
    assert re.search(r'id="capability-mail.read" checked(?! disabled)', words)
    assert re.search(r'id="capability-files.read" disabled', words)
    answer = client.post(f"/connections/{connection.pk}/edit/", {"name": "Renamed", "chosen": ["mail.read"]})
    assert answer.status_code == 302
    assert Connection.objects.get().name == "Renamed"
    refused = client.post(
        f"/connections/{connection.pk}/edit/", {"name": "Renamed", "chosen": ["mail.read", "files.read"]}
    )
    assert refused.status_code == 422
    assert "Files.Read is forbidden" in text(refused)


def test_sharing_offers_what_is_allowed(signed_in: SignIn, bob: User, dave: User, alice: User) -> None:
    connection = factories.make_connection(owner=bob)
    robot = factories.make_app_only_connection(owner=alice)
    rule(share_with_people=False, longest_share_days=7, share_app_only=False)
    words = text(signed_in(bob).get(f"/connections/{connection.pk}/shares/add/"))
    assert "teams only" in words
    assert "Dave Stranger" not in words
    assert f'max="{(timezone.now() + timedelta(days=7)).date().isoformat()}"' in words
    closed = text(signed_in(alice).get(f"/connections/{robot.pk}/shares/add/"))
    assert "Sharing app-only connections is forbidden" in closed
    assert "<form" not in closed.split("<main")[1]


def asks(client: Client, **more: Any) -> Any:
    rule(capabilities={"mail.send": "approval"})
    app = AppRegistration.objects.get()
    form = {"kind": "authorization_code", "name": "Answers", "chosen": ["mail.send"], "reason": "To answer customers."}
    return client.post(f"/connections/add/{app.pk}/", form | more, follow=True)


def test_a_member_requests_an_it_admin_approves_and_the_member_signs_in(
    signed_in: SignIn, alice: User, bob: User
) -> None:
    member, admin = signed_in(bob), signed_in(alice)
    shown = text(asks(member))
    assert "Waits for an approval" in shown
    connection = Connection.objects.get()
    assert f'action="/connections/{connection.pk}/sign-in/"' not in shown
    approval = Approval.objects.get()
    assert "Answers" in text(admin.get("/"))
    assert "Approval of Answers" in text(admin.get("/"))
    page = text(admin.get(f"/approvals/{approval.pk}/"))
    for part in ("To answer customers.", "Mail.Send", "Send mail", "Bob Member"):
        assert part in page
    assert admin.post(f"/approvals/{approval.pk}/approve/", {"reason": "Fine."}).status_code == 302
    assert "Approval of Answers" not in text(admin.get("/"))
    home = text(member.get("/"))
    assert "Approvals you asked for" in home
    assert "Fine." in home
    assert f'action="/connections/{connection.pk}/sign-in/"' in text(member.get(f"/connections/{connection.pk}/"))


def test_everybody_concerned_gets_one_mail(signed_in: SignIn, alice: User, bob: User, carol: User) -> None:
    asks(signed_in(bob))
    outbox.deliver_due(timezone.now())
    (question,) = mail.outbox
    assert question.to == ["alice@example.org"]
    assert question.subject == "Bob Member asks for approval: Answers"
    for part in ("To answer customers.", "“Send mail” needs the approval", "/approvals/", "Mail.Send"):
        assert part in question.body
    mail.outbox.clear()
    approval = Approval.objects.get()
    signed_in(alice).post(f"/approvals/{approval.pk}/decline/", {"reason": "Use the team mailbox."})
    outbox.deliver_due(timezone.now())
    (answer,) = mail.outbox
    assert answer.to == ["bob@example.org"]
    assert answer.subject == "Answers is declined"
    assert "Use the team mailbox." in answer.body


def test_declining_requires_a_reason(signed_in: SignIn, alice: User, bob: User) -> None:
    asks(signed_in(bob))
    approval = Approval.objects.get()
    answer = signed_in(alice).post(f"/approvals/{approval.pk}/decline/", {"reason": " "})
    assert answer.status_code == 422
    assert "Say why" in text(answer)
    assert Approval.objects.get().is_waiting


def test_a_second_decision_is_refused(signed_in: SignIn, alice: User, bob: User) -> None:
    asks(signed_in(bob))
    approval = Approval.objects.get()
    signed_in(bob).post(f"/approvals/{approval.pk}/withdraw/")
    answer = signed_in(alice).post(f"/approvals/{approval.pk}/approve/", {})
    assert answer.status_code == 409
    assert "It was withdrawn meanwhile" in text(answer)


def test_a_declined_request_is_explained_and_can_be_repeated(signed_in: SignIn, alice: User, bob: User) -> None:
    member = signed_in(bob)
    asks(member)
    signed_in(alice).post(f"/approvals/{Approval.objects.get().pk}/decline/", {"reason": "Too much."})
    connection = Connection.objects.get()
    page = text(member.get(f"/connections/{connection.pk}/"))
    assert "Too much." in page
    assert f'href="/connections/{connection.pk}/approval/"' in page
    response = member.post(f"/connections/{connection.pk}/approval/", {"reason": "Only replies."})
    assert response["Location"] == f"/approvals/{Approval.objects.latest('pk').pk}/"
    assert Approval.objects.latest("pk").reason == "Only replies."


def test_the_only_it_admin_reads_who_else_could_decide(signed_in: SignIn, alice: User) -> None:
    client = signed_in(alice)
    asks(client)
    page = text(client.get(f"/approvals/{Approval.objects.get().pk}/"))
    assert "break-glass account" in page
    assert "/approve/" not in page
    assert client.post(f"/approvals/{Approval.objects.get().pk}/approve/", {}).status_code == 403


def test_an_approved_app_only_connection_is_connected_at_once(signed_in: SignIn, alice: User, sandbox: Control) -> None:
    anna = factories.make_person("anna")
    anna.groups.set(alice.groups.all())
    rule(app_only_second_admin=True)
    app = AppRegistration.objects.get()
    form = {"kind": "client_credentials", "name": "Nightly", "chosen": ["mail.read"], "reason": "Reports"}
    assert "Waits for an approval" in text(signed_in(alice).post(f"/connections/add/{app.pk}/", form, follow=True))
    sandbox.weather("unavailable", where="token")
    answer = signed_in(anna).post(f"/approvals/{Approval.objects.get().pk}/approve/", {}, follow=True)
    assert "It is not connected yet" in text(answer)
    sandbox.weather("normal", where="token")
    connection = Connection.objects.get()
    page = text(signed_in(alice).get(f"/connections/{connection.pk}/"))
    assert "Connect now" in page
    signed_in(alice).post(f"/connections/{connection.pk}/connect/")
    assert Connection.objects.get().connected_at is not None


def test_the_list_of_approvals_has_a_fixed_number_of_queries(
    signed_in: SignIn, alice: User, bob: User, django_assert_max_num_queries: Any
) -> None:
    for number in range(30):
        full_dataset.make_approval(factories.make_connection(owner=bob, name=f"Inbox {number:02}"))
    client = signed_in(alice)
    with django_assert_max_num_queries(10):
        assert "Inbox 29" in text(client.get("/approvals/"))
    assert "Nothing matches" in text(client.get("/approvals/", {"q": "zzz"}))
    assert "You have asked for no approval" in text(signed_in(factories.make_person("dave")).get("/approvals/"))
