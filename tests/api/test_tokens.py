"""The API that automations depend on: keys, tokens, and the error a caller gets if there is no token."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest
from django.db import OperationalError
from django.test import Client
from django.utils import timezone

from connections.models import ApiKey, AuditEvent, Connection, Incident, Share, TokenFetch, User
from connections.services.api_keys import api_keys
from connections.services.tokens import fetch as handing_out
from connections.services.tokens import single_flight, token_calls
from connections.services.tokens.single_flight import TokenRequirement
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories
from tests.api.api_client import at_once
from tests.asgi_client import PortalClient

pytestmark = pytest.mark.django_db
NOW = timezone.now()
BOTH = ["token:read", "connections:read"]

Robot = Callable[..., Any]


def issue(owner: User, **overrides: Any) -> tuple[ApiKey, str]:
    values: dict[str, Any] = {
        "name": "Robot",
        "scopes": BOTH,
        "expires_at": NOW + timedelta(days=30),
        "actor": owner,
        "now": NOW,
    }
    return api_keys.issue(owner, **(values | overrides))


def robot(text: str, **extra: Any) -> Robot:
    client = PortalClient(headers={"Authorization": f"Bearer {text}"})
    return lambda path, **query: client.get(f"/api/v1/{path}", query, **extra)


# --- Keys -----------------------------------------------------------------------------------------


def test_a_key_is_shown_once_and_kept_as_prefix_and_digest(bob: User) -> None:
    key, text = issue(bob)
    assert text.startswith("m365p_")
    stored = ApiKey.objects.values().get()
    assert text not in str(stored)
    assert stored["prefix"] in text
    assert text not in str(list(AuditEvent.objects.values()))
    assert key.is_valid()


@pytest.mark.parametrize("spoil", ["unknown", "wrong", "checksum", "empty", "rubbish", "revoked", "expired", "left"])
def test_every_bad_key_gets_the_same_answer(bob: User, spoil: str) -> None:
    key, text = issue(bob)
    if spoil == "unknown":
        text = issue(bob, name="Other")[1]
        ApiKey.objects.filter(name="Other").delete()
    elif spoil == "wrong":
        body = text[:-7] + ("A" if text[-7] != "A" else "B")
        text = body + api_keys._checksum(body)
    elif spoil == "checksum":
        text = text[:-1] + ("A" if text[-1] != "A" else "B")
    elif spoil in ("empty", "rubbish"):
        text = "" if spoil == "empty" else "m365p_\x00é"
    elif spoil == "revoked":
        api_keys.revoke(key, actor=bob, now=NOW)
    elif spoil == "expired":
        ApiKey.objects.update(expires_at=NOW - timedelta(seconds=1))
    else:
        User.objects.filter(pk=bob.pk).update(is_active=False)
    answer = robot(text.encode("utf-8").decode("latin-1"))("connections")
    assert (answer.status_code, answer["Content-Type"]) == (401, "application/problem+json")
    assert answer.json()["code"] == "bad_key"
    assert answer.json()["title"] == "This API key isn't valid."
    assert answer["WWW-Authenticate"].startswith("Bearer")


def test_a_session_is_no_key(bob: User, signed_in: Callable[[User], Client]) -> None:
    assert signed_in(bob).get("/api/v1/connections").status_code == 401


def test_a_key_works_from_its_networks_only(bob: User) -> None:
    _, text = issue(bob, networks=["10.1.0.0/16", "2001:db8::/32"])
    assert robot(text, REMOTE_ADDR="10.1.2.3")("connections").status_code == 200
    assert robot(text, REMOTE_ADDR="10.2.2.3")("connections").status_code == 401
    assert robot(text, REMOTE_ADDR="::ffff:10.1.2.3")("connections").status_code == 200


def test_scopes_and_connections_narrow_a_key(bob: User) -> None:
    mine, other = factories.make_connection(name="Mine"), factories.make_connection(name="Other")
    _, text = issue(bob, scopes=["connections:read"], connections=[mine])
    assert [item["name"] for item in robot(text)("connections").json()["items"]] == ["Mine"]
    assert robot(text)(f"connections/{other.pk}").status_code == 404
    refused = robot(text)(f"connections/{mine.pk}/token")
    assert (refused.status_code, refused.json()["code"]) == (403, "not_allowed")


def test_a_key_whose_chosen_connections_are_all_gone_reaches_nothing(bob: User) -> None:
    mine, _ = factories.make_connection(name="Mine"), factories.make_connection(name="Other")
    _, text = issue(bob, connections=[mine])
    assert len(robot(text)("connections").json()["items"]) == 1
    mine.delete()
    assert robot(text)("connections").json()["items"] == []
    assert robot(text)("connections/Other/token").status_code == 404


@pytest.mark.parametrize("ref", ["number", "Finance & Co / Mail?", "Ünïcode 100%", "a+b c"])
def test_a_connection_is_named_by_number_or_by_name(bob: User, sandbox: Control, ref: str) -> None:
    name = "Any" if ref == "number" else ref.replace("/", "|")
    connection = factories.make_granted_connection(sandbox, name=name)
    factories.make_granted_connection(sandbox, name="Another")
    text = issue(bob)[1]
    wanted = str(connection.pk) if ref == "number" else quote(name, safe="")
    assert robot(text)(f"connections/{wanted}/token").json()["access_token"] == connection.access_token


def test_a_name_that_several_visible_connections_bear_is_ambiguous(bob: User, dave: User, sandbox: Control) -> None:
    mine, other = (
        factories.make_granted_connection(sandbox, name="Mail"),
        factories.make_granted_connection(sandbox, name="Mail", owner=dave),
    )
    text = issue(bob)[1]
    assert robot(text)("connections/Mail/token").status_code == 200
    Share.objects.create(connection=other, person=bob, created_by=dave)
    refused = robot(text)("connections/Mail/token")
    assert (refused.status_code, refused.json()["code"]) == (409, "ambiguous_name")
    assert str(mine.pk) in refused.json()["detail"]
    assert str(other.pk) in refused.json()["detail"]
    assert robot(text)(f"connections/{mine.pk}/token").status_code == 200


def test_digits_are_always_a_number(bob: User, sandbox: Control) -> None:
    connection = factories.make_granted_connection(sandbox, name="99999")
    call = robot(issue(bob)[1])
    assert call("connections/99999/token").status_code == 404
    assert call(f"connections/{connection.pk}/token").status_code == 200


def test_last_use_is_noted_without_a_write_for_every_call(bob: User, django_assert_num_queries: Any) -> None:
    key, text = issue(bob)
    call = robot(text, REMOTE_ADDR="10.9.8.7")
    call("connections")
    assert factories.reloaded(key).last_used_from == "10.9.8.7"
    first = key.last_used_at
    call("connections")
    assert factories.reloaded(key).last_used_at == first


# --- Tokens ---------------------------------------------------------------------------------------


def test_a_valid_token_is_handed_out_without_asking_microsoft(bob: User, sandbox: Control) -> None:
    connection = factories.make_granted_connection(sandbox)
    sandbox.clear_calls()
    answer = robot(issue(bob)[1])(f"connections/{connection.pk}/token")
    body = answer.json()
    assert answer.status_code == 200
    assert (body["access_token"], body["token_type"]) == (connection.access_token, "Bearer")
    assert "no-store" in answer["Cache-Control"]
    assert "refresh_token" not in body
    assert not sandbox.calls(limit=0)["by_endpoint"].get("token")


def test_a_token_that_would_not_last_long_enough_is_refreshed_inside_the_call(bob: User, sandbox: Control) -> None:
    connection = factories.make_granted_connection(sandbox, expires_at=timezone.now() + timedelta(seconds=200))
    sandbox.clear_calls()
    body = robot(issue(bob)[1])(f"connections/{connection.pk}/token", min_valid=300).json()
    assert body["access_token"] != connection.access_token
    assert sandbox.calls(limit=0)["by_endpoint"]["token"] == 1


def test_asking_for_longer_than_tokens_live_does_not_ask_microsoft_at_every_call(bob: User, sandbox: Control) -> None:
    connection = factories.make_granted_connection(sandbox, expires_at=timezone.now() + timedelta(seconds=1800))
    sandbox.token_lifetime(1800)
    sandbox.clear_calls()
    call = robot(issue(bob)[1])
    for _ in range(3 * single_flight.MOST_EARLY):
        answer = call(f"connections/{connection.pk}/token", min_valid=3600)
        assert answer.status_code == 200
        assert "Portal-Trouble" not in answer
    # A new minute may have begun in the meantime.
    assert sandbox.calls(limit=0)["by_endpoint"].get("token", 0) <= 2 * single_flight.MOST_EARLY


def test_trouble_at_microsoft_does_not_reach_a_caller_while_a_token_is_valid(bob: User, sandbox: Control) -> None:
    connection = factories.make_granted_connection(sandbox, expires_at=timezone.now() + timedelta(seconds=200))
    sandbox.weather("unavailable", where="token")
    answer = robot(issue(bob)[1])(f"connections/{connection.pk}/token")
    assert answer.status_code == 200
    assert answer.json()["access_token"] == connection.access_token
    assert answer["Portal-Trouble"] == "microsoft_unavailable"


def test_without_a_valid_token_an_outage_is_a_503_that_says_when_to_come_back(bob: User, sandbox: Control) -> None:
    connection = factories.make_granted_connection(sandbox, expires_at=NOW - timedelta(seconds=1))
    sandbox.weather("unavailable", where="token")
    answer = robot(issue(bob)[1])(f"connections/{connection.pk}/token")
    assert (answer.status_code, answer["Retry-After"]) == (503, "15")
    assert answer.json()["code"] == "microsoft_unavailable"


def test_a_dead_connection_says_why_who_and_where_to_mend_it(bob: User, sandbox: Control) -> None:
    connection = factories.make_granted_connection(sandbox, expires_at=NOW - timedelta(seconds=1))
    sandbox.revoke_sessions(factories.ADA)
    answer = robot(issue(bob)[1])(f"connections/{connection.pk}/token")
    body = answer.json()
    assert (answer.status_code, body["code"], body["who"]) == (409, "reconnect_needed", "owner")
    assert body["link"] == f"http://localhost:8000/connections/{connection.pk}/"
    assert body["title"] == "This connection has no valid access token."
    assert "signed in" in body["detail"] or "sign-in" in body["detail"]
    assert "sign in" in body["action"].lower()
    assert body["incident"] == Incident.objects.get().pk


def test_a_dead_app_secret_is_told_as_such(bob: User, sandbox: Control) -> None:
    connection = factories.make_granted_connection(sandbox, expires_at=NOW - timedelta(seconds=1))
    sandbox.expire_secret(factories.CLIENT_ID, seed.CONNECTIONS_SECRET_ID)
    call = robot(issue(bob)[1])
    call(f"connections/{connection.pk}/token")
    body = call(f"connections/{connection.pk}/token").json()
    assert (body["code"], body["who"]) == ("app_credential_rejected", "it_admin")


@pytest.mark.parametrize(
    ("relation", "status"), [("owner", 200), ("use", 200), ("stranger", 404), ("admin", 403), ("auditor", 403)]
)
def test_who_may_fetch_a_token(
    alice: User, bob: User, carol: User, dave: User, sandbox: Control, relation: str, status: int
) -> None:
    connection = factories.make_granted_connection(sandbox)
    who = {"owner": bob, "use": dave, "stranger": dave, "admin": alice, "auditor": carol}[relation]
    if relation == "use":
        Share.objects.create(connection=connection, person=dave, created_by=bob)
    assert robot(issue(who)[1])(f"connections/{connection.pk}/token").status_code == status


def test_unsharing_while_an_automation_polls_refuses_its_next_call(bob: User, dave: User, sandbox: Control) -> None:
    connection = factories.make_granted_connection(sandbox)
    share = Share.objects.create(connection=connection, person=dave, created_by=bob)
    call = robot(issue(dave)[1])
    statuses = [call(f"connections/{connection.pk}/token").status_code for _ in range(5)]
    Share.objects.filter(pk=share.pk).update(ended_at=timezone.now())
    statuses += [call(f"connections/{connection.pk}/token").status_code for _ in range(5)]
    assert statuses == [200] * 5 + [404] * 5


def test_hand_outs_are_counted_per_key_connection_and_minute(bob: User, sandbox: Control) -> None:
    connection = factories.make_granted_connection(sandbox)
    key, text = issue(bob)
    for _ in range(3):
        api_keys.record_token_request(key, connection, address="10.0.0.1", now=NOW - timedelta(minutes=9))
    api_keys.record_token_request(key, connection, address="10.0.0.1", now=NOW - timedelta(minutes=8))
    robot(text)(f"connections/{connection.pk}/token")
    assert sum(TokenFetch.objects.values_list("count", flat=True)) == 5
    assert TokenFetch.objects.order_by("minute").values_list("count", flat=True)[0] == 3


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("gone", [Connection, ApiKey])
def test_a_hand_out_is_recorded_though_key_or_connection_is_removed_at_that_moment(bob: User, gone: Any) -> None:
    connection = factories.make_connection(name="Invoices")
    key, _ = issue(bob)
    gone.objects.all().delete()
    api_keys.record_token_request(key, connection, address=None, now=NOW)
    fetch = TokenFetch.objects.get()
    assert (fetch.key_ref, fetch.connection_ref) == (key.pk, connection.pk)
    assert (fetch.key is None, fetch.connection is None) == (gone is ApiKey, gone is Connection)


def test_a_connection_that_is_removed_while_its_token_is_asked_for_is_not_there(
    bob: User, sandbox: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = factories.make_granted_connection(sandbox, expires_at=NOW - timedelta(seconds=1))

    def remove(pk: int, wanted: TokenRequirement, resource: str) -> bool:
        Connection.objects.all().delete()
        return True

    monkeypatch.setattr(single_flight, "refresh_in_turn", remove)
    answer = robot(issue(bob)[1])(f"connections/{connection.pk}/token")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.django_db(transaction=True)
def test_many_callers_at_once_cost_one_call_to_microsoft(bob: User, sandbox: Control) -> None:
    connection = factories.make_granted_connection(sandbox, expires_at=NOW - timedelta(seconds=1))
    sandbox.weather("slow", where="token", delay_ms=300)
    sandbox.clear_calls()
    calls = [lambda: handing_out.get_token(connection, TokenRequirement(300), now=timezone.now())] * 20
    assert len({token.access_token for token in at_once(*calls)}) == 1
    assert sandbox.calls(limit=0)["by_endpoint"]["token"] == 1


@pytest.mark.parametrize(
    "path",
    [
        "connections/0",
        "connections/99999999999999999999",
        "connections/x",
        "connections/1/token?min_valid=-1",
        "connections/%00/token",
        "connections/" + "9" * 5000 + "/token",
        "connections/" + "x" * 5000 + "/token",
        "connections/%ff%fe/token",
        "connections/٣/token",
        "connections?after=x",
        "connections/1/token?min_valid=999999",
        "nothing/here",
    ],
)
def test_rubbish_is_answered_in_words(bob: User, path: str) -> None:
    assert robot(issue(bob)[1])(path).status_code in (404, 422)


def test_the_document_and_its_reader_are_served_from_here(client: Client) -> None:
    document = client.get("/api/v1/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert "/api/v1/connections/{ref}/token" in document["paths"]
    assert client.get("/api/v1/docs").status_code == 200


def test_the_endpoint_and_the_view_give_the_same_answer(bob: User, settings: Any) -> None:
    settings.API_RATE_LIMIT = 600
    connection = factories.make_connection(owner=bob, granted_scopes="Mail.Read")
    _, text = issue(bob)
    path, headers = f"/api/v1/connections/{connection.pk}/token", {"Authorization": f"Bearer {text}"}
    in_front = PortalClient(headers=headers).get(path)
    behind = Client(headers=headers).get(path)
    assert (in_front.status_code, in_front.json()) == (200, behind.json())
    differ = {"x-request-id", "content-length", "ratelimit-remaining", "ratelimit-reset"}
    assert of(in_front, differ) == of(behind, differ)
    assert int(in_front["RateLimit-Remaining"]) - int(behind["RateLimit-Remaining"]) == 1


def of(answer: Any, differ: set[str]) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.items() if name.lower() not in differ}


def test_the_endpoint_answers_while_the_database_is_away(bob: User, monkeypatch: pytest.MonkeyPatch) -> None:
    def down(*args: Any) -> Any:
        raise OperationalError

    monkeypatch.setattr(token_calls, "answer", down)
    answer = robot(issue(bob)[1])("connections/1/token")
    assert (answer.status_code, answer["Retry-After"]) == (503, "5")
    assert answer["Content-Type"] == "application/problem+json"
