"""What expires: the list of expirations, the forecast on a connection's page, and an app registration's credentials."""

import re
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.db import connection as database
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from connections.models import AppRegistration, Connection, Delivery, Share, User
from connections.services.expiry import calendar, sign_in_secret
from connections.services.registry import credentials
from portal.sandbox.client import Control
from tests import factories
from tests.views.pages import assert_hides, assert_shows

# A Wednesday: this week ends on Sunday the 22nd.
NOW = timezone.now().replace(year=2026, month=11, day=18, hour=12, minute=0, second=0, microsecond=0)


def days(count: float) -> timedelta:
    return timedelta(days=count)


def page(client: Client, query: str = "") -> str:
    answer = client.get(f"/expiries/{query}")
    assert answer.status_code == 200
    return str(answer.content.decode())


@pytest.fixture
def at_noon() -> Any:
    """Freeze the clock at NOW."""
    with time_machine.travel(NOW, tick=False):
        yield


def app_that_ends(count: float, name: str = "Contoso Connections", **overrides: Any) -> AppRegistration:
    client_id = f"{AppRegistration.objects.count():08d}-0000-4000-8000-000000000000"
    app = factories.make_app_registration(name=name, secret=None, client_id=client_id)
    factories.make_secret(app, expires_at=NOW + days(count), **overrides)
    return app


def test_it_groups_by_week_and_month(at_noon: None, admin: Client) -> None:
    for number, count in enumerate([-3, 2, 6, 12, 40, 300, 400]):
        app_that_ends(count, f"App {number}")
    text = page(admin)
    assert re.findall(r'<h2 class="card-title" id="[^"]+-heading">([^<]+)</h2>', text) == [
        "Expired",
        "This week",
        "Next week",
        "Later in November 2026",
        "December 2026",
        "September 2027",
    ]
    assert "App 6" not in text  # more than a year away


def test_the_year_at_a_glance_counts_what_ends_and_what_stops(at_noon: None, admin: Client) -> None:
    factories.make_connection(app_registration=app_that_ends(40))
    months = admin.get("/expiries/").context["months"]
    assert len(months) == 12
    assert [(month["name"], month["count"], month["stops"]) for month in months if month["count"]] == [("Dec", 1, 1)]


def test_the_chart_has_a_bar_for_each_week_with_an_expiration(at_noon: None, admin: Client) -> None:
    factories.make_connection(app_registration=app_that_ends(40))
    for number, count in enumerate((-90, 2, 2)):
        app_that_ends(count, f"App {number}")
    chart = admin.get("/expiries/").context["chart"]
    affects, others = (dict(zip(chart.columns, each.values, strict=True)) for each in chart.series)
    assert {week: count for week, count in affects.items() if count} == {"28 Dec 2026": 1}
    assert sorted(count for count in others.values() if count) == [1, 2]
    assert others[chart.columns[0]] == 1, "what expired long ago is in the first week"
    assert list(chart.marks.values()) == ["Today"]
    assert [row[0] for row in chart.rows if any(row[1])] == [chart.columns[0], chart.columns[4], "28 Dec 2026"]


def test_it_says_what_stops_and_what_another_credential_outlasts(at_noon: None, admin: Client) -> None:
    app = app_that_ends(40, label="Last one")
    factories.make_secret(app, expires_at=NOW + days(10), label="Old one")
    factories.make_connection(app_registration=app)
    text = page(admin)
    assert_shows(text, "1 connection will stop working.", "No connection is affected. Last one expires later")


def test_a_credential_that_works_no_more_is_not_listed(at_noon: None, admin: Client) -> None:
    app_that_ends(40, rejected_at=NOW)
    assert "No upcoming expirations" in page(admin)


def test_sign_ins_grants_and_shares_are_listed(at_noon: None, admin: Client, dave: User) -> None:
    app = app_that_ends(500)
    factories.make_connection(app_registration=app, name="Limited", connected_at=NOW, sign_in_max_age=86_400 * 5)
    parked = {"status": Connection.Status.DISABLED, "refreshed_at": NOW - days(80)}
    factories.make_connection(app_registration=app, name="Parked", **parked)
    shared = factories.make_connection(app_registration=app, name="Shared")
    Share.objects.create(connection=shared, person=dave, until=NOW + days(20))
    text = page(admin)
    assert_shows(text, "Sign-in expires", "Unused sign-in expires", "Share with Dave Stranger", "every 5 days")
    for kind, name in (("sign_in", "Limited"), ("idle", "Parked"), ("share", "Shared")):
        filtered = page(admin, f"?kind={kind}")
        assert {title for title in ("Limited", "Parked", "Shared") if f">{title}</a>" in filtered} == {name}


def test_filters_narrow_by_tenant_and_effect(at_noon: None, admin: Client) -> None:
    other = factories.make_tenant(name="Fabrikam", directory_id="fabrikam.example", tid="")
    elsewhere = factories.make_app_registration(tenant=other, name="Elsewhere", secret=None)
    factories.make_secret(elsewhere, expires_at=NOW + days(9))
    factories.make_connection(app_registration=app_that_ends(40, "Ours"))
    assert ">Elsewhere</a>" not in page(admin, f"?tenant={AppRegistration.objects.get(name='Ours').tenant_id}")
    stopping = page(admin, "?effect=stops")
    assert ">Ours</a>" in stopping
    assert ">Elsewhere</a>" not in stopping
    assert "No results found" in page(admin, "?kind=idle")


def test_members_read_what_stops_their_connections_and_no_more(at_noon: None, member: Client, bob: User) -> None:
    own = app_that_ends(40, "Mine", label="A name for admins")
    factories.make_secret(own, expires_at=NOW + days(5), label="Outlasted")
    app_that_ends(10, "Not mine")
    factories.make_connection(app_registration=own, owner=bob)
    switched_off = app_that_ends(20, "Switched off")
    factories.make_connection(app_registration=switched_off, owner=bob, name="Off", status=Connection.Status.DISABLED)
    factories.make_app_only_connection(app_registration=own, name="Of alice")
    text = page(member)
    assert "1 connection of yours will stop working." in text
    assert_hides(text, "Not mine", "Switched off", "A name for admins", "Outlasted", "Of alice")


def test_a_stranger_sees_that_nothing_concerns_them(at_noon: None, bob: User, stranger: Client) -> None:
    shared = factories.make_connection(app_registration=app_that_ends(4), owner=bob)
    Share.objects.create(connection=shared, person=bob, until=NOW + days(2))
    assert "No upcoming expirations" in page(stranger)


def test_the_number_of_queries_does_not_grow(at_noon: None, admin: Client, alice: User, bob: User) -> None:
    def fill(batch: int) -> None:
        for number in range(4):
            app = app_that_ends(5 + number, f"App {batch} {number}")
            name = f"Limited {batch} {number}"
            limited = {"connected_at": NOW, "sign_in_max_age": 86_400}
            connection = factories.make_connection(app_registration=app, name=name, **limited)
            Share.objects.create(connection=connection, person=alice, until=NOW + days(2))

    fill(1)
    with CaptureQueriesContext(database) as few:
        page(admin)
    fill(2)
    with CaptureQueriesContext(database) as many:
        page(admin)
    assert len(many) == len(few)
    assert not any('"secret"' in query["sql"] or '"refresh_token"' in query["sql"] for query in many)


def test_a_long_list_is_cut(at_noon: None, admin: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calendar, "MOST", 2)
    for number in range(3):
        app_that_ends(10 + number, f"App {number}")
    text = page(admin)
    assert "Only the first 2 of each type are shown" in text
    assert ">App 2</a>" not in text


def test_a_connection_says_when_why_and_who(at_noon: None, member: Client, bob: User) -> None:
    connection = factories.make_connection(app_registration=app_that_ends(12), owner=bob)
    text = " ".join(member.get(f"/connections/{connection.pk}/").content.decode().split())
    plain = re.sub(r"<[^>]+>", "", text)
    assert "Expires in 12 days, on 30 November 2026: the app registration" in plain
    assert_shows(plain, "An IT admin needs to add a new credential.", "every hour")


def test_a_connection_with_nothing_in_sight_or_missing_says_so(at_noon: None, member: Client, bob: User) -> None:
    app = factories.make_app_registration(secret=None)
    factories.make_secret(app, expires_at=None)
    connection = factories.make_connection(app_registration=app, owner=bob)
    page = member.get(f"/connections/{connection.pk}/").content.decode()
    assert_shows(page, "No upcoming expirations.", "exactly the permissions needed")


def test_the_list_shows_ends_and_missing_permissions(at_noon: None, admin: Client) -> None:
    app = app_that_ends(12)
    factories.make_connection(app_registration=app, name="C", granted_scopes="openid")
    with CaptureQueriesContext(database) as few:
        text = admin.get("/connections/").content.decode()
    assert_shows(text, "in 12 days", "Permissions missing")
    for number in range(5):
        factories.make_connection(app_registration=app, name=f"C{number}")
    with CaptureQueriesContext(database) as many:
        admin.get("/connections/")
    assert len(many) == len(few)


def test_drift_offers_a_click_to_the_owner_and_a_sentence_to_others(admin: Client, member: Client, bob: User) -> None:
    granted = {"capabilities": ["mail.read", "calendar.events"], "granted_scopes": "Mail.ReadWrite Files.Read"}
    connection = factories.make_connection(owner=bob, **granted)
    own = member.get(f"/connections/{connection.pk}/").content.decode()
    assert "Sign in to grant missing permissions" in own
    assert_shows(own, "2 more permissions than needed", "Mail.Read is enough")
    other = admin.get(f"/connections/{connection.pk}/").content.decode()
    assert "The owner needs to sign in again to grant the missing permissions" in other
    assert "Sign in to grant missing permissions" not in other


def test_missing_roles_lead_an_admin_to_consent_and_script(admin: Client, alice: User) -> None:
    connection = factories.make_app_only_connection(owner=alice, granted_scopes="User.Read.All")
    text = admin.get(f"/connections/{connection.pk}/").content.decode()
    app = connection.app_registration_id
    assert_shows(text, f'href="/apps/{app}/consent/"', f'href="/apps/{app}/script/"')


def test_the_page_says_which_credential_is_used_and_where_its_date_comes_from(
    admin: Client, app: AppRegistration
) -> None:
    text = admin.get(f"/apps/{app.pk}/").content.decode()
    assert_shows(text, "Used first", "Entered manually", "Application.Read.All", "Generate next certificate")


def test_a_check_reads_the_true_dates_where_the_app_may(admin: Client, sandbox: Control) -> None:
    app = factories.make_app_registration(secret=None, client_id=factories.ROBOTS_CLIENT_ID)
    factories.make_secret(app, factories.ROBOTS_CLIENT_SECRET, expires_at=None)
    deleted = factories.make_secret(app, "xyz~deleted", label="Deleted", created_at=timezone.now() - days(3))
    text = admin.post(f"/apps/{app.pk}/verify/", follow=True).content.decode()
    assert_shows(text, "Read from Entra", "Deleted is no longer listed in Entra")
    assert factories.reloaded(deleted).unlisted_at is not None


def test_an_outage_of_graph_keeps_the_credential_accepted(admin: Client, sandbox: Control) -> None:
    app = factories.make_app_registration(secret=factories.ROBOTS_CLIENT_SECRET, client_id=factories.ROBOTS_CLIENT_ID)
    sandbox.weather("unavailable", "graph")
    text = admin.post(f"/apps/{app.pk}/verify/", follow=True).content.decode()
    assert "Expiration dates couldn&#x27;t be read from Entra" in text
    assert factories.reloaded(app).is_ready


def test_retiring_the_only_accepted_credential_is_not_called_safe(
    admin: Client, alice: User, app: AppRegistration
) -> None:
    credential = app.credentials.get()
    credentials.next_certificate(app, actor=alice)
    factories.make_connection(app_registration=app)
    text = admin.get(f"/apps/{app.pk}/credentials/{credential.pk}/retire/").content.decode()
    assert "Connections keep working" not in text
    assert "1 connection will stop working within an hour" in text


def test_the_portals_own_sign_in_secret_is_listed_for_it_admins(
    at_noon: None, admin: Client, member: Client, settings: Any
) -> None:
    settings.LOGIN_MICROSOFT_SECRET_EXPIRES = (NOW + days(20)).date()
    assert_shows(page(admin), "Sign-in to this portal", "LOGIN_MICROSOFT_CLIENT_SECRET")
    assert_hides(page(member), "Sign-in to this portal")
    settings.LOGIN_MICROSOFT_SECRET_EXPIRES = None
    assert_hides(page(admin), "Sign-in to this portal")


def test_it_admins_are_warned_once_for_each_step_before_it_expires(alice: User, settings: Any) -> None:
    settings.LOGIN_MICROSOFT_SECRET_EXPIRES = (NOW + days(100)).date()
    for count in (0, 41, 42, 71, 87, 94, 99.4, 101, 101):
        sign_in_secret.warn_due(now=NOW + days(count))
    subjects = list(Delivery.objects.order_by("pk").values_list("subject", flat=True))
    assert subjects == [*["Client secret of the portal's own sign-in expires soon"] * 5, subjects[-1]]
    assert subjects[-1].endswith("has expired")
