import html
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from connections.models import Connection, MailboxAccess, SharedMailbox, User
from connections.services.connections import app_only
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories
from tests.services.mailboxes.test_mailboxes import FULL, connected
from tests.views.pages import assert_hides, assert_shows, text

State = MailboxAccess.State


def test_the_list_says_how_many_connections_reach_each(member: Client) -> None:
    mailbox = factories.make_mailbox()
    factories.make_mailbox_access(factories.make_connection(name="A"), mailbox, state=State.REACHABLE)
    factories.make_mailbox_access(factories.make_connection(name="B"), mailbox, state=State.UNREACHABLE)
    page = text(member.get(reverse("mailboxes")))
    assert_shows(page, "support@contoso.example", "1 of 2 reachable", "Partly reachable")


def test_a_mailbox_nobody_reaches_is_marked_so(member: Client) -> None:
    factories.make_mailbox_access(factories.make_connection(), factories.make_mailbox(), state=State.UNREACHABLE)
    page = text(member.get(reverse("mailboxes")))
    assert_shows(page, "0 of 1 reachable", "Not reachable")
    assert "for some" not in page


def test_the_list_asks_the_same_number_of_queries_for_one_and_for_many(member: Client, max_queries: Any) -> None:
    for number in range(40):
        factories.make_mailbox(address=f"box{number}@contoso.example")
    with max_queries(8):
        assert "box39@contoso.example" in text(member.get(reverse("mailboxes")))


def test_the_list_has_both_empty_states(member: Client, auditor: Client) -> None:
    assert "No shared mailboxes yet" in text(member.get(reverse("mailboxes")))
    assert reverse("mailbox_add") not in text(auditor.get(reverse("mailboxes")))
    factories.make_mailbox()
    assert "No results found" in text(member.get(reverse("mailboxes"), {"q": "zzz"}))


def test_search_and_tenant_filter_narrow_the_list(member: Client) -> None:
    factories.make_mailbox()
    fabrikam = factories.make_tenant(name="Fabrikam", directory_id=seed.FABRIKAM, tid=seed.FABRIKAM)
    factories.make_mailbox(tenant=fabrikam, address="info@fabrikam.example")
    assert "info@fabrikam.example" not in text(member.get(reverse("mailboxes"), {"q": "contoso"}))
    page = text(member.get(reverse("mailboxes"), {"tenant": fabrikam.pk}))
    assert "info@fabrikam.example" in page
    assert "support@contoso.example" not in page


def test_a_mailboxs_page_shows_only_connections_one_may_see(member: Client, bob: User, stranger: Client) -> None:
    mailbox = factories.make_mailbox()
    factories.make_mailbox_access(
        factories.make_connection(name="Bobs own", owner=bob),
        mailbox,
        state=State.UNREACHABLE,
        code="ErrorAccessDenied",
        cause="No access.",
        action="Ask Exchange.",
        probed_at=timezone.now(),
    )
    own = text(member.get(reverse("mailbox", args=[mailbox.pk])))
    assert all(words in own for words in ("Bobs own", "Not reachable", "No access.", "Ask Exchange."))
    theirs = text(stranger.get(reverse("mailbox", args=[mailbox.pk])))
    assert "Bobs own" not in theirs
    assert "1 connection owned by others also uses this mailbox" in theirs


def test_a_member_adds_a_mailbox(member: Client) -> None:
    tenant = factories.make_tenant()
    data = {"tenant": tenant.pk, "address": " “Support <Support@Contoso.example>” \n", "display_name": "Hilfe ☎"}
    response = member.post(reverse("mailbox_add"), data)
    mailbox = SharedMailbox.objects.get()
    assert (mailbox.address, mailbox.display_name) == ("Support@contoso.example", "Hilfe ☎")
    assert response["Location"] == reverse("mailbox", args=[mailbox.pk])


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("", "Enter the address"),
        ("support", "isn't an email address"),
        ("support@", "isn't an email address"),
        ("@contoso.example", "isn't an email address"),
        ("support @contoso.example", "isn't an email address"),
        ("https://outlook.office.com/mail/support@contoso.example", "address of a web page"),
        ("a@contoso.example; b@contoso.example", "several addresses"),
        ("x" * 400 + "@contoso.example", "isn't an email address"),
        ("x" * 600, "isn't an email address"),
        ("sup\x00port@contoso.example", "isn't an email address"),
        ("<script>@contoso.example", "isn't an email address"),
    ],
)
def test_a_wrong_address_is_told_and_nothing_typed_is_lost(member: Client, typed: str, words: str) -> None:
    data = {"tenant": factories.make_tenant().pk, "address": typed, "display_name": "Help desk"}
    response = member.post(reverse("mailbox_add"), data)
    assert response.status_code == 422
    assert words in " ".join(response.context["form"].errors["address"])
    assert 'value="Help desk"' in text(response)
    assert "<script>@" not in text(response)
    assert not SharedMailbox.objects.exists()


def test_mailto_links_and_international_domains_are_understood(member: Client) -> None:
    tenant = factories.make_tenant()
    for typed in ("mailto:a@contoso.example?subject=x", "b@Bücher.example"):
        member.post(reverse("mailbox_add"), {"tenant": tenant.pk, "address": typed})
    assert [mailbox.address for mailbox in SharedMailbox.objects.all()] == [
        "a@contoso.example",
        "b@xn--bcher-kva.example",
    ]


def test_a_duplicate_or_a_made_up_tenant_is_answered_at_its_field(member: Client) -> None:
    factories.make_mailbox()
    tenant = SharedMailbox.objects.get().tenant_id
    response = member.post(reverse("mailbox_add"), {"tenant": tenant, "address": "SUPPORT@contoso.example"})
    assert "already exists in Contoso" in str(response.context["form"].errors["address"])
    response = member.post(reverse("mailbox_add"), {"tenant": 999999, "address": "x@contoso.example"})
    assert "Choose a tenant from the list" in str(response.context["form"].errors["tenant"])


def test_shared_endpoints_are_not_offered_and_without_tenant_the_page_says_so(member: Client) -> None:
    factories.make_tenant(name="Everybody", directory_id="common", tid="")
    assert "No tenants yet" in text(member.get(reverse("mailbox_add")))


def test_who_registered_it_or_an_admin_changes_it(admin: Client, member: Client, bob: User) -> None:
    mailbox = factories.make_mailbox(created_by=bob)
    url = reverse("mailbox_edit", args=[mailbox.pk])
    assert 'value="support@contoso.example"' in text(member.get(url))
    member.post(url, {"address": "help@contoso.example", "display_name": "Help"})
    mailbox.refresh_from_db()
    assert (mailbox.address, mailbox.display_name) == ("help@contoso.example", "Help")
    assert admin.post(url, {"address": "nonsense"}).status_code == 422


def test_removing_says_what_would_break_before_and_is_refused_while_in_use(admin: Client) -> None:
    mailbox = factories.make_mailbox()
    url = reverse("mailbox_remove", args=[mailbox.pk])
    row = factories.make_mailbox_access(factories.make_connection(), mailbox)
    assert "because 1 connection uses it" in text(admin.get(url))
    assert "still uses" in text(admin.post(url, follow=True))
    row.delete()
    assert "No connections use this mailbox" in text(admin.get(url))
    assert SharedMailbox.objects.count() == 1
    assert admin.post(url)["Location"] == reverse("mailboxes")
    assert not SharedMailbox.objects.exists()


def test_a_member_attaches_a_new_address_that_is_reachable(sandbox: Control, member: Client, bob: User) -> None:
    url = reverse("mailbox_attach", args=[connected(sandbox, *FULL, owner=bob).pk])
    page = text(member.post(url, {"address": "support@contoso.example"}, follow=True))
    assert_shows(page, "support@contoso.example is reachable.", "Reachable")
    assert SharedMailbox.objects.get().created_by == bob


def test_what_is_missing_is_said_at_once(sandbox: Control, member: Client, bob: User) -> None:
    url = reverse("mailbox_attach", args=[connected(sandbox, "Mail.Read", owner=bob).pk])
    page = text(member.post(url, {"address": "support@contoso.example"}, follow=True))
    assert_shows(page, "The permission Mail.Read.Shared is missing", "Not reachable")


def test_a_wrong_address_is_shown_on_a_page_of_its_own(member: Client, connection: Connection) -> None:
    response = member.post(reverse("mailbox_attach", args=[connection.pk]), {"address": "support"})
    assert response.status_code == 422
    assert 'value="support"' in text(response)
    assert "isn't an email address" in text(response)


def test_a_connection_that_waits_gets_its_mailboxes_all_the_same(member: Client, bob: User) -> None:
    connection = factories.make_connection(owner=bob, status=Connection.Status.PENDING, refresh_token=None)
    url = reverse("mailbox_attach", args=[connection.pk])
    page = text(member.post(url, {"address": "support@contoso.example"}, follow=True))
    assert "tested when the connection is active" in page
    assert connection.mailbox_accesses.get().state == State.UNPROBED


def test_testing_now_and_detaching(sandbox: Control, member: Client, bob: User) -> None:
    connection = connected(sandbox, *FULL, owner=bob)
    row = factories.make_mailbox_access(connection, factories.make_mailbox(address="sales@contoso.example"))
    page = text(member.post(reverse("mailbox_probe", args=[connection.pk, row.pk]), follow=True))
    assert "Full Access" in page
    sandbox.weather(kind="unavailable", where="graph")
    page = text(member.post(reverse("mailbox_probe", args=[connection.pk, row.pk]), follow=True))
    assert "Could not be tested" in page
    assert "was detached" in text(member.post(reverse("mailbox_detach", args=[connection.pk, row.pk]), follow=True))
    assert not connection.mailbox_accesses.exists()


def test_a_row_of_another_connection_cannot_be_named(bob: User, stranger: Client, dave: User) -> None:
    theirs = factories.make_mailbox_access(factories.make_connection(owner=bob), factories.make_mailbox())
    own = factories.make_connection(name="Own", owner=dave)
    assert stranger.post(reverse("mailbox_detach", args=[own.pk, theirs.pk])).status_code == 404
    assert MailboxAccess.objects.filter(pk=theirs.pk).exists()


def test_all_mailboxes_of_a_connection_are_tested_at_once(sandbox: Control, member: Client, bob: User) -> None:
    connection = connected(sandbox, *FULL, owner=bob)
    for address in ("support@contoso.example", "sales@contoso.example"):
        factories.make_mailbox_access(connection, factories.make_mailbox(address=address))
    page = text(member.post(reverse("mailbox_probe_all", args=[connection.pk]), follow=True))
    assert "1 of 2 connections can reach the mailbox." in page
    assert set(connection.mailbox_accesses.values_list("state", flat=True)) == {State.REACHABLE, State.UNREACHABLE}


def test_it_says_who_reaches_it(sandbox: Control, admin: Client, member: Client, bob: User, stranger: Client) -> None:
    mailbox = factories.make_mailbox()
    well = connected(sandbox, *FULL, owner=bob, name="Well")
    app = well.app_registration
    robot = factories.make_app_only_connection(name="Robot", app_registration=app, access_token=None, expires_at=None)
    broken = factories.make_connection(
        owner=bob, name="Broken", app_registration=app, status=Connection.Status.RECONNECT_NEEDED
    )
    for connection in (well, robot, broken):
        factories.make_mailbox_access(connection, mailbox)
    url = reverse("mailbox", args=[mailbox.pk])
    assert reverse("mailbox_test", args=[mailbox.pk]) not in text(stranger.get(url))
    page = text(member.post(reverse("mailbox_test", args=[mailbox.pk]), follow=True))
    assert "support@contoso.example is reachable." in page
    assert_shows(page, "1 of 2", "Bob Member, signed in as", "This connection currently doesn't work")
    assert "Robot" not in page
    assert "Application Contoso Connections, owned by" in text(admin.get(url))


def test_a_mailboxs_page_costs_the_same_for_one_and_for_many_connections(admin: Client, max_queries: Any) -> None:
    mailbox = factories.make_mailbox()
    for number in range(25):
        factories.make_mailbox_access(factories.make_connection(name=f"No. {number}"), mailbox)
    with max_queries(12):
        assert "No. 24" in text(admin.get(reverse("mailbox", args=[mailbox.pk])))


def test_a_test_message_is_sent_only_after_saying_what_it_does(sandbox: Control, member: Client, bob: User) -> None:
    chosen = ["shared_mailbox.read", "shared_mailbox.send"]
    connection = connected(sandbox, *FULL, "Mail.Send.Shared", owner=bob, capabilities=chosen)
    row = factories.make_mailbox_access(connection, factories.make_mailbox(), state=State.REACHABLE)
    url, browser = reverse("mailbox_send", args=[connection.pk, row.pk]), member
    page = text(browser.get(reverse("connection", args=[connection.pk])))
    assert "Sending: not tested." in page
    assert url in page
    assert "will receive the message" in text(browser.get(url))
    assert sandbox.state()["sent"] == []
    page = text(browser.post(url, follow=True))
    assert_shows(page, "The test message was sent", "Sending: worked in the last test.")
    sandbox.set_mailbox(address="support@contoso.example", senders=[])
    page = text(browser.post(url, follow=True))
    assert_shows(page, "Sending: denied in the last test.", "Send As")


def test_the_commands_name_exactly_the_attached_mailboxes(admin: Client) -> None:
    app = factories.make_app_registration(name="Robots & O'Brien")
    connection = factories.make_app_only_connection(
        app_registration=app,
        capabilities=["mail.read", "mail.send", "directory.profiles"],
        granted_scopes="Mail.Read User.Read.All",
    )
    factories.make_mailbox_access(connection, factories.make_mailbox(address="o'brien@contoso.example"))
    factories.make_mailbox(address="sales@contoso.example")
    factories.make_app_only_connection(name="Sibling", app_registration=app)
    browser, url = admin, reverse("mailbox_powershell", args=[connection.pk])
    assert url in text(browser.get(reverse("connection", args=[connection.pk])))
    page = html.unescape(text(browser.get(url)))
    assert "'PrimarySmtpAddress -eq ''o''''brien@contoso.example'''" in page
    assert "sales@contoso.example" not in page
    assert "-DisplayName 'Robots & O''Brien'" in page
    for role in ("Mail.Read", "Mail.Send"):
        assert f"'Application {role}'" in page
    assert "The application has Mail.Read in Entra, which gives access to all mailboxes" in page
    assert_shows(page, "Exchange can't grant User.Read.All", "Sibling", "30 minutes to 2 hours")


def test_each_step_comes_as_a_file_that_windows_reads_rightly(admin: Client) -> None:
    connection = factories.make_app_only_connection(name="Röbot’s")
    factories.make_mailbox_access(connection, factories.make_mailbox())
    url = reverse("mailbox_powershell", args=[connection.pk])
    response = admin.get(url, {"download": "undo"})
    assert response["Content-Disposition"] == f'attachment; filename="exchange-undo-c0117ec7-{connection.pk}.ps1"'
    assert response.content.startswith(b"\xef\xbb\xbf# Undo")
    assert "Röbot’s" in response.content.decode("utf-8-sig")
    assert b"Remove-ManagementScope" in response.content
    assert admin.get(url, {"download": "../etc"}).status_code == 404


def test_without_a_tenant_wide_permission_the_page_says_what_one_would_do(auditor: Client) -> None:
    connection = factories.make_app_only_connection(granted_scopes="User.Read.All")
    factories.make_mailbox_access(connection, factories.make_mailbox())
    page = text(auditor.get(reverse("mailbox_powershell", args=[connection.pk])))
    assert "had no permission for all mailboxes" in page


def test_for_a_person_the_commands_give_full_access(member: Client, bob: User) -> None:
    connection = factories.make_connection(owner=bob, capabilities=["shared_mailbox.read"])
    factories.make_mailbox_access(connection, factories.make_mailbox())
    page = html.unescape(text(member.get(reverse("mailbox_powershell", args=[connection.pk]))))
    assert "Add-MailboxPermission -Identity 'support@contoso.example' -User 'ada@contoso.example'" in page
    assert_hides(page, "Add-RecipientPermission", "ManagementScope")


@pytest.mark.parametrize(
    ("columns", "attached", "words"),
    [
        ({}, False, "No shared mailboxes attached"),
        ({"account_username": ""}, True, "Not signed in yet"),
        ({"authentication_type": "client_credentials", "capabilities": []}, True, "No mailbox permissions needed"),
    ],
)
def test_it_says_why_not(member: Client, bob: User, columns: dict[str, Any], attached: bool, words: str) -> None:
    connection = factories.make_connection(owner=bob, **columns)
    if attached:
        factories.make_mailbox_access(connection, factories.make_mailbox())
    url = reverse("mailbox_powershell", args=[connection.pk])
    page = text(member.get(url))
    assert words in page
    assert "Connect-ExchangeOnline" not in page
    assert words in text(member.get(url, {"download": "grant"}))


def test_a_connection_that_waits_for_proof_can_be_tested(sandbox: Control, admin: Client, alice: User) -> None:
    app = factories.make_app_registration(client_id=factories.ROBOTS_CLIENT_ID, secret=factories.ROBOTS_CLIENT_SECRET)
    sandbox.withdraw_consent(client_id=seed.ROBOTS_APP, tenant=seed.CONTOSO)
    connection = app_only.connect(app, name="Robot", chosen=["mail.read"], actor=alice, now=timezone.now())
    sandbox.set_app(seed.ROBOTS_APP, exchange_role="Mail.Read", exchange_mailboxes=["support@contoso.example"])
    page = text(
        admin.post(reverse("mailbox_attach", args=[connection.pk]), {"address": "support@contoso.example"}, follow=True)
    )
    assert "support@contoso.example is reachable." in page
    assert factories.reloaded(connection).status == Connection.Status.ACTIVE


def test_the_connections_page_does_not_ask_for_what_exchange_grants(admin: Client) -> None:
    connection = factories.make_app_only_connection(granted_scopes="User.Read.All")
    row = factories.make_mailbox_access(connection, factories.make_mailbox(), state=State.UNREACHABLE)
    browser, url = admin, reverse("connection", args=[connection.pk])
    assert "Not granted: Mail.Read" in text(browser.get(url))
    MailboxAccess.objects.filter(pk=row.pk).update(state=State.REACHABLE)
    page = text(browser.get(url))
    assert "Not granted" not in page
    assert "Exchange grants Mail.Read in the reachable mailboxes only" in page
    assert "Permissions missing" not in text(browser.get(reverse("connections")))


def test_what_turned_out_to_be_no_mailbox_is_left_out_of_the_commands(admin: Client) -> None:
    connection = factories.make_app_only_connection()
    row = factories.make_mailbox_access(connection, factories.make_mailbox())
    removed = factories.make_mailbox(address="gone@contoso.example")
    factories.make_mailbox_access(connection, removed, state=State.UNREACHABLE, lack="not_found")
    browser, url = admin, reverse("mailbox_powershell", args=[connection.pk])
    page = html.unescape(text(browser.get(url)))
    assert "the last test found no mailbox" in page
    assert "'gone@contoso.example'" not in page
    row.delete()
    page = text(browser.get(url))
    assert "No mailboxes found" in page
    assert "Connect-ExchangeOnline" not in page
