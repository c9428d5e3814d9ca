"""Forecasts of when and why a connection will stop working."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection as database
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from connections.models import AppCredential, AppRegistration, Connection, Share, Team
from connections.services.expiry import forecast
from connections.services.expiry.forecast import Forecast, Reason
from connections.services.tokens import scheduler
from portal.sandbox.client import Control
from tests import factories

NOW = timezone.now()
Status = Connection.Status
Who = Connection.Who


def days(count: float) -> timedelta:
    return timedelta(days=count)


def only(connection: Connection) -> Forecast:
    [only_forecast] = forecast.summarize(connection, now=NOW).forecasts
    return only_forecast


def make_certificate(app: Any, **overrides: Any) -> AppCredential:
    values = {"kind": "certificate", "thumbprint": "AB" * 32, "certificate": "PEM", "verified_at": NOW}
    return AppCredential.objects.create(app_registration=app, **(values | overrides))


def test_the_only_secret_limits_the_connection() -> None:
    app = factories.make_app_registration(secret=None)
    factories.make_secret(app, expires_at=NOW + days(12))
    expiry = only(factories.make_connection(app_registration=app))
    expected = (Reason.CREDENTIAL, NOW + days(12), Who.IT_ADMIN, False)
    assert (expiry.reason, expiry.at, expiry.who, expiry.certain) == expected
    assert "only client secret" in expiry.cause
    assert "according to the date entered here" in expiry.cause


def test_the_end_of_the_readers_own_access_is_an_expiration() -> None:
    bob, dave, una = (factories.make_person(name) for name in ("bob", "dave", "una"))
    app = factories.make_app_registration(secret=None)
    factories.make_secret(app, expires_at=None)
    first, second, third = (
        factories.make_connection(owner=bob, name=name, app_registration=app) for name in ("First", "Second", "Third")
    )
    team = Team.objects.create(name="Accounting")
    team.members.add(dave)
    share = Share.objects.create
    share(connection=first, person=dave, until=NOW + days(5))
    share(connection=first, team=team, until=NOW + days(9))
    share(connection=second, person=dave, until=NOW + days(5))
    share(connection=second, team=team)  # without an end
    share(connection=third, person=dave, until=NOW + days(3), ended_at=NOW)
    share(connection=third, person=una, until=NOW + days(2))
    share(connection=third, person=bob, until=NOW + days(1))
    everything = [first, second, third]
    with CaptureQueriesContext(database) as queries:
        expirations = forecast.next_expirations(everything, now=NOW, reader=dave)
    assert {pk: (each.at, each.reason) for pk, each in expirations.items()} == {first.pk: (NOW + days(9), Reason.SHARE)}
    assert len(queries) == 2
    assert forecast.next_expirations(everything, now=NOW, reader=bob) == {}, "owners lose nothing"
    assert forecast.access_ends(una, everything) == {third.pk: NOW + days(2)}
    first.status = Status.RECONNECT_NEEDED
    assert forecast.next_expirations([first], now=NOW, reader=dave)[first.pk].reason == Reason.SHARE


def test_the_credential_that_lasts_longest_decides() -> None:
    app = factories.make_app_registration(secret=None)
    factories.make_secret(app, expires_at=NOW + days(12))
    factories.make_secret(app, expires_at=NOW + days(200), expiry_read_at=NOW)
    expiry = only(factories.make_connection(app_registration=app))
    assert (expiry.at, expiry.certain) == (NOW + days(200), True)
    assert "last working credential" in expiry.cause


@pytest.mark.parametrize("out", ["rejected_at", "retired_at", "unlisted_at"])
def test_an_unusable_credential_is_ignored(out: str) -> None:
    app = factories.make_app_registration(secret=None)
    factories.make_secret(app, expires_at=NOW + days(12))
    factories.make_secret(app, "later", **{"expires_at": NOW + days(200), out: NOW})
    assert only(factories.make_connection(app_registration=app)).at == NOW + days(12)


def test_a_certificate_that_is_not_uploaded_is_ignored_and_suggested_as_the_fix() -> None:
    app = factories.make_app_registration(secret=None)
    factories.make_secret(app, expires_at=NOW + days(12))
    make_certificate(app, verified_at=None, expires_at=NOW + days(365))
    expiry = only(factories.make_connection(app_registration=app))
    assert expiry.at == NOW + days(12)
    assert "upload" in expiry.action


def test_a_certificates_own_date_is_certain() -> None:
    app = factories.make_app_registration(secret=None)
    make_certificate(app, expires_at=NOW + days(30))
    expiry = only(factories.make_connection(app_registration=app))
    assert expiry.certain
    assert "only certificate" in expiry.cause


def test_an_unknown_date_gives_no_forecast_but_a_remark() -> None:
    app = factories.make_app_registration(secret=None)
    factories.make_secret(app, expires_at=NOW + days(12))
    factories.make_secret(app, expires_at=None)
    summary = forecast.summarize(factories.make_connection(app_registration=app), now=NOW)
    assert summary.next is None
    assert any("No expiration date is recorded" in remark for remark in summary.remarks)


def test_a_past_date_is_ignored_once_microsoft_has_accepted_the_credential_since() -> None:
    app = factories.make_app_registration(secret=None)
    factories.make_secret(app, expires_at=NOW - days(1))
    stale = factories.make_connection(app_registration=app, refreshed_at=NOW - days(1.5), connected_at=NOW - days(2))
    assert any(event.at <= NOW for event in forecast.summarize(stale, now=NOW).forecasts)
    fresh = factories.make_connection(name="Fresh", app_registration=app, refreshed_at=NOW)
    assert forecast.summarize(fresh, now=NOW).next is None


def test_without_a_usable_credential_it_can_stop_at_any_moment() -> None:
    app = factories.make_app_registration(secret=None)
    factories.make_secret(app, unlisted_at=NOW)
    expiry = only(factories.make_connection(app_registration=app))
    assert expiry.at <= NOW
    assert "no credential that Microsoft accepts" in expiry.cause


def test_the_sign_in_frequency_is_learnt_from_microsofts_error(sandbox: Control) -> None:
    sandbox.set_person(factories.ADA, sign_in_frequency_s=14 * 86_400)
    grant = sandbox.issue_grant(factories.CLIENT_ID, factories.ADA, ["Mail.Read", "offline_access"], age_s=15 * 86_400)
    connection = factories.make_connection(refresh_token=grant["refresh_tokens"][0], refresh_after=NOW)
    scheduler.sweep(now=NOW)
    connection.refresh_from_db()
    assert (connection.status, connection.status_code) == (Status.RECONNECT_NEEDED, "AADSTS70043")
    assert connection.sign_in_max_age == 14 * 86_400
    assert forecast.summarize(connection, now=NOW).next is None
    connection.status = Status.ACTIVE
    sign_in = forecast.summarize(connection, now=NOW).forecasts[0]
    assert connection.connected_at is not None
    assert (sign_in.reason, sign_in.at, sign_in.who) == (Reason.SIGN_IN, connection.connected_at + days(14), Who.OWNER)
    assert "every 14 days" in sign_in.cause


def test_a_sign_in_frequency_is_ignored_once_a_later_refresh_has_worked() -> None:
    connection = factories.make_connection(connected_at=NOW - days(3), refreshed_at=NOW, sign_in_max_age=86_400)
    reasons = [expiry.reason for expiry in forecast.summarize(connection, now=NOW).forecasts]
    assert reasons == [Reason.CREDENTIAL]


def test_forecasts_are_sorted_by_date() -> None:
    connection = factories.make_connection(connected_at=NOW, sign_in_max_age=3600)
    forecasts = forecast.summarize(connection, now=NOW).forecasts
    assert [expiry.reason for expiry in forecasts] == [Reason.SIGN_IN, Reason.CREDENTIAL]
    assert "every hour" in forecasts[0].cause


@pytest.mark.parametrize(
    ("status", "who"),
    [(Status.DISABLED, Who.OWNER), (Status.BLOCKED, Who.IT_ADMIN), (Status.CONSENT_NEEDED, Who.IT_ADMIN)],
)
def test_the_grant_of_a_connection_without_refreshes_expires_after_90_days(status: str, who: Who) -> None:
    expiry = only(factories.make_connection(status=status, refreshed_at=NOW - days(60)))
    assert (expiry.reason, expiry.at, expiry.who) == (Reason.IDLE, NOW + days(30), who)


def test_the_grant_of_a_rejected_app_registration_expires_after_90_days() -> None:
    app = factories.make_app_registration(rejected_at=NOW - days(2))
    expiry = only(factories.make_connection(app_registration=app, refreshed_at=NOW - days(2)))
    assert (expiry.reason, expiry.at, expiry.who) == (Reason.IDLE, NOW + days(88), Who.IT_ADMIN)


def test_an_active_connection_without_refreshes_has_an_idle_limit() -> None:
    expiry = forecast.summarize(factories.make_connection(refreshed_at=NOW - days(80)), now=NOW).next
    assert expiry is not None
    assert expiry.reason == Reason.IDLE


def test_a_healthy_connection_has_no_idle_limit_but_a_remark() -> None:
    summary = forecast.summarize(factories.make_connection(), now=NOW)
    assert [forecast.reason for forecast in summary.forecasts] == [Reason.CREDENTIAL]
    assert any("every hour" in remark for remark in summary.remarks)


def test_an_app_only_connection_has_no_sign_in_or_idle_limit() -> None:
    connection = factories.make_app_only_connection(
        status=Status.DISABLED, refreshed_at=NOW - days(300), sign_in_max_age=9
    )
    assert forecast.summarize(connection, now=NOW).forecasts == ()


@pytest.mark.parametrize("status", [Status.PENDING, Status.RECONNECT_NEEDED])
def test_a_connection_that_needs_a_sign_in_has_no_forecast(status: str) -> None:
    assert forecast.summarize(factories.make_connection(status=status), now=NOW) == forecast.ForecastSummary()


def test_a_list_takes_one_query_and_reads_no_secret(app: AppRegistration) -> None:
    connections = [factories.make_connection(name=f"C{number}", app_registration=app) for number in range(5)]
    with CaptureQueriesContext(database) as queries:
        forecasts = forecast.next_expirations(connections, now=NOW)
    assert set(forecasts) == {connection.pk for connection in connections}
    assert len(queries) == 1
    assert '"secret"' not in queries[0]["sql"]
