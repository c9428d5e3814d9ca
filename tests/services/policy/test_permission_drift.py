"""What is granted beside what is needed."""

import pytest

from connections.services.policy import permission_drift
from connections.services.policy.permission_drift import Drift, Excess
from tests import factories

pytestmark = pytest.mark.django_db


def test_exactly_what_is_needed_is_no_drift() -> None:
    assert not permission_drift.find_drift(
        factories.make_connection(granted_scopes="Mail.Read User.Read openid profile email")
    )


def test_what_is_missing_is_named() -> None:
    connection = factories.make_connection(capabilities=["mail.read", "calendar.events"], granted_scopes="Mail.Read")
    assert permission_drift.find_drift(connection).missing == ("Calendars.Read",)


def test_an_unneeded_permission_is_excess_with_nothing_in_its_stead() -> None:
    connection = factories.make_connection(granted_scopes="Mail.Read Files.Read.All")
    assert permission_drift.find_drift(connection).excess == (Excess("Files.Read.All"),)


def test_a_larger_permission_says_which_smaller_one_would_do() -> None:
    connection = factories.make_connection(granted_scopes="Mail.ReadWrite")
    assert permission_drift.find_drift(connection) == Drift((), (Excess("Mail.ReadWrite", ("Mail.Read",)),))


def test_a_larger_permission_beside_the_exact_one_replaces_nothing() -> None:
    connection = factories.make_connection(granted_scopes="Mail.Read Mail.ReadWrite")
    assert permission_drift.find_drift(connection).excess == (Excess("Mail.ReadWrite"),)


def test_a_permission_contained_in_a_needed_one_is_no_excess() -> None:
    assert not permission_drift.find_drift(factories.make_connection(granted_scopes="Mail.Read Mail.ReadBasic"))


def test_case_does_not_make_a_difference() -> None:
    assert not permission_drift.find_drift(factories.make_connection(granted_scopes="mail.read"))


def test_what_the_portal_itself_uses_is_no_excess_of_an_app_only_connection() -> None:
    granted = "Application.Read.All Mail.Read Mail.Send User.Read.All"
    connection = factories.make_app_only_connection(granted_scopes=granted)
    assert permission_drift.find_drift(connection) == Drift((), (Excess("Mail.Send"),))


def test_a_role_taken_away_is_missing() -> None:
    assert permission_drift.find_drift(factories.make_app_only_connection(granted_scopes="User.Read.All")).missing == (
        "Mail.Read",
    )


def test_nothing_is_compared_before_the_first_sign_in_or_without_any_wish() -> None:
    never = factories.make_connection(granted_scopes="Mail.ReadWrite")
    never.connected_at = None
    wishless = factories.make_connection(name="Wishless", capabilities=[], granted_scopes="Mail.ReadWrite")
    assert permission_drift.find_drift(never) == permission_drift.find_drift(wishless) == Drift()


def test_scopes_only_an_administrator_can_grant_are_told_apart() -> None:
    connection = factories.make_connection(extra_scopes="Directory.Read.All Calendars.Read", granted_scopes="Mail.Read")
    found = permission_drift.find_drift(connection)
    assert found.missing == ("Calendars.Read", "Directory.Read.All")
    assert found.needs_admin == ("Directory.Read.All",)
