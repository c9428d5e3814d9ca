"""The commands that grant an application single sites, lists, items or files."""

from connections.microsoft import selected_access
from connections.microsoft.permissions import CATALOGUE

APP = {"client_id": "3017e7a4-33c7-4d2f-8a5e-7f4d9e8a3c03", "app_name": "Robots' app"}


def test_only_permissions_for_selected_resources_need_commands() -> None:
    assert selected_access.commands(["Mail.Read", "Sites.Read.All"], environment="global", **APP) == []
    assert selected_access.TARGETS.keys() == {name for name in CATALOGUE if name.endswith("Selected")}


def test_a_site_is_granted_to_a_list_of_applications() -> None:
    ((title, commands),) = selected_access.commands(["Sites.Selected"], environment="global", **APP)
    assert title == "A site"
    assert "Connect-MgGraph -Scopes" in commands
    assert f"grantedToIdentities = @(@{{ application = @{{ id = '{APP['client_id']}'" in commands
    assert "displayName = 'Robots'' app'" in commands  # quotes in names cannot end the string
    assert '-Uri "/v1.0/sites/$site/permissions"' in commands


def test_items_ask_for_their_ids_in_the_right_cloud() -> None:
    ((_, commands),) = selected_access.commands(
        ["ListItems.SelectedOperations.Selected"], environment="usgov_l5", **APP
    )
    assert "Connect-MgGraph -Environment USGovDoD" in commands
    assert "$list = Read-Host 'List ID'" in commands
    assert "$item = Read-Host 'Item ID'" in commands
    assert "grantedTo = @{ application" in commands
