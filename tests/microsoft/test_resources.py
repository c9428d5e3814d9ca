"""What tokens can be for: addresses by cloud, hosts of organisations, and typed resources."""

import pytest

from connections.errors import InvalidInput
from connections.microsoft import clouds, resources, token_endpoint
from connections.microsoft.capabilities import CAPABILITIES
from connections.microsoft.clouds import CLOUDS
from connections.services.policy import rules

GLOBAL = CLOUDS["global"]


def test_every_resource_is_complete() -> None:
    for resource in resources.RESOURCES.values():
        if resource.key == resources.GRAPH:
            continue
        places = resource.hosts or resource.delegated
        assert places.keys() == CLOUDS.keys() - {"sandbox"}, resource.key
        assert clouds.is_guid(resource.app_id)
    assert {capability.resource for capability in CAPABILITIES.values()} == resources.RESOURCES.keys()


def test_exchange_has_different_addresses_for_people_and_applications() -> None:
    audience = resources.audience(GLOBAL, "exchange", {})
    assert (audience.delegated, audience.application) == ("https://outlook.office.com", "https://outlook.office365.com")
    scope = token_endpoint.qualified(GLOBAL, ("exchange/SMTP.Send", "offline_access"), audience)
    assert scope == "https://outlook.office.com/SMTP.Send offline_access"


def test_a_sovereign_cloud_has_its_own_addresses() -> None:
    assert resources.audience(CLOUDS["china"], "azure", {}).delegated == "https://management.chinacloudapi.cn"


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("", {}),
        ("Contoso.SharePoint.com", {"sharepoint": "contoso.sharepoint.com"}),
        (
            "https://contoso.sharepoint.com/ contoso.crm4.dynamics.com",
            {"sharepoint": "contoso.sharepoint.com", "dataverse": "contoso.crm4.dynamics.com"},
        ),
        ("contoso.sharepoint.cn", {"sharepoint": "contoso.sharepoint.cn"}),
    ],
)
def test_hosts_say_which_resource_they_belong_to(text: str, hosts: dict[str, str]) -> None:
    assert resources.parse_hosts(text) == hosts


@pytest.mark.parametrize(
    "text",
    [
        "contoso.sharepoint.com.evil.example",
        "evil.example/contoso.sharepoint.com",
        "contoso.sharepoint.com/sites/hr",
        "contoso.sharepoint.com:8443",
        "user@contoso.sharepoint.com",
        "a.b.sharepoint.com",
        "-a.sharepoint.com",
        "http://contoso.sharepoint.com",
        "cöntoso.sharepoint.com",
        "contoso.crm123.dynamics.com",
        "contoso.sharepoint.com fabrikam.sharepoint.com",
    ],
)
def test_a_host_that_is_none_of_microsofts_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        resources.parse_hosts(text)


def test_a_host_of_another_cloud_is_refused() -> None:
    with pytest.raises(InvalidInput, match="in this environment"):
        resources.audience(GLOBAL, "sharepoint", {"sharepoint": "contoso.sharepoint.cn"})
    with pytest.raises(InvalidInput, match="no address"):
        resources.audience(GLOBAL, "sharepoint", {})


def test_graph_is_the_main_resource_if_it_is_needed() -> None:
    assert resources.main(("openid", "exchange/SMTP.Send", "Mail.Read")) == "graph"
    assert resources.main(("azure/user_impersonation", "exchange/SMTP.Send", "openid")) == "exchange"
    assert resources.main(("openid",)) == "graph"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("Exchange", "exchange"),
        ("https://outlook.office.com/", "exchange"),
        ("https://graph.microsoft.com", "graph"),
        ("https://analysis.windows.net/powerbi/api", "powerbi"),
        ("https://api.example.com/v1", "https://api.example.com/v1"),
    ],
)
def test_a_resource_is_named_by_key_or_address(text: str, key: str) -> None:
    assert resources.key_of(text) == key


def test_app_only_tokens_that_list_no_roles_have_the_default_permission() -> None:
    azure, exchange = (resources.audience(GLOBAL, key, {}) for key in ("azure", "exchange"))
    assert token_endpoint.token_set({"access_token": "x"}, audience=azure).granted == ("azure/.default",)
    assert token_endpoint.token_set({"access_token": "x"}, audience=exchange).granted == ()


def test_admin_consent_asks_for_several_resources_at_once() -> None:
    scopes = resources.absolute(GLOBAL, ("openid", "Mail.Read", "exchange/SMTP.Send", "sharepoint/AllSites.Read"), {})
    assert scopes == ["openid", "https://graph.microsoft.com/Mail.Read", "https://outlook.office.com/SMTP.Send"]


@pytest.mark.parametrize(
    ("pattern", "name", "does"),
    [
        ("exchange/*", "exchange/IMAP.AccessAsApp", True),
        ("exchange/*", "Mail.Read", False),
        ("Sites.*", "sharepoint/Sites.ReadWrite.All", True),
        ("https://*", "https://api.example.com/Things.Read", True),
        ("sharepoint/Sites.Read.All", "Sites.Read.All", False),
    ],
)
def test_rules_reach_permissions_of_other_resources(pattern: str, name: str, does: bool) -> None:
    assert rules.parse_patterns(pattern) == (pattern,)
    assert rules.matches(pattern, name) is does
