import pytest

from connections.microsoft.permission_risks import describe_risks


@pytest.mark.parametrize(
    "name",
    ["Mail.ReadWrite", "exchange/full_access_as_app", "exchange/FULL_ACCESS_AS_APP", "exchange/IMAP.AccessAsApp"],
)
def test_permissions_that_change_data_are_told(name: str) -> None:
    assert "It can change and delete data." in describe_risks([name], app_only=True, app="Robot")


@pytest.mark.parametrize("name", ["azure/.default", "dataverse/.default"])
def test_an_app_only_token_that_lists_no_roles_is_no_small_risk(name: str) -> None:
    assert any("may include changing data" in risk for risk in describe_risks([name], app_only=True, app="Robot"))


def test_reading_changes_nothing() -> None:
    assert not any("chang" in risk for risk in describe_risks(["Mail.Read"], app_only=True, app="Robot"))
