"""The control API and panel, faults, and the request log."""

import json
import re

import pytest
import requests

from portal.sandbox import seed
from portal.sandbox.client import Control, ControlError
from portal.sandbox.process import SandboxProcess
from tests.sandbox.conftest import Browser, Client

ADA = "ada@contoso.example"


def token_request(client: Client) -> requests.Response:
    robots = Client(client.url, seed.ROBOTS_APP, seed.ROBOTS_SECRET)
    return robots.token(grant_type="client_credentials", scope="https://graph.microsoft.com/.default")


@pytest.mark.parametrize(
    ("verb", "fields", "sentence"),
    [
        ("dance", {}, "Unknown command: 'dance'."),
        ("revoke_sessions", {"upn": ADA, "really": True}, "revoke_sessions has no field 'really'."),
        ("revoke_sessions", {}, "revoke_sessions needs the field 'upn'."),
        ("revoke_sessions", {"upn": "nobody@contoso.example"}, "The person "),
        ("set_person", {"upn": ADA, "disabled": "yes"}, "disabled must be"),
        ("weather", {"kind": "snow"}, "kind must be one of"),
        ("weather", {"kind": "throttle", "retry_after": "soon"}, "retry_after must be"),
        ("grant_consent", {"client_id": seed.ROBOTS_APP, "scopes": ["Mail.Raed"]}, "knows no permission"),
        ("add_certificate", {"client_id": seed.ROBOTS_APP, "pem": "x"}, "isn't a PEM certificate"),
    ],
)
def test_invalid_commands_are_refused_with_the_reason(
    sandbox: SandboxProcess, verb: str, fields: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ControlError, match=re.escape(sentence)):
        sandbox.control.call(verb, **fields)


def test_only_json_posts_are_accepted(sandbox: SandboxProcess) -> None:
    url = f"{sandbox.url}/_control/api/reset"
    assert requests.get(url, timeout=20).status_code == 405
    assert requests.post(url, data={"a": "b"}, timeout=20).status_code == 415
    headers = {"Content-Type": "application/json"}
    assert requests.post(url, data="{", headers=headers, timeout=20).status_code == 400
    assert requests.post(url, data="[]", headers=headers, timeout=20).status_code == 400


def test_a_foreign_host_name_is_refused(sandbox: SandboxProcess) -> None:
    answer = requests.get(f"{sandbox.url}/_control/api/state", headers={"Host": "evil.example"}, timeout=20)
    assert answer.status_code == 400


def test_every_command_is_documented_and_has_a_method(sandbox: SandboxProcess) -> None:
    verbs = re.findall(r'<h2 id="(\w+)">', requests.get(f"{sandbox.url}/_control/api/", timeout=20).text)
    assert {"reset", "weather", "issue_grant", "consent_lie"} <= set(verbs)
    assert [verb for verb in verbs if not hasattr(Control, verb)] == []


def test_reset_brings_the_seed_back(sandbox: SandboxProcess) -> None:
    before = sandbox.control.state()
    added = sandbox.control.add_app("New app", redirect_uris=["http://localhost:1/x"], delegated=["Mail.Read"])
    sandbox.control.add_person("new@contoso.example", "New Person")
    sandbox.control.set_person(ADA, deleted=True)
    assert added["client_id"] in {app["client_id"] for app in sandbox.control.state()["apps"]}
    sandbox.control.reset()
    after = sandbox.control.state()
    assert [person["upn"] for person in after["people"]] == [person["upn"] for person in before["people"]]
    assert not any(person["deleted"] for person in after["people"])
    assert [app["client_id"] for app in after["apps"]] == [app["client_id"] for app in before["apps"]]


def test_new_people_and_apps_can_be_used_at_once(sandbox: SandboxProcess, browser: Browser) -> None:
    person = sandbox.control.add_person("new@contoso.example", "New Person")
    callback = "http://localhost:8000/somewhere/"
    app = sandbox.control.add_app("New app", redirect_uris=[callback], delegated=["Mail.Read"])
    browser.authorize(client_id=app["client_id"], redirect_uri=callback)
    browser.sign_in("new@contoso.example", person["password"])
    browser.submit("consent")
    client = Client(sandbox.url, app["client_id"], app["secret"])
    assert client.redeem(browser.answer["code"], redirect_uri=callback).status_code == 200


def test_calls_are_counted_by_grant_and_no_secret_is_kept(client: Client, sandbox: SandboxProcess) -> None:
    grant = sandbox.control.issue_grant(seed.CONNECTIONS_APP, ADA, ["Mail.Read"], count=2)
    first, second = grant["refresh_tokens"]
    rotated = client.refresh(first).json()
    client.refresh(rotated["refresh_token"])
    client.refresh(second, client_secret="wrong")
    client.graph("me/messages", rotated["access_token"])
    calls = sandbox.control.calls()
    assert calls["by_grant"][seed.CONNECTIONS_APP][grant["fingerprints"][0]] == 2
    assert sandbox.control.refreshes(grant["fingerprints"][0]) == 2
    assert sandbox.control.refreshes(grant["fingerprints"][1]) == 0, (
        "a wrong secret is refused before the token is read"
    )
    assert calls["by_grant_type"] == {"refresh_token": 3}
    assert calls["by_endpoint"] == {"token": 3, "graph": 1}
    assert calls["by_outcome"] == {"ok": 3, "7000215": 1}
    assert [call["outcome"] for call in calls["recent"]] == ["ok", "ok", "7000215", "ok"]
    text = json.dumps(calls)
    for secret in (first, second, rotated["access_token"], rotated["refresh_token"], seed.CONNECTIONS_SECRET):
        assert secret not in text
    newest = sandbox.control.calls(after=calls["recent"][2]["number"])["recent"]
    assert [call["endpoint"] for call in newest] == ["graph"]
    sandbox.control.clear_calls()
    assert sandbox.control.calls()["total"] == 0


def test_ten_thousand_grants_can_be_issued(sandbox: SandboxProcess, client: Client) -> None:
    grant = sandbox.control.issue_grant(seed.CONNECTIONS_APP, ADA, ["Mail.Read"], count=10_000)
    assert len(set(grant["refresh_tokens"])) == len(set(grant["fingerprints"])) == 10_000
    assert client.refresh(grant["refresh_tokens"][9_999]).status_code == 200


def test_outages(sandbox: SandboxProcess, client: Client) -> None:
    sandbox.control.weather("unavailable", "token")
    answer = token_request(client)
    assert (answer.status_code, answer.text[:6]) == (503, "<html>")
    sandbox.control.weather("error", "token")
    assert token_request(client).json()["error_codes"] == [90033]
    sandbox.control.weather("empty_504", "token")
    answer = token_request(client)
    assert (answer.status_code, answer.content) == (504, b"")
    sandbox.control.weather("broken_json", "token")
    answer = token_request(client)
    assert answer.status_code == 200
    with pytest.raises(requests.JSONDecodeError):
        answer.json()
    sandbox.control.weather("loop", "token")
    assert token_request(client).json()["error_codes"] == [50196]
    sandbox.control.weather("normal")
    assert token_request(client).status_code == 200
    outcomes = sandbox.control.calls()["by_outcome"]
    assert outcomes["weather:unavailable"] == outcomes["weather:loop"] == 1


@pytest.mark.parametrize("given", [7, 2.5, "0"])
def test_throttling_names_the_seconds(sandbox: SandboxProcess, client: Client, given: float | str) -> None:
    sandbox.control.weather("throttle", "token", retry_after=given)
    answer = token_request(client)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, str(given))


def test_throttling_without_seconds_or_with_a_date(sandbox: SandboxProcess, client: Client) -> None:
    sandbox.control.weather("throttle", "graph", retry_after="missing")
    answer = client.graph("me", "x")
    assert answer.status_code == 429
    assert "Retry-After" not in answer.headers
    assert answer.json()["error"]["code"] == "TooManyRequests"
    sandbox.control.weather("throttle", "graph", retry_after="date")
    assert client.graph("me", "x").headers["Retry-After"].endswith(" GMT")
    assert token_request(client).status_code == 200, "the weather is over Graph only"


def test_faults_can_be_limited_in_number_and_to_one_app(sandbox: SandboxProcess, client: Client) -> None:
    sandbox.control.weather("unavailable", "token", times=2)
    assert [token_request(client).status_code for _ in range(3)] == [503, 503, 200]
    sandbox.control.weather("unavailable", "token", client_id=seed.CONNECTIONS_APP)
    assert token_request(client).status_code == 200
    assert client.token(grant_type="client_credentials", scope="x").status_code == 503


def test_a_response_can_break_off(sandbox: SandboxProcess, client: Client) -> None:
    sandbox.control.weather("reset", "token")
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        token_request(client)
    assert sandbox.control.calls()["recent"][-1]["outcome"] == "weather:reset"


@pytest.mark.parametrize("kind", ["refuse", "hang"])
def test_connections_can_be_dropped_without_an_answer(sandbox: SandboxProcess, client: Client, kind: str) -> None:
    sandbox.control.weather(kind, "token", delay_ms=10)
    with pytest.raises(requests.ConnectionError):
        token_request(client)
    last = sandbox.control.calls()["recent"][-1]
    assert (last["status"], last["outcome"]) == (0, f"weather:{kind}")


def test_a_page_of_a_proxy_can_come_instead_of_an_answer(sandbox: SandboxProcess, client: Client) -> None:
    sandbox.control.weather("html", "token")
    answer = token_request(client)
    assert (answer.status_code, answer.headers["Content-Type"].partition(";")[0]) == (200, "text/html")


def test_a_request_can_be_handled_twice(sandbox: SandboxProcess, client: Client) -> None:
    sandbox.control.clear_calls()
    sandbox.control.weather("twice", "token", times=1)
    assert token_request(client).status_code == 200
    assert token_request(client).status_code == 200
    assert sandbox.control.calls()["by_endpoint"]["token"] == 2


def test_the_control_api_stays_reachable_during_faults(sandbox: SandboxProcess) -> None:
    sandbox.control.weather("refuse")
    assert sandbox.control.state()["weather"][0]["kind"] == "refuse"


def test_a_slow_response_is_still_correct(sandbox: SandboxProcess, client: Client) -> None:
    sandbox.control.weather("slow", delay_ms=5)
    assert token_request(client).status_code == 200


def test_the_buttons_of_the_panel_work(browser: Browser, sandbox: SandboxProcess, client: Client) -> None:
    refresh_token = sandbox.control.issue_grant(seed.CONNECTIONS_APP, ADA, ["Mail.Read"])["refresh_tokens"][0]
    page = browser.open("/_control/")
    assert seed.CONNECTIONS_SECRET in page.text
    assert seed.CONNECTIONS_SECRET_ID in page.text

    def press(**fields: str) -> requests.Response:
        data = {"csrfmiddlewaretoken": browser.hidden("csrfmiddlewaretoken"), **fields}
        return browser.session.post(f"{browser.url}/_control/", data=data, timeout=20)

    assert "Done: revoke sessions." in press(verb="revoke_sessions", upn=ADA, place="people").text
    assert client.refresh(refresh_token).json()["error_codes"] == [50173]
    assert "Secret added" in press(verb="add_secret", client_id=seed.ROBOTS_APP, place="apps").text
    assert "blocked by policy" in press(verb="set_person", upn=ADA, ca_blocked="true").text
    assert "unavailable on token" in press(verb="weather", kind="unavailable", where="token", seconds="60").text
    assert "must be a whole number" in press(verb="weather", kind="normal", seconds="x").text
    press(verb="set_mailbox", address="sales@contoso.example", members=f"{ADA}, alan@contoso.example")
    press(verb="set_directory", tenant=seed.CONTOSO, user_consent="false")
    state = sandbox.control.state()
    sales = next(mailbox for mailbox in state["mailboxes"] if mailbox["address"].startswith("sales"))
    assert sales["members"] == [ADA, "alan@contoso.example"]
    assert not next(directory for directory in state["directories"] if directory["id"] == seed.CONTOSO)["user_consent"]
    answer = browser.session.post(f"{browser.url}/_control/", data={"verb": "reset"}, timeout=20)
    assert answer.status_code == 403, "no other site can press the buttons"


def test_the_front_page_names_everybody(browser: Browser) -> None:
    page = browser.open("/")
    assert "Katherine Johnson" in page.text
    assert "sandbox-katherine" in page.text
    assert browser.open("/_static/sandbox.css").headers["Content-Type"].startswith("text/css")
    assert browser.open("/_static/..%2Fseed.py").status_code == 404
    assert "AADSTS50173" in browser.open("/error", code="50173").text
