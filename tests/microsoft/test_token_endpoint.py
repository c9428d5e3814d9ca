"""Successful answers of the token endpoint."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest

from connections.microsoft import clouds, http, token_endpoint
from connections.microsoft.classifier import Verdict
from connections.microsoft.error_types import Kind

SCOPES = ("https://graph.microsoft.com/Mail.Read", "User.Read", "offline_access")


def test_an_answer_without_scope_grants_what_was_requested() -> None:
    answer = token_endpoint.token_set({"access_token": "opaque", "expires_in": 3600}, requested=SCOPES)
    assert answer.granted == ("Mail.Read", "User.Read", "offline_access")


@pytest.mark.parametrize("scope", ["https://graph.microsoft.com/Mail.Read", "Mail.Read"])
def test_an_answer_with_scope_grants_what_it_says(scope: str) -> None:
    assert token_endpoint.token_set({"access_token": "x", "scope": scope}, requested=SCOPES).granted == ("Mail.Read",)


def test_an_app_only_answer_grants_the_roles_in_its_token() -> None:
    token = jwt.encode({"roles": ["Mail.Read"]}, "a key of at least thirty-two bytes, as HS256 wants")
    assert token_endpoint.token_set({"access_token": token}).granted == ("Mail.Read",)
    assert token_endpoint.token_set({"access_token": "opaque"}).granted == ()


def test_a_refresh_also_asks_who_the_account_is_now() -> None:
    application = token_endpoint.Application(
        clouds.CLOUDS["global"], "contoso.com", "client", token_endpoint.ClientSecret("x")
    )
    request = token_endpoint.refresh_request(application, "1.A", ("Mail.Read", "openid", "offline_access"), None)
    scopes = "https%3A%2F%2Fgraph.microsoft.com%2FMail.Read+openid+offline_access+profile"
    assert request.body is not None
    assert f"scope={scopes}&".encode() in request.body


class _Endless(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        """Send an answer that is correct, but far too long."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        with suppress(OSError):  # the client hangs up
            self.wfile.write(b'{"access_token": "' + b"x" * 50_000_000)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def endless() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Endless)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_answer_of_more_than_256_kib_is_not_kept_in_memory(endless: str) -> None:
    cloud = replace(clouds.CLOUDS["global"], login=endless)
    application = token_endpoint.Application(cloud, "contoso.com", "client", token_endpoint.ClientSecret("x"))
    request = token_endpoint.refresh_request(application, "1.A", ("Mail.Read",), None)
    response = http.client().send(request)
    assert (response.status, len(response.body)) == (0, 0)
    verdict = token_endpoint.read_answer(response)
    assert isinstance(verdict, Verdict)
    assert (verdict.kind, verdict.flags()) == (Kind.TRANSIENT, False)


@pytest.mark.parametrize("space", ["", "\xa0"])
def test_an_unusual_success_never_raises(space: str) -> None:
    body = f'{space}{{"access_token": "eyJ0", "expires_in": {"9" * 5000}}}'
    response: http.Response[None] = http.Response(
        http.Request("POST", "https://login.example.org", tag=None), 201, body=body.encode()
    )
    assert isinstance(token_endpoint.read_answer(response), token_endpoint.TokenSet)
