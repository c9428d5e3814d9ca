"""When and why a connection would next break by itself."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection as database
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from connections.models import AppCredential, Connection
from connections.services.expiry import forecast
from connections.services.expiry.forecast import Forecast, Reason
from connections.services.tokens import scheduler
from portal.sandbox.client import Control
from tests import factories

pytestmark = pytest.mark.django_db

NOW = timezone.now()
Status = Connection.Status
Who = Connection.Who


def days(count: float) -> timedelta:
    return timedelta(days=count)


def only(connection: Connection) -> Forecast:
    [found] = forecast.summarize(connection, now=NOW).forecasts
    return found


def make_certificate(app: Any, **overrides: Any) -> AppCredential:
    values = {"kind": "certificate", "thumbprint": "AB" * 32, "certificate": "PEM", "verified_at": NOW}
    return AppCredential.objects.create(app_registration=app, **(values | overrides))


# --- Credentials ----------------------------------------------------------------------------------


def test_the_only_secret_ends_the_connection() -> None:
    app = factories.make_app_registration(secret=None)
    factories.make_secret(app, expires_at=NOW + days(12))
    found = only(factories.make_connection(app_registration=app))
    assert (found.reason, found.at, found.who, found.certain) == (
        Reason.CREDENTIAL,
        NOW + days(12),
        Who.IT_ADMIN,
        False,
    )
    assert "only client secret" in found.cause
    assert "by the date that was entered" in found.cause


def test_the_last_of_several_credentials_counts() -> None:
    app = factories.make_app_registration(secret=None)
    factories.make_secret(app, expires_at=NOW + days(12))
    factories.make_secret(app, expires_at=NOW + days(200), expiry_read_at=NOW)
    found = only(factories.make_connection(app_registration=app))
    assert (found.at, found.certain) == (NOW + days(200), True)
    assert "last credential" in found.cause


@pytest.mark.parametrize("out", ["rejected_at", "retired_at", "unlisted_at"])
def test_a_credential_that_does_not_work_does_not_count(out: str) -> None:
    app = factories.make_app_registration(secret=None)
    factories.make_secret(app, expires_at=NOW + days(12))
    gone = factories.make_secret(app, expires_at=NOW + days(200))
    AppCredential.objects.filter(pk=gone.pk).update(**{out: NOW})
    assert only(factories.make_connection(app_registration=app)).at == NOW + days(12)


def test_a_certificate_not_uploaded_yet_does_not_count_but_is_the_remedy() -> None:
    app = factories.make_app_registration(secret=None)
    factories.make_secret(app, expires_at=NOW + days(12))
    make_certificate(app, verified_at=None, expires_at=NOW + days(365))
    found = only(factories.make_connection(app_registration=app))
    assert found.at == NOW + days(12)
    assert "upload" in found.action


def test_a_certificates_own_date_is_certain() -> None:
    app = factories.make_app_registration(secret=None)
    make_certificate(app, expires_at=NOW + days(30))
    found = only(factories.make_connection(app_registration=app))
    assert found.certain
    assert "only certificate" in found.cause


def test_an_unknown_date_foretells_nothing_and_says_so() -> None:
    app = factories.make_app_registration(secret=None)
    factories.make_secret(app, expires_at=NOW + days(12))
    factories.make_secret(app, expires_at=None)
    found = forecast.summarize(factories.make_connection(app_registration=app), now=NOW)
    assert found.next is None
    assert any("Nobody has entered" in remark for remark in found.remarks)


def test_a_date_that_is_over_means_any_moment_until_microsoft_has_accepted_it_since() -> None:
    app = factories.make_app_registration(secret=None)
    factories.make_secret(app, expires_at=NOW - days(1))
    stale = factories.make_connection(app_registration=app, refreshed_at=NOW - days(1.5), connected_at=NOW - days(2))
    assert any(event.at <= NOW for event in forecast.summarize(stale, now=NOW).forecasts)
    fresh = factories.make_connection(name="Fresh", app_registration=app, refreshed_at=NOW)
    assert forecast.summarize(fresh, now=NOW).next is None


def test_without_any_credential_that_works_it_can_stop_at_any_moment() -> None:
    app = factories.make_app_registration(secret=None)
    factories.make_secret(app, unlisted_at=NOW)
    found = only(factories.make_connection(app_registration=app))
    assert found.at <= NOW
    assert "no credential left" in found.cause


# --- The sign-in ----------------------------------------------------------------------------------


def test_the_sign_in_frequency_is_learnt_from_microsofts_own_words(sandbox: Control) -> None:
    sandbox.set_person(factories.ADA, sign_in_frequency_s=14 * 86_400)
    grant = sandbox.issue_grant(factories.CLIENT_ID, factories.ADA, ["Mail.Read", "offline_access"], age_s=15 * 86_400)
    connection = factories.make_connection(refresh_token=grant["refresh_tokens"][0], refresh_after=NOW)
    scheduler.sweep(now=NOW)
    connection.refresh_from_db()
    assert (connection.status, connection.status_code) == (Status.RECONNECT_NEEDED, "AADSTS70043")
    assert connection.sign_in_max_age == 14 * 86_400
    assert forecast.next_expiration(connection, now=NOW) is None  # it has ended already
    connection.status = Status.ACTIVE
    found = forecast.summarize(connection, now=NOW).forecasts[0]
    assert connection.connected_at is not None
    assert (found.reason, found.at, found.who) == (Reason.SIGN_IN, connection.connected_at + days(14), Who.OWNER)
    assert "every 14 days" in found.cause


def test_a_frequency_that_has_passed_without_harm_is_forgotten() -> None:
    connection = factories.make_connection(connected_at=NOW - days(3), refreshed_at=NOW, sign_in_max_age=86_400)
    reasons = [found.reason for found in forecast.summarize(connection, now=NOW).forecasts]
    assert reasons == [Reason.CREDENTIAL]


def test_reasons_come_earliest_first() -> None:
    connection = factories.make_connection(connected_at=NOW, sign_in_max_age=3600)
    found = forecast.summarize(connection, now=NOW).forecasts
    assert [one.reason for one in found] == [Reason.SIGN_IN, Reason.CREDENTIAL]
    assert "every hour" in found[0].cause


# --- Disuse ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "who"),
    [(Status.DISABLED, Who.OWNER), (Status.BLOCKED, Who.IT_ADMIN), (Status.CONSENT_NEEDED, Who.IT_ADMIN)],
)
def test_a_parked_grant_is_forgotten_after_90_days(status: str, who: Who) -> None:
    found = only(factories.make_connection(status=status, refreshed_at=NOW - days(60)))
    assert (found.reason, found.at, found.who) == (Reason.IDLE, NOW + days(30), who)


def test_connections_of_a_rejected_app_registration_are_parked_too() -> None:
    app = factories.make_app_registration(rejected_at=NOW - days(2))
    found = only(factories.make_connection(app_registration=app, refreshed_at=NOW - days(2)))
    assert (found.reason, found.at, found.who) == (Reason.IDLE, NOW + days(88), Who.IT_ADMIN)


def test_a_portal_that_does_not_refresh_is_told() -> None:
    found = forecast.summarize(factories.make_connection(refreshed_at=NOW - days(80)), now=NOW).next
    assert found is not None
    assert found.reason == Reason.IDLE


def test_a_healthy_connection_says_why_disuse_cannot_end_it() -> None:
    found = forecast.summarize(factories.make_connection(), now=NOW)
    assert [forecast.reason for forecast in found.forecasts] == [Reason.CREDENTIAL]
    assert any("every hour" in remark for remark in found.remarks)


def test_an_app_only_connection_has_neither_sign_in_nor_disuse() -> None:
    connection = factories.make_app_only_connection(
        status=Status.DISABLED, refreshed_at=NOW - days(300), sign_in_max_age=9
    )
    assert forecast.summarize(connection, now=NOW).forecasts == ()


@pytest.mark.parametrize("status", [Status.PENDING, Status.RECONNECT_NEEDED])
def test_nothing_is_foretold_of_what_has_ended(status: str) -> None:
    assert forecast.summarize(factories.make_connection(status=status), now=NOW) == forecast.ForecastSummary()


# --- Lists ----------------------------------------------------------------------------------------


def test_a_list_takes_one_query_and_opens_no_secret() -> None:
    app = factories.make_app_registration()
    made = [factories.make_connection(name=f"C{number}", app_registration=app) for number in range(5)]
    with CaptureQueriesContext(
        database,
    ) as queries:
        found = forecast.next_expirations(made, now=NOW)
    assert set(found) == {connection.pk for connection in made}
    assert len(queries) == 1
    assert '"secret"' not in queries[0]["sql"]
