"""Every code that the API can answer stands in docs/api.md, and a program can rely on what stands there."""

import re
from typing import Any

import pytest
from django.utils import timezone

from connections import errors
from connections.api import problems
from connections.microsoft import error_tables
from connections.microsoft.classifier import Verdict
from connections.microsoft.error_types import Kind
from connections.models import User
from portal.sandbox.client import Control
from tests import contract, factories
from tests.api.api_client import Program
from tests.environment import ROOT

pytestmark = pytest.mark.django_db

# Only pages, sign-ins, links and commands raise these.
NOT_IN_THE_API = {
    "error", "sign_in_failed", "cancelled", "sign_in_lost", "no_refresh_token", "wrong_account", "wrong_tenant",
    "account_replaced", "link_over", "wrong_entry", "target_refused", "cannot_retry", "key_not_known_everywhere",
    "name_taken", "passkey_refused", "renewal_impossible", "too_many_attempts", "wrong_code",
}  # fmt: skip


def documented() -> dict[str, set[int]]:
    """Return the codes in the table of docs/api.md, each with its statuses."""
    table = (ROOT / "docs" / "api.md").read_text(encoding="utf-8").partition("\n## Errors")[2]
    codes: dict[str, set[int]] = {}
    for statuses, names in re.findall(r"^\| ([\d, ]+) \| ([^|]+) \|", table, re.MULTILINE):
        for code in re.findall(r"`([a-z_]+)`", names):
            codes.setdefault(code, set()).update(map(int, statuses.split(",")))
    return codes


def test_every_code_is_documented_with_its_status() -> None:
    for code, statuses in contract.codes().items():
        if code in NOT_IN_THE_API:
            continue
        # 400 as consent_needed is of a sign-in only.
        statuses = [status for status in statuses if (code, status) != ("consent_needed", 400)]
        wanted = {422 if (code, status) == ("invalid_input", 400) else status for status in statuses}
        assert wanted <= documented().get(code, set()), code


def test_every_code_of_django_itself_is_documented() -> None:
    for status, (code, _) in problems._BY_STATUS.items():
        assert status in documented().get(code, set()), code


def test_whatever_microsoft_refuses_the_code_is_documented() -> None:
    meanings = [*error_tables.AADSTS.values(), *error_tables.ERRORS.values(), *error_tables.GRAPH.values()]
    for meaning in meanings:
        verdict = Verdict(
            meaning.kind,
            "x",
            meaning.cause,
            meaning.action,
            meaning.who,
            credential=meaning.credential,
            retry_after=7.5,
        )
        is_passing = meaning.kind in (Kind.TRANSIENT, Kind.THROTTLED)
        error = (errors.MicrosoftUnavailable if is_passing else errors.MicrosoftRefused)(verdict)
        assert error.status in documented()[error.code]
        assert (error.retry_after is not None) is is_passing
        assert error.who


@pytest.mark.parametrize(
    ("weather", "retry_after"),
    [({"kind": "unavailable"}, "15"), ({"kind": "throttle", "retry_after": "120"}, "120"), ({"kind": "refuse"}, "15")],
    ids=["outage", "throttled", "unreachable"],
)
def test_a_check_that_gets_no_answer_says_when_to_ask_again(
    sandbox: Control, bob: User, weather: dict[str, Any], retry_after: str
) -> None:
    connection = factories.make_granted_connection(sandbox)
    sandbox.weather(**weather, where="token")
    answer = Program(bob).post(f"connections/{connection.pk}/check")
    assert (answer.status_code, answer.json()["code"]) == (503, "microsoft_unavailable")
    assert (answer["Retry-After"], answer.json()["who"]) == (retry_after, "microsoft")


def test_a_check_of_what_nobody_has_signed_in_for_is_refused(bob: User) -> None:
    connection = factories.make_connection(status="pending", refresh_token=None, connected_at=timezone.now())
    answer = Program(bob).post(f"connections/{connection.pk}/check")
    assert (answer.status_code, answer.json()["code"]) == (409, "nothing_to_check")
