"""The policy, rule by rule: tables of requests, each with the decision and the words that name the rule."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connections.errors import InvalidInput, PolicyForbids
from connections.microsoft import capabilities
from connections.microsoft.clouds import CONSUMERS_TID
from connections.services.policy import evaluate
from connections.services.policy import rules as policy_rules
from connections.services.policy.evaluate import ConnectionRequest, Source
from connections.services.policy.rules import Effect, Rules

NOW = datetime(2026, 11, 25, 14, 30, tzinfo=UTC)
ALLOWED, APPROVAL, FORBIDDEN = Effect.ALLOWED, Effect.APPROVAL, Effect.FORBIDDEN
DELEGATED, APP_ONLY = "authorization_code", "client_credentials"
HOME = "11111111-1111-4111-8111-111111111111"


def rules(**given: Any) -> Rules:
    return policy_rules.from_dict(given)


def request(kind: str = DELEGATED, chosen: tuple[str, ...] = ("mail.read",), extra: str = "") -> ConnectionRequest:
    needed = capabilities.application_roles if kind == APP_ONLY else capabilities.delegated_scopes
    names = tuple(name for name in needed(chosen, extra) if "." in name)
    return ConnectionRequest(kind, "global", "global/contoso.com", "Contoso", chosen, names)


def decide(given: dict[str, Any], wanted: ConnectionRequest, granted: tuple[str, ...] = ()) -> evaluate.Decision:
    return evaluate.evaluate_connection([Source(rules(**given))], wanted, granted)


SEND, SHARED, FILES = ("mail.send",), ("shared_mailbox.read",), ("files.read",)


@pytest.mark.parametrize(
    ("given", "wanted", "effect", "says"),
    [
        ({}, request(), ALLOWED, ""),
        ({}, request(APP_ONLY), ALLOWED, ""),
        # Kinds of connections
        ({"authentication_types": [DELEGATED]}, request(), ALLOWED, ""),
        ({"authentication_types": [DELEGATED]}, request(APP_ONLY), FORBIDDEN, "App-only connections aren't allowed"),
        ({"authentication_types": [APP_ONLY]}, request(), FORBIDDEN, "Delegated connections aren't allowed"),
        ({"authentication_types": []}, request(), FORBIDDEN, "Delegated connections aren't allowed"),
        # Environments and tenants
        ({"environments": ["global"]}, request(), ALLOWED, ""),
        ({"environments": ["china"]}, request(), FORBIDDEN, "in the environment Microsoft 365 (worldwide"),
        ({"tenants": ["global/contoso.com"]}, request(), ALLOWED, ""),
        ({"tenants": ["china/contoso.com"]}, request(), FORBIDDEN, "in the tenant Contoso"),
        ({"tenants": []}, request(), FORBIDDEN, "in the tenant Contoso"),
        # Capabilities
        ({"capabilities": {"mail.send": "forbidden"}}, request(), ALLOWED, ""),
        ({"capabilities": {"mail.send": "forbidden"}}, request(chosen=SEND), FORBIDDEN, "“Send mail” isn't allowed"),
        (
            {"capabilities": {"mail.send": "approval"}},
            request(chosen=SEND),
            APPROVAL,
            "“Send mail” needs an IT admin's approval",
        ),
        ({"capabilities": {"mail.send": "allowed"}}, request(chosen=SEND), ALLOWED, ""),
        # A rule for a capability does not apply to its permission if that is entered manually.
        ({"capabilities": {"mail.send": "forbidden"}}, request(extra="Mail.Send"), ALLOWED, ""),
        # Permissions: from a capability or entered manually, in upper or lower case, delegated or app-only
        ({"permissions": {"Mail.Send": "forbidden"}}, request(chosen=SEND), FORBIDDEN, "Mail.Send isn't allowed"),
        (
            {"permissions": {"Mail.Send": "approval"}},
            request(chosen=SEND),
            APPROVAL,
            "Mail.Send needs an IT admin's approval",
        ),
        ({"permissions": {"Mail.Send": "forbidden"}}, request(chosen=(), extra="Mail.Send"), FORBIDDEN, "Mail.Send"),
        ({"permissions": {"mail.SEND": "forbidden"}}, request(chosen=SEND), FORBIDDEN, "Mail.Send"),
        ({"permissions": {"Mail.Send": "forbidden"}}, request(APP_ONLY, SEND), FORBIDDEN, "Mail.Send"),
        # Only the exact name: neither a smaller or larger permission, nor the .Shared or .All form
        ({"permissions": {"Mail.ReadWrite": "forbidden"}}, request(), ALLOWED, ""),
        ({"permissions": {"Mail.Read": "forbidden"}}, request(chosen=("mail.write",)), ALLOWED, ""),
        ({"permissions": {"Mail.Read": "forbidden"}}, request(chosen=SHARED), ALLOWED, ""),
        ({"permissions": {"Mail.Read.Shared": "forbidden"}}, request(), ALLOWED, ""),
        ({"permissions": {"Files.Read": "forbidden"}}, request(APP_ONLY, FILES), ALLOWED, ""),
        ({"permissions": {"Files.Read.All": "forbidden"}}, request(APP_ONLY, FILES), FORBIDDEN, "Files.Read.All"),
        (
            {"permissions": {"Mail.ReadWrite.All": "forbidden"}},
            request(extra="Mail.ReadWrite.All"),
            FORBIDDEN,
            "All is",
        ),
        # Patterns
        ({"permissions": {"Mail.*": "forbidden"}}, request(), FORBIDDEN, "through the rule Mail.*"),
        ({"permissions": {"Mail.*": "forbidden"}}, request(chosen=SHARED), FORBIDDEN, "Mail.Read.Shared"),
        ({"permissions": {"mail.*": "forbidden"}}, request(), FORBIDDEN, "Mail.Read isn't allowed"),
        ({"permissions": {"Mail.*": "forbidden"}}, request(chosen=("mailbox.settings",)), ALLOWED, ""),
        ({"permissions": {"Mail.Read.*": "forbidden"}}, request(), ALLOWED, ""),
        ({"permissions": {"Mail.Read.*": "forbidden"}}, request(chosen=SHARED), FORBIDDEN, "Mail.Read.S"),
        ({"permissions": {"*": "forbidden"}}, request(), FORBIDDEN, "through the rule *"),
        # The most specific rule applies, whatever it says
        ({"permissions": {"*": "forbidden", "Mail.*": "approval"}}, request(), APPROVAL, "through the rule Mail.*"),
        ({"permissions": {"*": "forbidden", "Mail.Read": "allowed"}}, request(), ALLOWED, ""),
        ({"permissions": {"Mail.*": "allowed", "Mail.Read": "forbidden"}}, request(), FORBIDDEN, "Mail.Read is"),
        ({"permissions": {"Mail.*": "forbidden", "Mail.Read.*": "allowed"}}, request(), FORBIDDEN, "Mail.Read is"),
        # A permission that app-only access to a known mailbox does not need
        ({"permissions": {"User.Read.All": "forbidden"}}, request(APP_ONLY), ALLOWED, ""),
        ({"permissions": {"User.Read.All": "forbidden"}}, request(), ALLOWED, ""),
        # Approval by a second IT admin
        ({"app_only_second_admin": True}, request(APP_ONLY), APPROVAL, "a second IT admin's approval"),
        ({"app_only_second_admin": True}, request(), ALLOWED, ""),
        # Forbidden outweighs approval, but both are reported
        (
            {"permissions": {"Mail.Read": "forbidden"}, "capabilities": {"mail.read": "approval"}},
            request(),
            FORBIDDEN,
            "Mail.Read isn't allowed by the organisation's policy. “Read mail” needs",
        ),
    ],
)
def test_rules_about_connecting(given: dict[str, Any], wanted: ConnectionRequest, effect: Effect, says: str) -> None:
    decision = decide(given, wanted)
    assert decision.effect == effect
    assert says in " ".join(decision.sentences)
    assert bool(decision.reasons) is (effect is not ALLOWED)


@pytest.mark.parametrize(
    ("given", "granted", "effect", "says"),
    [
        ({"permissions": {"Mail.Send": "forbidden"}}, ("Mail.Read",), ALLOWED, ""),
        (
            {"permissions": {"Mail.Send": "forbidden"}},
            ("Mail.Read", "mail.send"),
            FORBIDDEN,
            "which Microsoft also granted",
        ),
        ({"permissions": {"Mail.Send": "approval"}}, ("Mail.Send",), APPROVAL, "which Microsoft also granted"),
        ({"permissions": {"Files.*": "forbidden"}}, ("Files.ReadWrite.All",), FORBIDDEN, "through the rule Files.*"),
        ({"permissions": {"*": "forbidden", "Mail.Read": "allowed"}}, ("openid", "profile", "email"), ALLOWED, ""),
        ({"permissions": {"*": "forbidden", "Mail.Read": "allowed"}}, ("User.Read",), FORBIDDEN, "User.Read"),
    ],
)
def test_extra_grants_are_evaluated(given: dict[str, Any], granted: tuple[str, ...], effect: Effect, says: str) -> None:
    decision = decide(given, request(), granted)
    assert decision.effect == effect
    assert says in " ".join(decision.sentences)


@pytest.mark.parametrize("organisation", list(Effect))
@pytest.mark.parametrize("app", list(Effect))
def test_the_stricter_of_organisation_and_app_registration_applies(organisation: Effect, app: Effect) -> None:
    sources = [
        Source(rules(permissions={"Mail.Read": organisation.value})),
        Source(rules(permissions={"Mail.Read": app.value}), "the policy for Robots"),
    ]
    decision = evaluate.evaluate_connection(sources, request())
    assert decision.effect == policy_rules.strictest([organisation, app])
    text = " ".join(decision.sentences)
    assert ("the organisation's policy" in text) is (organisation is not ALLOWED)
    assert ("the policy for Robots" in text) is (app is not ALLOWED)


FULL = {
    "authentication_types": [DELEGATED],
    "environments": ["global", "sandbox"],
    "tenants": ["global/contoso.com"],
    "capabilities": {"mail.send": "approval", "files.write": "forbidden"},
    "permissions": {"Mail.*": "approval", "Mail.Read": "allowed", "*": "forbidden"},
    "personal_accounts": False,
    "other_tenants": False,
    "share_with_people": False,
    "share_app_only": False,
    "longest_share_days": 90,
    "app_only_second_admin": True,
    "member_apps": True,
    "credential_renewal": True,
    "register_tenants": True,
}

PATTERNS = ("*", "Mail.*", "Mail.Read", "Mail.Read.*", "Mail.Read.Shared", "Files.*", "Files.Read")
SOME_RULES = st.builds(
    rules,
    permissions=st.dictionaries(st.sampled_from(PATTERNS), st.sampled_from([effect.value for effect in Effect])),
    capabilities=st.dictionaries(st.sampled_from(["mail.read", "files.read"]), st.sampled_from(list(Effect))),
    authentication_types=st.sampled_from([None, [], [DELEGATED], [APP_ONLY]]),
    environments=st.sampled_from([None, [], ["global"]]),
    app_only_second_admin=st.booleans(),
)


@given(SOME_RULES, SOME_RULES, st.sampled_from([DELEGATED, APP_ONLY]))
def test_combined_rules_decide_like_both(first: Rules, second: Rules, kind: str) -> None:
    together = Source(policy_rules.stricter(first, second))
    for chosen in (("mail.read",), FILES, SHARED, ("calendar.events",)):
        wanted = request(kind, chosen)
        both = evaluate.evaluate_connection([Source(first), Source(second)], wanted)
        assert evaluate.evaluate_connection([together], wanted).effect == both.effect


def test_limits_and_flags_are_combined_too() -> None:
    loose, tight = rules(longest_share_days=30), rules(**FULL)
    assert policy_rules.stricter(loose, tight) == policy_rules.stricter(tight, loose)
    assert policy_rules.stricter(Rules(), tight) == tight
    assert policy_rules.stricter(loose, tight).longest_share_days == 30


def test_a_forbidden_request_is_refused_with_every_reason() -> None:
    decision = decide({"permissions": {"Mail.*": "forbidden"}, "authentication_types": [APP_ONLY]}, request())
    with pytest.raises(PolicyForbids) as caught:
        evaluate.refuse_forbidden(decision, field="chosen")
    assert "Delegated connections aren't allowed" in caught.value.cause
    assert "Mail.Read isn't allowed" in caught.value.cause
    assert "IT admin" in caught.value.action
    assert (caught.value.code, caught.value.status, caught.value.field) == ("policy_forbids", 403, "chosen")
    evaluate.refuse_forbidden(decide({"capabilities": {"mail.read": "approval"}}, request()))


@pytest.mark.parametrize(
    ("given", "tid", "effect"),
    [
        ({}, CONSUMERS_TID, ALLOWED),
        ({}, "22222222-2222-4222-8222-222222222222", ALLOWED),
        ({"personal_accounts": False}, CONSUMERS_TID, FORBIDDEN),
        ({"personal_accounts": False}, HOME, ALLOWED),
        ({"personal_accounts": False}, "22222222-2222-4222-8222-222222222222", ALLOWED),
        ({"other_tenants": False}, HOME, ALLOWED),
        ({"other_tenants": False}, "22222222-2222-4222-8222-222222222222", FORBIDDEN),
        # Personal accounts have a separate rule.
        ({"other_tenants": False}, CONSUMERS_TID, ALLOWED),
    ],
)
def test_every_rule_about_accounts(given: dict[str, Any], tid: str, effect: Effect) -> None:
    assert evaluate.evaluate_account([Source(rules(**given))], tid, {HOME}).effect == effect


DAY = timedelta(days=1)
MIDNIGHT = datetime(2026, 11, 26, tzinfo=UTC)  # the end of today


@pytest.mark.parametrize(
    ("given", "share", "effect"),
    [
        ({}, {"until": None}, ALLOWED),
        ({"share_with_people": False}, {"with_team": False}, FORBIDDEN),
        ({"share_with_people": False}, {"with_team": True}, ALLOWED),
        ({"share_app_only": False}, {"authentication_type": APP_ONLY}, FORBIDDEN),
        ({"share_app_only": False}, {"authentication_type": APP_ONLY, "with_team": True}, FORBIDDEN),
        ({"share_app_only": False}, {}, ALLOWED),
        ({"longest_share_days": 7}, {"until": None}, FORBIDDEN),
        ({"longest_share_days": 7}, {"until": MIDNIGHT + 7 * DAY}, ALLOWED),
        ({"longest_share_days": 7}, {"until": MIDNIGHT + 7 * DAY + timedelta(seconds=1)}, FORBIDDEN),
        ({"longest_share_days": 7}, {"until": MIDNIGHT}, ALLOWED),
        ({"longest_share_days": 1}, {"until": MIDNIGHT + DAY}, ALLOWED),
        ({"longest_share_days": 1}, {"until": MIDNIGHT + 2 * DAY}, FORBIDDEN),
    ],
)
def test_every_rule_about_sharing(given: dict[str, Any], share: dict[str, Any], effect: Effect) -> None:
    defaults = {"authentication_type": DELEGATED, "with_team": False, "until": MIDNIGHT, "now": NOW}
    values: dict[str, Any] = defaults | share
    assert evaluate.evaluate_share([Source(rules(**given))], **values).effect == effect


def test_the_shorter_limit_applies() -> None:
    sources = [Source(rules(longest_share_days=30)), Source(rules(longest_share_days=7)), Source(rules())]
    assert evaluate.longest_share(sources) == 7
    assert evaluate.longest_share([Source(rules())]) is None


def test_the_plain_form_can_be_read_back() -> None:
    assert policy_rules.to_dict(policy_rules.from_dict(FULL)) == FULL
    assert policy_rules.to_dict(Rules()) == policy_rules.to_dict(policy_rules.from_dict({}))
    assert set(policy_rules.to_dict(Rules())) == set(FULL), "every rule is tried here"
    assert not Rules().restricts
    assert rules(personal_accounts=False).restricts


def test_allowed_capabilities_and_spelling_are_tidied() -> None:
    tidied = rules(capabilities={"mail.send": "allowed"}, permissions={"mail.send": "forbidden"})
    assert (tidied.capabilities, tidied.permissions) == ({}, {"Mail.Send": FORBIDDEN})


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"nonsense": 1}, ""),
        ("text", ""),
        ({"authentication_types": ["password"]}, "authentication_types"),
        ({"authentication_types": "authorization_code"}, "authentication_types"),
        ({"environments": [1]}, "environments"),
        ({"tenants": ["x" * 400]}, "tenants"),
        ({"capabilities": {"moon.walk": "forbidden"}}, "capabilities"),
        ({"capabilities": {"mail.send": "maybe"}}, "capabilities"),
        ({"capabilities": ["mail.send"]}, "capabilities"),
        ({"permissions": {"Mail": "forbidden"}}, ""),
        ({"permissions": {"M*il.Read": "forbidden"}}, ""),
        ({"permissions": {"Mail*": "forbidden"}}, ""),
        ({"permissions": {"openid": "forbidden"}}, ""),
        ({"permissions": {"http://example.org/Mail.Read": "forbidden"}}, ""),
        ({"permissions": {"Mail.Read\x00": "forbidden"}}, ""),
        ({"permissions": {"Mail.Send": "forbidden", "mail.send": "allowed"}}, "permissions"),
        ({"permissions": {f"Mail.X{n}": "forbidden" for n in range(201)}}, "permissions"),
        ({"personal_accounts": "yes"}, "personal_accounts"),
        ({"longest_share_days": 0}, "longest_share_days"),
        ({"longest_share_days": True}, "longest_share_days"),
        ({"longest_share_days": 10**30}, "longest_share_days"),
        ({"app_only_second_admin": None}, "app_only_second_admin"),
    ],
)
def test_an_invalid_rule_is_refused_by_name(given: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        policy_rules.from_dict(given)
    assert caught.value.field == field
    assert str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "unset"),
    [("environments", ["global"], None), ("tenants", ["global/contoso.com"], None), ("member_apps", True, False)],
)
def test_an_app_registration_has_none_of_the_organisations_own_rules(name: str, value: Any, unset: Any) -> None:
    assert name in policy_rules.ORGANISATION_ONLY
    with pytest.raises(InvalidInput):
        policy_rules.from_dict({name: value}, of_app=True)
    assert policy_rules.from_dict({name: unset}, of_app=True) == Rules()


def test_letting_members_bring_apps_restricts_nothing_and_holds_for_every_app_registration() -> None:
    assert not rules(member_apps=True).restricts
    assert policy_rules.stricter(rules(member_apps=True), rules(share_app_only=False)).member_apps


def test_stored_rules_that_this_version_does_not_know_are_ignored() -> None:
    stored = {"moon": 1, "capabilities": {"gone.capability": "forbidden"}, "share_app_only": False}
    assert policy_rules.from_database(stored) == rules(share_app_only=False)


@pytest.mark.parametrize(
    ("text", "patterns"),
    [
        ("", ()),
        ("Mail.Send, mail.read\nFiles.*;*", ("Mail.Send", "Mail.Read", "Files.*", "*")),
        ("“Mail.Send” Mail.Send", ("Mail.Send",)),
        ("https://graph.microsoft.com/Mail.Read", ("Mail.Read",)),
        ("Mail.ReadWrite.*", ("Mail.ReadWrite.*",)),
        ("ChannelMessage.Read.Group", ("ChannelMessage.Read.Group",)),
    ],
)
def test_permissions_are_parsed_as_people_type_them(text: str, patterns: tuple[str, ...]) -> None:
    assert policy_rules.parse_patterns(text) == patterns
