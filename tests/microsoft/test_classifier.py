"""Microsoft's real responses get the right verdict, and no response, however odd, can do harm."""

import base64
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connections.microsoft import error_guide, error_tables
from connections.microsoft.classifier import Verdict, classify, family_code, family_of, transport_failure
from connections.microsoft.error_types import ErrorMeaning, Kind, Who

DATA = Path(__file__).parent / "data" / "answers.jsonl"
PAGE = Path(__file__).parents[2] / "docs" / "what-went-wrong.md"
ANSWERS = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
PLACES = ("token", "authorize", "adminconsent", "graph")


def token(
    error: str = "", *codes: int, status: int = 400, headers: dict[str, str] | None = None, **more: Any
) -> Verdict:
    body: dict[str, Any] = {"error": error} if error else {}
    if codes:
        body |= {"error_codes": list(codes), "error_description": f"AADSTS{codes[-1]}: Some text."}
    return classify(where="token", status=status, headers=headers, body=json.dumps(body | more))


def graph(status: int | None, code: str = "", headers: dict[str, str] | None = None, **more: Any) -> Verdict:
    body = json.dumps({"error": {"code": code, "message": "Some text.", **more}})
    return classify(where="graph", status=status, headers=headers, body=body)


def entries() -> list[tuple[str, ErrorMeaning]]:
    tables: list[dict[Any, ErrorMeaning]] = [
        error_tables.AADSTS, error_tables.ERRORS, error_tables.SUBERRORS, error_tables.TRANSPORT, error_tables.GRAPH,
        error_tables.STATUSES, error_tables.BY_ID,
    ]  # fmt: skip
    return [(str(code), meaning) for table in tables for code, meaning in table.items()]


@pytest.mark.parametrize("row", ANSWERS, ids=lambda row: f"{row['id']}-{row['code']}")
def test_it_classifies_real_answers_given_as_text_or_bytes(row: dict[str, Any]) -> None:
    answer = {"where": row["where"], "status": row["http_status"], "headers": row.get("headers")}
    verdict = classify(**answer, body=row["body"])

    assert verdict.kind in [row["expect"], *row["alt"]]
    if row["code"].startswith("AADSTS"):
        assert verdict.code == row["code"]
    assert classify(**answer, body=row["body"].encode()) == verdict


SOAP = """<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope"><s:Body><s:Fault><s:Code>
<s:Value>s:Sender</s:Value></s:Code><s:Detail>{}</s:Detail></s:Fault></s:Body></s:Envelope>"""
HTML = "<!DOCTYPE html><html><body><h1>Bad gateway</h1></body></html>"
CLAIMS = base64.b64encode(b'{"access_token":{"nbf":{"essential":true}}}').decode()


@pytest.mark.parametrize(
    ("where", "status", "headers", "body", "kind", "code"),
    [
        # errors of the service itself
        ("token", 429, {"Retry-After": "60"}, "", Kind.THROTTLED, "http-429"),
        ("token", 429, {}, '{"error":"invalid_grant","error_codes":[50173]}', Kind.THROTTLED, "AADSTS50173"),
        ("token", 400, {}, '{"error":"invalid_grant","error_codes":[50196]}', Kind.THROTTLED, "AADSTS50196"),
        ("token", 502, {"Content-Type": "text/html"}, HTML, Kind.TRANSIENT, "http-502"),
        ("token", 500, {}, '{"error":"invalid_grant","error_codes":[50173]}', Kind.TRANSIENT, "AADSTS50173"),
        ("token", 400, {}, '{"error":"temporarily_unavailable"}', Kind.TRANSIENT, "temporarily_unavailable"),
        ("token", 400, {}, '{"error":"temporarily_unavailable","error_codes":[50057]}', Kind.TRANSIENT, "AADSTS50057"),
        ("token", None, None, None, Kind.TRANSIENT, "empty"),
        ("token", 200, {}, HTML, Kind.TRANSIENT, "http-200"),
        ("token", 200, {}, "", Kind.TRANSIENT, "http-200"),
        ("token", 200, {}, '{"access_token":""}', Kind.TRANSIENT, "http-200"),
        ("token", 200, {}, '{"access_token":["x"]}', Kind.TRANSIENT, "http-200"),
        ("token", 200, {}, '{"access_token":"x","error":"invalid_grant"}', Kind.TRANSIENT, "invalid_grant"),
        ("token", 400, {}, HTML, Kind.TRANSIENT, "http-400"),
        ("token", 403, {}, "Blocked by the firewall", Kind.TRANSIENT, "http-403"),
        ("token", 400, {}, SOAP.format("nothing known"), Kind.TRANSIENT, "http-400"),
        ("token", 400, {}, SOAP.format("<t>AADSTS50126: Error validating</t>"), Kind.REAUTH, "AADSTS50126"),
        ("token", 302, {"Location": "https://proxy.example/"}, "", Kind.TRANSIENT, "http-302"),
        # error words without a known number
        ("token", 400, {}, '{"error":"interaction_required"}', Kind.REAUTH, "interaction_required"),
        ("token", 400, {}, '{"error":"invalid_grant","error_codes":[99999]}', Kind.REAUTH, "AADSTS99999"),
        ("token", 400, {}, '{"error":"invalid_grant","suberror":"message_only"}', Kind.POLICY, "invalid_grant"),
        ("token", 400, {}, '{"error":"invalid_grant","suberror":"consent_required"}', Kind.CONSENT, "invalid_grant"),
        ("token", 400, {}, '{"error":"invalid_grant","suberror":"additional_action"}', Kind.POLICY, "invalid_grant"),
        ("token", 400, {}, '{"error":"invalid_grant","suberror":"bad_token"}', Kind.REAUTH, "invalid_grant"),
        ("token", 401, {}, '{"error":"invalid_client"}', Kind.APP_CONFIG, "invalid_client"),
        ("token", 400, {}, '{"error":"a_new_word"}', Kind.TRANSIENT, "a_new_word"),
        ("token", 400, {}, "{}", Kind.TRANSIENT, "http-400"),
        ("token", 400, {}, '{"error":"authorization_pending","error_codes":[70016]}', Kind.TRANSIENT, "AADSTS70016"),
        ("token", 400, {}, '{"error":"slow_down"}', Kind.THROTTLED, "slow_down"),
        ("token", 400, {}, '{"error":"expired_token"}', Kind.REAUTH, "expired_token"),
        ("token", 400, {}, '{"error":"authorization_declined"}', Kind.CONSENT, "authorization_declined"),
        # several numbers, or numbers in unusual places
        ("token", 400, {}, '{"error":"invalid_grant","error_codes":[70002,70008]}', Kind.REAUTH, "AADSTS70008"),
        ("token", 401, {}, '{"error":"invalid_client","error_codes":[7000215,70002]}', Kind.APP_CONFIG, "AADSTS7000215"),
        ("token", 400, {}, '{"error":"invalid_grant","error_codes":[50173,88888]}', Kind.REAUTH, "AADSTS50173"),
        ("token", 400, {}, '{"error":"invalid_grant","error_codes":["50057"]}', Kind.POLICY, "AADSTS50057"),
        ("token", 400, {}, '{"error":"invalid_grant","error_codes":50057}', Kind.POLICY, "AADSTS50057"),
        (
            "token", 400, {},
            '{"error":"invalid_grant","error_codes":[],"error_description":"AADSTS53003:\u00a0Blocked.\\r\\nTrace ID: x"}',
            Kind.POLICY, "AADSTS53003",
        ),
        ("token", 400, {}, '{"error":"invalid_grant","error_uri":"https://x/error?code=50057"}', Kind.POLICY, "AADSTS50057"),
        ("token", 400, {}, '{"error":"invalid_grant","error_codes":[50057', Kind.POLICY, "AADSTS50057"),
        ("token", 400, {}, '\ufeff{"error":"invalid_grant","error_codes":[50173]}', Kind.REAUTH, "AADSTS50173"),
        ("token", 400, {}, '{"error":"invalid_grant","error_codes":[50173,50057]}', Kind.POLICY, "AADSTS50057"),
        ("token", 400, {}, '{"error":"unauthorized_client","error_codes":[70000],"error_description":"AADSTS53005: x"}',
         Kind.POLICY, "AADSTS53005"),
        ("token", 400, {}, "{'error': 'invalid_client', 'suberror': 'x'}", Kind.APP_CONFIG, "invalid_client"),
        ("token", 400, {}, "{'error': 'invalid_grant', 'error_codes': [50057]}", Kind.POLICY, "AADSTS50057"),
        ("token", 400, {}, '{"error":"invalid_grant","error_description":"AADSTS70002: It\'s no. AADSTS50057: Disab',
         Kind.POLICY, "AADSTS50057"),
        # if the number is vague, the error word decides
        ("token", 400, {}, '{"error":"invalid_request","error_codes":[9002313]}', Kind.APP_CONFIG, "AADSTS9002313"),
        ("token", 400, {}, '{"error":"invalid_grant","error_codes":[9002313]}', Kind.REAUTH, "AADSTS9002313"),
        ("token", 400, {}, '{"error":"invalid_grant","error_codes":[70002]}', Kind.REAUTH, "AADSTS70002"),
        ("token", 401, {}, '{"error":"invalid_client","error_codes":[70002]}', Kind.APP_CONFIG, "AADSTS70002"),
        # callbacks through the browser
        ("authorize", None, None, "code=0.AX&state=s&session_state=1", Kind.OK, ""),
        ("authorize", None, None, "?code=0.AX&state=s#", Kind.OK, ""),
        ("authorize", None, None, "code=&state=s", Kind.TRANSIENT, "unknown"),
        ("authorize", None, None, "", Kind.TRANSIENT, "empty"),
        ("authorize", None, None, "code=0.AX&error=access_denied", Kind.CONSENT, "access_denied"),
        ("authorize", None, None, "error=access_denied&error_subcode=cancel&state=s", Kind.CONSENT, "access_denied"),
        ("authorize", None, None, "error=login_required&state=s", Kind.REAUTH, "login_required"),
        ("authorize", None, None, "error=server_error&state=s", Kind.TRANSIENT, "server_error"),
        ("authorize", None, None, "error=temporarily_unavailable", Kind.TRANSIENT, "temporarily_unavailable"),
        ("authorize", None, None, "error=unsupported_response_type", Kind.APP_CONFIG, "unsupported_response_type"),
        ("adminconsent", None, None, "admin_consent=True&tenant=t&state=s", Kind.OK, ""),
        ("adminconsent", None, None, "admin_consent=False&state=s", Kind.TRANSIENT, "unknown"),
        ("adminconsent", None, None, "code=0.AX&state=s", Kind.TRANSIENT, "unknown"),
        (
            "adminconsent", None, None,
            "admin_consent=True&error=consent_required&error_description=AADSTS65004%3a+denied.&state=1",
            Kind.CONSENT, "AADSTS65004",
        ),
        # Graph
        ("graph", 200, {}, '{"value":[]}', Kind.OK, ""),
        ("graph", 202, {}, "", Kind.OK, ""),
        ("graph", 200, {}, b"\xff\xd8\xff\xe0", Kind.OK, ""),
        ("graph", 200, {}, HTML, Kind.TRANSIENT, "http-200"),
        ("graph", 200, {}, '{"error":{"code":"ErrorItemNotFound"}}', Kind.MAILBOX, "ErrorItemNotFound"),
        ("graph", 429, {}, '{"error":{"code":"ApplicationThrottled"}}', Kind.THROTTLED, "ApplicationThrottled"),
        ("graph", 503, {}, '{"error":{"code":"TooManyRequests"}}', Kind.THROTTLED, "TooManyRequests"),
        ("graph", 400, {}, '{"error":{"code":"SomethingThrottledNew"}}', Kind.THROTTLED, "SomethingThrottledNew"),
        ("graph", 509, {}, "", Kind.THROTTLED, "http-509"),
        ("graph", 507, {}, '{"error":{"code":"quotaLimitReached"}}', Kind.TRANSIENT, "quotaLimitReached"),
        ("graph", 500, {}, '{"error":{"code":"ErrorAccessDenied"}}', Kind.TRANSIENT, "ErrorAccessDenied"),
        ("graph", 423, {}, '{"error":{"code":"locked"}}', Kind.TRANSIENT, "locked"),
        ("graph", 424, {}, '{"error":{"code":"FailedDependency"}}', Kind.TRANSIENT, "FailedDependency"),
        ("graph", 403, {}, '{"error":{"code":"","message":""}}', Kind.PERMISSION, "http-403"),
        ("graph", 403, {}, HTML, Kind.TRANSIENT, "http-403"),
        ("graph", 403, {}, '{"error":{"code":"ErrorAccessDenied","message":"Access to OData is disabled."}}', Kind.MAILBOX,
         "ErrorAccessDenied"),
        ("graph", 403, {}, '{"error":{"code":"ErrorAccessDenied","message":"Access is denied."}}', Kind.PERMISSION,
         "ErrorAccessDenied"),
        ("graph", 404, {}, '{"error":{"code":"ErrorFolderNotFound"}}', Kind.MAILBOX, "ErrorFolderNotFound"),
        ("graph", 404, {}, '{"error":{"code":"Request_ResourceNotFound"}}', Kind.MAILBOX, "Request_ResourceNotFound"),
        ("graph", 401, {}, "", Kind.REAUTH, "http-401"),
        ("graph", 401, {"X-MS-Diagnostics": '2000008;reason="No permissions"'}, "", Kind.PERMISSION, "http-401"),
        ("graph", 400, {}, '{"error":{"code":"Request_UnsupportedQuery"}}', Kind.APP_CONFIG, "Request_UnsupportedQuery"),
        ("graph", 403, {}, '{"error":{"code":"erroraccessdenied"}}', Kind.PERMISSION, "erroraccessdenied"),
        ("graph", 404, {}, '{"error":{"code":"MailboxNotEnabledForRESTAPI","mess', Kind.MAILBOX, "MailboxNotEnabledForRESTAPI"),
        (
            "graph", 403, {},
            '{"error":{"code":"accessDenied","innererror":{"code":"x","innerError":{"code":"ErrorSendAsDenied"}}}}',
            Kind.MAILBOX, "ErrorSendAsDenied",
        ),
        ("graph", 403, {}, '{"odata.error":{"code":"Authorization_RequestDenied","message":{"value":"No"}}}', Kind.PERMISSION,
         "Authorization_RequestDenied"),
    ],
)  # fmt: skip
def test_it_classifies_constructed_answers(
    where: str, status: int | None, headers: dict[str, str] | None, body: str | bytes, kind: Kind, code: str
) -> None:
    verdict = classify(where=where, status=status, headers=headers, body=body)

    assert (verdict.kind, verdict.code) == (kind, code)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 509, 599])
def test_an_outage_or_throttling_never_flags_whatever_its_code(status: int) -> None:
    numbers, errors = (
        [*error_tables.AADSTS, 99999, 500579],
        ["invalid_grant", "invalid_client", "unauthorized_client", ""],
    )
    verdicts = [token(error, number, status=status) for number in numbers for error in errors]
    verdicts += [graph(status, code) for code in [*error_tables.GRAPH, "Unheard"]]
    for verdict in verdicts:
        assert verdict.kind in (Kind.TRANSIENT, Kind.THROTTLED)
        assert not verdict.flags()
        assert not verdict.certain


def test_no_transient_entry_can_flag() -> None:
    passing = [(code, entry) for code, entry in entries() if entry.kind in (Kind.TRANSIENT, Kind.THROTTLED)]

    assert len(passing) > 50
    for code, entry in passing:
        assert not Verdict(entry.kind, code, entry.cause, entry.action, entry.who).flags()
        assert not any((entry.certain, entry.app_wide, entry.credential)), code


@pytest.mark.parametrize(
    ("error", "number"),
    [("invalid_grant", 50173), ("invalid_grant", 700082), ("invalid_grant", 50057), ("invalid_grant", 50034),
     ("invalid_grant", 65001), ("invalid_grant", 53003), ("invalid_grant", 50076), ("invalid_grant", 50105),
     ("invalid_client", 7000222), ("invalid_client", 7000215), ("unauthorized_client", 700016)],
)  # fmt: skip
def test_a_clear_refusal_is_certain(error: str, number: int) -> None:
    verdict = token(error, number)

    assert verdict.certain
    assert verdict.flags()


@pytest.mark.parametrize(
    ("error", "number"),
    [("invalid_grant", 70000), ("invalid_grant", 9002313), ("invalid_grant", None), ("invalid_grant", 99999),
     ("invalid_client", None), ("invalid_grant", 500579), ("interaction_required", None), ("invalid_client", 700024),
     ("unauthorized_client", 70021), ("invalid_grant", 50053)],
)  # fmt: skip
def test_a_vague_unknown_or_passing_refusal_is_not_certain(error: str, number: int | None) -> None:
    verdict = token(error, *([number] if number else []))

    assert not verdict.certain


def test_a_huge_number_does_not_spoil_the_rest_of_an_answer() -> None:
    body = '{"error":"invalid_grant","error_codes":[50173],"later":' + "9" * 5_000 + "}"

    assert classify(where="token", status=400, headers=None, body=body).certain


def test_a_fragment_a_web_page_and_a_link_are_never_certain() -> None:
    fragment = '{"error":"invalid_grant","error_codes":[50173],"error_desc'
    page = "<html>AADSTS50173: The grant was revoked</html>"
    link = "error=access_denied&error_description=AADSTS50105%3A+No&state=s"
    for where, body in [("token", fragment), ("token", page), ("authorize", link), ("adminconsent", link)]:
        verdict = classify(where=where, status=400, headers=None, body=body)
        assert verdict.flags()
        assert not verdict.certain


@pytest.mark.parametrize("where", PLACES)
def test_only_the_token_endpoint_can_reject_a_credential(where: str) -> None:
    body = "error=invalid_client&error_description=AADSTS7000215%3A+wrong" if where != "graph" else ""
    if where == "token":
        body = '{"error":"invalid_client","error_codes":[7000215]}'
    verdict = classify(where=where, status=401, headers=None, body=body)

    assert verdict.credential is (where == "token")


@pytest.mark.parametrize(
    ("number", "error", "credential", "app_wide"),
    [
        (7000215, "invalid_client", True, True),
        (7000222, "invalid_client", True, True),
        (700027, "invalid_client", True, True),
        (50012, "invalid_client", True, True),
        (7000218, "invalid_client", True, True),
        (None, "invalid_client", True, True),
        (7000299, "invalid_client", True, True),
        (700016, "unauthorized_client", False, True),
        (7000112, "unauthorized_client", False, True),
        (90002, "invalid_request", False, True),
        (None, "unauthorized_client", False, True),
        (None, "invalid_tenant", False, True),
        (70002, "invalid_grant", False, False),
        (50173, "invalid_grant", False, False),
        (65001, "invalid_grant", False, False),
        (70011, "invalid_scope", False, False),
        (53003, "invalid_grant", False, False),
    ],
)
def test_a_broken_app_is_no_broken_connection(number: int | None, error: str, credential: bool, app_wide: bool) -> None:
    verdict = token(error, *([number] if number else []), status=401)

    assert (verdict.credential, verdict.app_wide) == (credential, app_wide)


def test_a_failed_second_factor_is_not_told_as_a_wrong_secret() -> None:
    verdict = token("invalid_grant", 500121, suberror="basic_action")

    assert (verdict.kind, verdict.who, verdict.credential, verdict.app_wide) == (Kind.REAUTH, Who.OWNER, False, False)
    assert "Multi-factor" in verdict.cause


@pytest.mark.parametrize(
    ("child", "kind"),
    [
        (530099, None),  # 53009 asks for app protection, but only 53000 and 53003 are marked
        (530039, Kind.POLICY),  # 53003: Conditional Access
        (530009, Kind.POLICY),  # 53000: the device must be compliant
        (500029, Kind.POLICY),  # 50002: tenant restrictions
        (700089, Kind.REAUTH),  # 70008: the sign-in has expired
        (700219, Kind.APP_CONFIG),  # 70021: federated credentials
        (500129, None),  # 50012 is a wrong secret, 500121 a failed second factor
        (500579, None),
        (7000199, None),
        (160029, None),
        (50999, None),
        (530039123, None),
    ],
)
def test_an_unknown_number_gets_its_familys_meaning_only_where_the_family_is_marked(
    child: int, kind: Kind | None
) -> None:
    assert child not in error_tables.AADSTS
    family = family_of(child)

    assert (family.kind if family else None) == kind
    assert family is None or not any((family.certain, family.app_wide, family.credential, family.account_wide))


@pytest.mark.parametrize("error", ["invalid_grant", "interaction_required", "consent_required", "access_denied"])
def test_a_number_that_only_begins_like_a_known_one_is_told_by_microsofts_words(error: str) -> None:
    for number in (number for number in error_tables.AADSTS if len(str(number)) == 5):
        if str(number) in error_tables.FAMILIES:
            continue
        for child in (child for child in (number * 10 + 9, number * 100 + 99) if child not in error_tables.AADSTS):
            assert replace(token(error, child), code="") == replace(token(error), code="")


def test_each_known_member_of_a_marked_family_agrees_with_it() -> None:
    members = [(meaning, family_of(number)) for number, meaning in error_tables.AADSTS.items()]

    assert len([family for _, family in members if family]) >= 10
    assert all(meaning.kind is family.kind for meaning, family in members if family)


@pytest.mark.parametrize("status", [None, 200, 400])
@pytest.mark.parametrize(
    ("page", "kind", "code"),
    [
        ("<html><body><p>AADSTS50011: The redirect URI does not match.</p></body></html>", Kind.APP_CONFIG, "50011"),
        ('<!DOCTYPE html><script>$Config={"sErrorCode":"90094","sCtx":1};</script>', Kind.CONSENT, "90094"),
        ('<html>{"iErrorCode":1,"errorCode": 50105}</html>', Kind.POLICY, "50105"),
    ],
)
def test_a_code_on_microsofts_error_page_counts_at_the_authorize_step(
    status: int | None, page: str, kind: Kind, code: str
) -> None:
    verdict = classify(where="authorize", status=status, headers={}, body=page)

    assert (verdict.kind, verdict.code, verdict.certain) == (kind, f"AADSTS{code}", False)


@pytest.mark.parametrize(
    "number", [50173, 50132, 50133, 50057, 500571, 50034, 500341, 50055, 50135]
)  # revoked, password changed, disabled, deleted, password expired or at risk
def test_it_knows_what_is_true_of_the_whole_account(number: int) -> None:
    assert token("invalid_grant", number).account_wide
    for body in (f"<html>AADSTS{number}: x</html>", f'{{"error":"invalid_grant","error_codes":[{number}],"x'):
        assert not classify(where="token", status=400, headers=None, body=body).account_wide


@pytest.mark.parametrize("number", [700082, 70043, 65001, 53003, 50076, 50105, 7000222, 70000, 500121])
def test_it_knows_what_is_true_of_one_grant_or_app_only(number: int) -> None:
    assert not token("invalid_grant", number).account_wide


@pytest.mark.parametrize(("code", "entry"), entries(), ids=lambda value: value if isinstance(value, str) else "")
def test_each_entry_says_what_happened_what_to_do_and_who(code: str, entry: ErrorMeaning) -> None:
    assert entry.kind in Kind
    assert entry.kind is not Kind.OK
    assert entry.who in Who
    for sentence in (entry.cause, entry.action):
        assert sentence.endswith(".")
        assert sentence[0].isupper()
        assert 12 < len(sentence) < 200
        assert not any(mark in sentence for mark in ("{", "}", "%s", "TODO", "XXX", "AADSTS", "  ", "|"))
    person = {Who.OWNER: ("owner", "person"), Who.IT_ADMIN: ("admin",)}.get(entry.who, ("obody", "portal"))
    assert any(word in entry.action for word in person), entry.action


def test_every_number_of_the_table_gets_its_entry() -> None:
    for number, entry in error_tables.AADSTS.items():
        verdict = token("", number)
        assert verdict.code == f"AADSTS{number}"
        assert (verdict.kind, verdict.cause, verdict.action, verdict.name) == (
            entry.kind, entry.cause, entry.action, entry.name)  # fmt: skip


def test_a_policy_is_never_left_to_the_owner_alone() -> None:
    assert all(entry.who is Who.IT_ADMIN for _, entry in entries() if entry.kind is Kind.POLICY)


@pytest.mark.parametrize(
    ("words", "seconds", "sentence"),
    [
        ("28800", 28_800, "every 8 hours"),
        ("86400", 86_400, "every day"),
        ("604800", 604_800, "every 7 days"),
        ("5400", 5_400, "every 90 minutes"),
        ("1.00:00:00", 86_400, "every day"),
        ("04:00:00", 14_400, "every 4 hours"),
        ("0", None, ""),
        ("soon", None, ""),
    ],
)
def test_it_reads_the_sign_in_frequency_from_microsofts_text(words: str, seconds: int | None, sentence: str) -> None:
    text = (
        f"AADSTS70043: The token was issued on 2021-01-19 and the maximum allowed lifetime for this request is {words}."
    )
    verdict = token("interaction_required", 70043, error_description=text)

    assert verdict.max_age_s == seconds
    assert sentence in verdict.cause


def test_it_returns_the_ids_that_microsofts_support_needs() -> None:
    described = (
        "AADSTS50173: Revoked.\r\nTrace ID: 0000aaaa-11bb-cccc-dd22-eeeeee333333\r\n"
        "Correlation ID: aaaa0000-bb11-2222-33cc-444444dddddd\r\nTimestamp: 2026-01-09 02:02:12Z"
    )
    from_fields = token(
        "invalid_grant", 50173, trace_id="t-1234567", correlation_id="c-1234567", timestamp="2026-01-09 02:02:12Z"
    )
    from_text = token("invalid_grant", 50173, error_description=described)
    from_graph = graph(404, "ErrorItemNotFound", innerError={
        "date": "2026-03-11T09:15:42", "request-id": "r-1234567", "client-request-id": "q-1234567"})  # fmt: skip

    assert (from_fields.trace_id, from_fields.correlation_id) == ("t-1234567", "c-1234567")
    assert from_text.trace_id == "0000aaaa-11bb-cccc-dd22-eeeeee333333"
    assert from_text.correlation_id == "aaaa0000-bb11-2222-33cc-444444dddddd"
    assert from_text.timestamp == from_fields.timestamp == "2026-01-09 02:02:12Z"
    assert (from_graph.trace_id, from_graph.correlation_id) == ("r-1234567", "q-1234567")
    assert from_graph.timestamp == "2026-03-11T09:15:42"


def test_it_returns_the_claims_challenge_as_json() -> None:
    challenge = (
        'Bearer realm="", authorization_uri="https://login.microsoftonline.com/common/oauth2/authorize", '
        f'Bearer error="insufficient_claims", claims="{CLAIMS}"'
    )
    from_graph = graph(401, "InvalidAuthenticationToken", {"www-authenticate": challenge})
    forbidden = graph(403, "accessDenied", {"WWW-AUTHENTICATE": challenge})
    from_token = token("invalid_grant", 53003, claims='{"access_token":{"capolids":{"essential":true}}}')
    nonsense = token("invalid_grant", 53003, claims="not json")

    assert json.loads(from_graph.claims) == {"access_token": {"nbf": {"essential": True}}}
    assert (from_graph.kind, from_graph.certain, forbidden.kind) == (Kind.REAUTH, False, Kind.POLICY)
    assert json.loads(from_token.claims)["access_token"]["capolids"]
    assert nonsense.claims == ""
    assert token("invalid_grant", 53003, claims='{"a":"\ud800"}').claims == '{"a":"?"}'


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("60", 60.0),
        (" 7 ", 7.0),
        ("1.5", 1.5),
        ("0", 0.0),
        ("99999999999", 86_400.0),
        ("-5", None),
        ("soon", None),
        ("", None),
        ("nan", None),
        ("1e400", None),
        ("Wed, 13 Mar 2024 09:21:30 GMT", 90.0),
        ("Wed, 13 Mar 2024 09:00:00 GMT", 0.0),
        ("Wed, 99 Mar 2024 09:00:00 GMT", None),
    ],
)
def test_it_reads_how_long_to_wait(value: str, seconds: float | None) -> None:
    headers = {"RETRY-after": value, "Date": "Wed, 13 Mar 2024 09:20:00 GMT"}

    assert token(status=429, headers=headers).retry_after == seconds
    assert graph(503, headers=headers).retry_after == seconds


def test_without_a_header_there_is_no_wait() -> None:
    assert token(status=429).retry_after is None


def test_a_network_failure_is_transient() -> None:
    for reason in error_tables.TRANSPORT:
        verdict = transport_failure(reason)
        assert (verdict.kind, verdict.code, verdict.flags()) == (Kind.TRANSIENT, f"transport-{reason}", False)


def test_messages_of_a_network_library_are_not_repeated() -> None:
    verdict = transport_failure("POST https://login.example/token?client_secret=hunter2 failed")

    assert (verdict.kind, verdict.code) == (Kind.TRANSIENT, "transport")
    assert "hunter2" not in repr(verdict)


def test_no_token_or_code_of_an_answer_is_in_the_verdict() -> None:
    secret = "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9." + "S3cr3t" * 20
    fields = ["access_token", "refresh_token", "id_token", "error", "suberror", "error_description", "error_codes",
              "trace_id", "correlation_id", "timestamp", "claims", "error_uri", "code", "message"]  # fmt: skip
    for name in fields:
        for status in (200, 400, 500):
            for where in ("token", "graph"):
                body = json.dumps({name: secret} | {"error": {"code": secret, name: secret}})
                flat = json.dumps({"error": "invalid_grant", name: secret})
                headers = {"x": secret, "Retry-After": secret}
                for text in (body, body[:-10], json.dumps({name: secret}), flat):
                    assert "S3cr3t" not in repr(classify(where=where, status=status, headers=headers, body=text))
        for where in ("authorize", "adminconsent"):
            for query in (f"{name}={secret}", f"error=access_denied&{name}={secret}", f"code={secret}&error={secret}"):
                assert "S3cr3t" not in repr(classify(where=where, status=None, headers=None, body=query))


def assert_valid(verdict: Verdict) -> None:
    assert verdict.code != "unreadable"  # the last resort of classify(), which should never be needed
    assert isinstance(verdict.kind, Kind)
    assert isinstance(verdict.who, Who)
    assert verdict.cause.endswith(".")
    assert verdict.action.endswith(".")
    assert verdict.retry_after is None or 0 <= verdict.retry_after <= 86_400
    if verdict.kind in (Kind.TRANSIENT, Kind.THROTTLED):
        assert not verdict.flags()
        assert not verdict.certain
    assert len(repr(verdict).encode("utf-8")) < 20_000  # can be encoded, and is limited in size


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
field_values = json_values | st.sampled_from(
    ["invalid_grant", "invalid_client", "AADSTS50173: x", [50173], [70002, 10**30], "basic_action", {"code": "x"}]
)
field_names = st.sampled_from(
    ["error", "suberror", "error_codes", "error_description", "error_uri", "claims", "trace_id", "timestamp", "code",
     "message", "innerError", "access_token", "correlation_id", "odata.error", "admin_consent"]
)  # fmt: skip
bodies = (
    st.none()
    | st.binary(max_size=200)
    | st.text(max_size=200)
    | st.dictionaries(field_names, field_values, max_size=6).map(json.dumps)
    | st.dictionaries(field_names, field_values, max_size=6).map(lambda data: json.dumps({"error": data}))
    | st.dictionaries(field_names, st.text(max_size=20), max_size=6).map(
        lambda data: "&".join(f"{key}={value}" for key, value in data.items())
    )
    | st.sampled_from([row["body"] for row in ANSWERS]).flatmap(
        lambda body: st.integers(0, len(body)).map(lambda cut: body[:cut])
    )
)
header_values = (
    st.text(max_size=40) | st.binary(max_size=20) | st.integers() | st.none() | st.lists(st.text(), max_size=2)
)
header_names = st.sampled_from(["Retry-After", "retry-after", "Date", "WWW-Authenticate", "x-ms-diagnostics"]) | st.text(max_size=8)  # fmt: skip
odd_things: st.SearchStrategy[Any] = json_values | st.binary(max_size=8) | st.just(object())


@pytest.mark.slow
@settings(max_examples=2_000, deadline=None, database=None)
@given(
    where=st.sampled_from(PLACES) | st.text(max_size=8),
    status=st.none() | st.integers(-5, 700) | st.sampled_from([200, 400, 401, 403, 404, 429, 503]),
    headers=st.none() | st.dictionaries(header_names, header_values, max_size=4),
    body=bodies,
)
def test_it_never_raises(where: str, status: int | None, headers: Any, body: Any) -> None:
    assert_valid(classify(where=where, status=status, headers=headers, body=body))


@settings(max_examples=500, deadline=None, database=None)
@given(where=odd_things, status=odd_things, headers=odd_things, body=odd_things)
def test_it_never_raises_for_things_of_any_type(where: Any, status: Any, headers: Any, body: Any) -> None:
    assert_valid(classify(where=where, status=status, headers=headers, body=body))


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize(
    "body",
    [
        "[" * 200_000,
        '{"error":' * 100_000,
        '{"error":{"innerError":' * 50_000 + "1" + "}" * 100_000,
        '{"error_codes":[' + "9" * 100_000 + "]}",
        '{"error":"invalid_grant","error_codes":[' + ",".join(["50173"] * 30_000) + "]}",
        '{"error":' + " " * 3_000_000,
        "AADSTS" * 500_000,
        "AADSTS50173" * 300_000,
        "&" * 3_000_000,
        "error=" + "%41" * 1_000_000,
        "<html>" * 500_000,
        '{"error":"\ud800","error_description":"\udfff AADSTS50173: x"}',
        b"\xff\xfe" + '{"error":"invalid_grant"}'.encode("utf-16-le"),
        b"\x00" * 1_000_000,
    ],
    ids=range(14),
)
def test_huge_and_hostile_bodies_do_no_harm(where: str, body: str | bytes) -> None:
    for status in (200, 400, None):
        assert_valid(classify(where=where, status=status, headers={"Retry-After": "9" * 100_000}, body=body))


@pytest.mark.slow
def test_twenty_thousand_damaged_answers_do_no_harm() -> None:
    rng = random.Random(20_261)
    alphabet = '{}[]":,\\ \r\n\u00a0\ud800<>&=%;0123456789AaEeDdSsTt'
    for _ in range(20_000):
        row = rng.choice(ANSWERS)
        body = row["body"]
        for _ in range(rng.randrange(4)):
            at, width = rng.randrange(len(body) + 1), rng.randrange(20)
            body = body[:at] + "".join(rng.choices(alphabet, k=rng.randrange(8))) + body[at + width :]
        if rng.random() < 0.2:
            body = rng.randbytes(rng.randrange(300))
        headers = {"Retry-After": rng.choice(["1", "-1", "x", "Wed, 13 Mar 2024 09:20:00 GMT", "9" * 30])}
        status = rng.choice([row["http_status"], 200, 400, 401, 503, rng.randrange(1000)])
        assert_valid(classify(where=rng.choice(PLACES), status=status, headers=headers, body=body))


def test_the_error_guide_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == error_guide.render()


def test_the_error_guide_has_every_code() -> None:
    page = error_guide.render()

    for number, entry in error_tables.AADSTS.items():
        assert f"| AADSTS{number} | {entry.name} | {entry.cause} | {entry.action} |" in page
    for code in error_tables.GRAPH:
        assert f"| {code} |" in page


@pytest.mark.parametrize(
    ("code", "family"),
    [
        ("AADSTS530039", "AADSTS53003"),
        ("AADSTS53003", "AADSTS53003"),
        ("AADSTS530032", "AADSTS530032"),
        ("AADSTS501319", "AADSTS501319"),  # only begins like 50131, a rule of the directory
        ("invalid_grant", "invalid_grant"),
        ("AADSTS", "AADSTS"),
    ],
)
def test_an_unknown_code_belongs_to_a_marked_family_only(code: str, family: str) -> None:
    assert family_code(code) == family
