"""Granted permissions are compared with those that are needed."""

import pytest

from connections.services.policy import permission_drift
from connections.services.policy.permission_drift import Drift, Excess
from tests import factories


@pytest.mark.parametrize(
    ("granted", "excess"),
    [
        ("Mail.Read User.Read openid profile email", ()),
        ("mail.read", ()),
        # contained in a permission that is needed
        ("Mail.Read Mail.ReadBasic", ()),
        ("Mail.Read Files.Read.All", (Excess("Files.Read.All"),)),
        # a smaller permission would be enough
        ("Mail.ReadWrite", (Excess("Mail.ReadWrite", ("Mail.Read",)),)),
        # the smaller permission is already granted
        ("Mail.Read Mail.ReadWrite", (Excess("Mail.ReadWrite"),)),
    ],
)
def test_larger_and_unneeded_permissions_are_excess(granted: str, excess: tuple[Excess, ...]) -> None:
    drift = permission_drift.find_drift(factories.make_connection(granted_scopes=granted))
    assert drift == Drift((), excess)
    assert bool(drift) is bool(excess)


def test_permissions_the_portal_itself_uses_are_no_excess_of_an_app_only_connection() -> None:
    granted = "Application.Read.All Mail.Read Mail.Send User.Read.All"
    connection = factories.make_app_only_connection(granted_scopes=granted)
    assert permission_drift.find_drift(connection) == Drift((), (Excess("Mail.Send"),))


def test_a_role_that_was_removed_is_missing() -> None:
    connection = factories.make_app_only_connection(granted_scopes="User.Read.All")
    assert permission_drift.find_drift(connection) == Drift(("Mail.Read",))


def test_nothing_is_compared_before_the_first_sign_in_or_without_capabilities() -> None:
    never = factories.make_connection(granted_scopes="Mail.ReadWrite")
    never.connected_at = None
    without = factories.make_connection(name="Without", capabilities=[], granted_scopes="Mail.ReadWrite")
    assert permission_drift.find_drift(never) == permission_drift.find_drift(without) == Drift()


def test_missing_scopes_that_only_an_administrator_can_grant_are_listed() -> None:
    connection = factories.make_connection(extra_scopes="Directory.Read.All Calendars.Read", granted_scopes="Mail.Read")
    drift = permission_drift.find_drift(connection)
    assert drift.missing == ("Calendars.Read", "Directory.Read.All")
    assert drift.needs_admin == ("Directory.Read.All",)
