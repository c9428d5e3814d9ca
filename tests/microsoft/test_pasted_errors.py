"""Texts that people copy from Microsoft's page."""

import random
import string
import time

import pytest

from connections.microsoft import pasted_errors
from connections.microsoft.error_types import Who

TRACE = "11111111-2222-4333-8444-555555555555"
PAGE = f"""Sign in
Sorry, but we’re having trouble signing you in.
AADSTS50105: Your administrator has configured the application Portal to block users.
Troubleshooting details
Request Id: {TRACE}
Correlation Id: 99999999-2222-4333-8444-555555555555
Timestamp: 2026-03-04T05:06:07Z"""


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("50105", "AADSTS50105"),
        (" aadsts50011 ", "AADSTS50011"),
        ("Error code: 53003", "AADSTS53003"),
        ("Fehler 50020 beim Anmelden", "AADSTS50020"),
        (PAGE, "AADSTS50105"),
        ('{"error":"invalid_grant","error_description":"AADSTS50173: x","error_codes":[50173]}', "AADSTS50173"),
        ('Failed: {"error": {"code": "ErrorAccessDenied", "message": "Access is denied."}}', "ErrorAccessDenied"),
        (
            "https://x.example/auth/complete/?error=access_denied&error_description=AADSTS65004%3a+No&state=s",
            "AADSTS65004",
        ),
        ("Need admin approval\nPortal needs permission to access resources in your organization", "AADSTS90094"),
        ("You cannot access this right now", "AADSTS53003"),
        ("You can’t get there from here: Your device must be managed", "AADSTS53000"),
        ("InvalidReplyTo", "AADSTS50011"),
        ("the answer was consent_required", "consent_required"),
        ('<html><script>{"sErrorCode":"50020"}</script></html>', "AADSTS50020"),
        ("AADSTS987654: something new", "AADSTS987654"),
    ],
)
def test_it_finds_the_error(text: str, code: str) -> None:
    answer = pasted_errors.explain(text)
    assert answer.code == code
    assert answer.cause
    assert answer.action


def test_it_keeps_the_ids_that_support_asks_for() -> None:
    answer = pasted_errors.explain(PAGE)
    assert (answer.trace_id, answer.correlation_id[:8], answer.timestamp) == (TRACE, "99999999", "2026-03-04T05:06:07Z")
    alone = pasted_errors.explain(TRACE)
    assert (alone.trace_id, alone.code, alone.who) == (TRACE, "", Who.IT_ADMIN)


@pytest.mark.parametrize(
    "text",
    [
        "https://x.example/auth/complete/?code=1.AVAAsecretsecretsecretsecret&state=s",
        '{"token_type": "Bearer", "access_token": "secretsecretsecret"}',
        "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.eyJzZWNyZXQiOiJzZWNyZXQifQ.secret",
        "https://x.example/?error=access_denied&code=1.AVAAsecretsecretsecretsecret",
        "https://x.example/?error=eyJsecretsecretsecretsecret.abc",
        "?error=secretsecretsecret&access_token=secretsecret",
    ],
)
def test_a_sign_in_code_or_token_is_named_and_never_repeated(text: str) -> None:
    answer = pasted_errors.explain(text)
    assert answer.has_secret
    assert "secret" not in repr(answer).replace("has_secret", "")


@pytest.mark.parametrize("text", ["", "hello", "12", "AADSTS" + "1" * 400, "{" * 9000, "\x00\udcff", "error="])
def test_it_says_so_if_there_is_no_error(text: str) -> None:
    assert pasted_errors.explain(text).code == ""


def test_any_text_is_answered_quickly() -> None:
    pick = random.Random(1)
    pieces = ["AADSTS", "error=", "{", '"error":', "code=", "eyJ", " ", "&", "50011", "trace id: ", "_", "\n", "%", "é"]
    for _ in range(300):
        text = "".join(pick.choice([*pieces, *string.printable]) for _ in range(pick.randrange(400)))
        pasted_errors.explain(text)
    for piece in pieces:
        began = time.perf_counter()
        pasted_errors.explain(piece * 20_000)
        assert time.perf_counter() - began < 0.5


@pytest.mark.parametrize("during", [pasted_errors.SIGN_IN, pasted_errors.CONSENT])
def test_what_microsoft_never_reports_is_listed_with_cause_and_action(during: str) -> None:
    errors = pasted_errors.shown_errors(during)
    assert "AADSTS50011" in {error.code for error in errors}
    for error in errors:
        assert error.meaning.cause
        assert error.meaning.action
        assert pasted_errors.explain(error.shows).code == error.code


def test_half_a_character_does_not_stop_it() -> None:
    """Such as a multipart form in UTF-7 can contain."""
    assert pasted_errors.explain("AADSTS50011 \ud800").code == "AADSTS50011"
