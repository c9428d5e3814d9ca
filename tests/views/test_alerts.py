"""Pages about alerts: the outbox, the channels, and notification preferences."""

from typing import Any

import pytest
from django.core import mail
from django.db import connection as database
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from connections.models import AlertChannel, AlertChoice, Delivery, User
from connections.services.notifications import alerts
from tests import factories
from tests.fake_receivers import web_server
from tests.services.notifications.test_alerts import NOW, make_channel, make_incident
from tests.views.pages import assert_hides, assert_shows, text

PUBLIC = "https://93.184.216.34/hook/a-secret-part"


def test_the_list_shows_recipients_alerts_and_outcomes(admin: Client, bob: User) -> None:
    make_channel()
    alerts.incident_opened(make_incident(assignee=bob), now=NOW)
    Delivery.objects.filter(email="bob@example.org").update(delivered_at=NOW, next_attempt_at=None, attempts=3)
    Delivery.objects.filter(email="alice@example.org").update(last_error="The mail server can't be reached.")
    Delivery.objects.exclude(channel=None).update(given_up_at=NOW, next_attempt_at=None)
    page = text(admin.get(reverse("alerts")))
    assert_shows(page, "bob@example.org", "attempt 3", "The mail server can't be reached.", "Retrying")
    assert_shows(page, "Tickets", "Failed", "ada@contoso.example needs to sign in again", "Retry failed")
    assert page.count(">Retry<") == 2


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("event=opened", {"bob@example.org", "alice@example.org"}),
        ("event=healed", set()),
        ("outcome=delivered", {"bob@example.org"}),
        ("outcome=waiting", {"alice@example.org"}),
        ("outcome=given_up", set()),
        ("q=bob@", {"bob@example.org"}),
        ("q=ada@contoso", {"bob@example.org", "alice@example.org"}),
        ("outcome=nonsense", {"bob@example.org", "alice@example.org"}),
    ],
)
def test_the_list_can_be_narrowed(admin: Client, bob: User, query: str, shown: set[str]) -> None:
    alerts.incident_opened(make_incident(assignee=bob), now=NOW)
    Delivery.objects.filter(email="bob@example.org").update(delivered_at=NOW)
    response = admin.get(f"{reverse('alerts')}?{query}")
    assert {row["delivery"].email for row in response.context["rows"]} == shown


def test_an_empty_outbox_says_so(admin: Client) -> None:
    assert "No alerts yet" in text(admin.get(reverse("alerts")))


def test_a_long_list_costs_as_many_queries_as_a_short_one(admin: Client, bob: User) -> None:
    credential = factories.make_app_registration().credentials.get()

    def count_queries() -> int:
        with CaptureQueriesContext(database) as queries:
            admin.get(reverse("alerts"))
        return len(queries)

    make_channel()
    alerts.incident_opened(make_incident(assignee=bob), now=NOW)
    alerts.credential_expires(credential, days=30, now=NOW)
    few = count_queries()
    for number in range(8):
        alerts.incident_opened(make_incident(assignee=bob, title=f"No. {number}"), now=NOW)
        alerts.credential_expires(credential, days=number, now=NOW)
    assert count_queries() == few <= 12


def test_try_now_reports_the_outcome(admin: Client, bob: User) -> None:
    alerts.incident_opened(make_incident(assignee=bob), now=NOW)
    row = Delivery.objects.get(email="bob@example.org")
    assert "Delivered to bob@example.org." in text(admin.post(reverse("alert_retry", args=[row.pk]), follow=True))
    assert [sent.to for sent in mail.outbox] == [["bob@example.org"]]
    assert "was already delivered" in text(admin.post(reverse("alert_retry", args=[row.pk]), follow=True))
    assert len(mail.outbox) == 1


def test_alerts_that_were_given_up_are_queued_again(admin: Client, bob: User) -> None:
    alerts.incident_opened(make_incident(assignee=bob), now=NOW)
    Delivery.objects.filter(email="bob@example.org").update(given_up_at=NOW, next_attempt_at=None)
    assert "1 alert is queued" in text(admin.post(reverse("alerts_retry"), follow=True))
    assert not Delivery.objects.filter(given_up_at__isnull=False).exists()


def test_a_webhooks_secret_is_shown_once_and_never_again(admin: Client) -> None:
    form = {"kind": "webhook", "name": "Tickets", "url": PUBLIC}
    response = admin.post(reverse("alert_channel_add"), form)
    channel = AlertChannel.objects.get()
    assert channel.signing_secret
    assert str(channel.signing_secret) in text(response).replace("&#x2B;", "+")
    assert "no-store" in response["Cache-Control"]
    for path in (
        reverse("alert_channel", args=[channel.pk]),
        reverse("alert_channel_edit", args=[channel.pk]),
        reverse("alert_channels"),
        reverse("audit"),
    ):
        assert_hides(text(admin.get(path)), "whsec_", "a-secret-part")


def test_a_refused_address_shows_an_error_and_is_not_rendered_again(admin: Client) -> None:
    for url, sentence in (
        ("http://hooks.example.org/a-secret-part", "must start with https://"),
        ("https://10.0.0.1/a-secret-part", "on a private network"),
        ("", "This field is required."),
    ):
        response = admin.post(reverse("alert_channel_add"), {"kind": "chat", "name": "Teams", "url": url})
        assert response.status_code == 422
        assert sentence in str(response.context["form"].errors["url"])
        assert "a-secret-part" not in text(response)
    assert not AlertChannel.objects.exists()


def test_a_pasted_address_is_cleaned(admin: Client) -> None:
    form = {"kind": "chat", "name": "Teams", "url": f"  “{PUBLIC}”\r\n"}
    assert admin.post(reverse("alert_channel_add"), form).status_code == 302
    assert AlertChannel.objects.get().url == PUBLIC


def test_a_taken_name_shows_an_error_at_its_field(admin: Client) -> None:
    make_channel()
    form = {"kind": "chat", "name": "Tickets", "url": PUBLIC}
    response = admin.post(reverse("alert_channel_add"), form)
    assert "A channel named" in str(response.context["form"].errors["name"])


def test_a_test_alert_reports_the_receivers_answer(admin: Client, settings: Any) -> None:
    settings.ALERT_PRIVATE_TARGETS = True
    with web_server() as hooks:
        path = reverse("alert_channel_test", args=[make_channel(url=hooks.url, host="127.0.0.1").pk])
        assert "Delivered to Tickets." in text(admin.post(path, follow=True))
        hooks.status = 403
        assert "Not delivered to Tickets. The receiver responded with status 403." in text(
            admin.post(path, follow=True)
        )
    assert b'"type":"test"' in hooks.requests[0].body


def test_switching_off_and_on_and_removing(admin: Client) -> None:
    client, channel = admin, make_channel()
    assert "is disabled" in text(client.post(reverse("alert_channel_disable", args=[channel.pk]), follow=True))
    assert AlertChannel.objects.get().disabled_at is not None
    client.post(reverse("alert_channel_enable", args=[channel.pk]))
    assert AlertChannel.objects.get().disabled_at is None
    assert "receive any more alerts" in text(client.get(reverse("alert_channel_remove", args=[channel.pk])))
    client.post(reverse("alert_channel_remove", args=[channel.pk]))
    assert not AlertChannel.objects.exists()


def test_a_new_signing_secret_is_shown_once(admin: Client) -> None:
    client, channel = admin, make_channel()
    page = text(client.post(reverse("alert_channel_secret", args=[channel.pk])))
    assert "For the next 24 hours" in page
    assert page.count("whsec_") == 1
    chat = make_channel(name="Teams", kind=AlertChannel.Kind.CHAT)
    assert "Only webhooks have a signing secret" in text(
        client.post(reverse("alert_channel_secret", args=[chat.pk]), follow=True)
    )


def test_a_member_sets_their_preferences(bob: User, member: Client) -> None:
    page = text(member.get(reverse("account_alerts")))
    assert page.count('type="checkbox"') - page.count('id="nav-open"') == 4
    assert page.count(" checked") == 4
    member.post(reverse("account_alerts"), {"own_incidents": "on", "organisation_incidents": "", "expiry_warnings": ""})
    choice = AlertChoice.objects.get(user=bob)
    assert (choice.own_incidents, choice.reminders, choice.recoveries) == (True, False, False)
    assert (choice.organisation_incidents, choice.expiry_warnings) == (True, True)


def test_everything_can_be_unticked(alice: User, admin: Client) -> None:
    admin.post(reverse("account_alerts"), {})
    choice = AlertChoice.objects.get(user=alice)
    columns = (field.attname for field in AlertChoice._meta.fields if field.get_internal_type() == "BooleanField")
    assert [getattr(choice, name) for name in columns] == [False] * 6
    assert " checked" not in text(admin.get(reverse("account_alerts")))


def test_a_test_goes_to_ones_own_address(member: Client) -> None:
    assert "Delivered to bob@example.org." in text(member.post(reverse("account_alerts_test"), follow=True))
    assert mail.outbox[0].to == ["bob@example.org"]


def test_without_an_address_the_page_explains_what_to_do(bob: User) -> None:
    User.objects.filter(pk=bob.pk).update(email="")
    client = factories.signed_in(User.objects.get(pk=bob.pk))
    assert "Your account has no email address" in text(client.get(reverse("account_alerts")))
    assert "no email address" in text(client.post(reverse("account_alerts_test"), follow=True))


def test_the_account_page_links_to_the_preferences(member: Client) -> None:
    assert reverse("account_alerts") in text(member.get(reverse("account")))
