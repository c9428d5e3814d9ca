"""A second, minimal identity provider that shares nothing with portal/sandbox.

It has opaque access tokens, its own key and directory, and only the paths in its discovery document. It shows that the
portal does not depend on the sandbox.
"""

import json
import secrets
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

DIRECTORY = "11111111-2222-4333-8444-555555555555"
OTHER_DIRECTORIES = ("22222222-2222-4333-8444-555555555555", "33333333-2222-4333-8444-555555555555")
CLIENT_ID = "99999999-8888-4777-8666-555555555555"
SECRET = "another~secret-of-another-microsoft"
ACCOUNT = {"tid": DIRECTORY, "oid": "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee", "preferred_username": "mary@example.net"}


class AnotherMicrosoft:
    """Runs in a thread until ``stop()``. ``requests`` holds (method, path) of every request."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.codes: dict[str, dict[str, str]] = {}
        self.refresh_tokens: set[str] = set()
        self.access_tokens: set[str] = set()
        self.requests: list[tuple[str, str]] = []
        world = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                world.answer(self, "")

            def do_POST(self) -> None:
                world.answer(self, self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())

            def log_message(self, *args: object) -> None:
                """Print nothing, because the request line may carry a code."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, handler: BaseHTTPRequestHandler, body: str) -> None:
        parts = urlsplit(handler.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        form = {name: values[0] for name, values in parse_qs(body).items()}
        self.requests.append((handler.command, parts.path))
        if parts.path.endswith("/oauth2/v2.0/authorize"):
            self._redirect(handler, query)
            return
        if parts.path.endswith("/adminconsent"):
            answer = {"admin_consent": "True", "tenant": DIRECTORY, "state": query["state"]}
            self._send_to(handler, f"{query['redirect_uri']}?{urlencode(answer)}")
            return
        status, data = self._json(parts.path, form, handler.headers.get("Authorization", ""))
        payload = json.dumps(data).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(payload)))
        handler.end_headers()
        handler.wfile.write(payload)

    def _redirect(self, handler: BaseHTTPRequestHandler, query: dict[str, str]) -> None:
        code = secrets.token_urlsafe(16)
        self.codes[code] = query
        self._send_to(handler, f"{query['redirect_uri']}?{urlencode({'code': code, 'state': query['state']})}")

    def _send_to(self, handler: BaseHTTPRequestHandler, url: str) -> None:
        handler.send_response(302)
        handler.send_header("Location", url)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    def _json(self, path: str, form: dict[str, str], bearer: str) -> tuple[int, dict[str, Any]]:
        if path.endswith("/.well-known/openid-configuration"):
            segment = path.split("/")[1]
            base = f"{self.url}/{segment if segment in (*OTHER_DIRECTORIES, 'common') else DIRECTORY}"
            # For common, Microsoft's document has a placeholder instead of a directory.
            issuer = f"{self.url}/{{tenantid}}/v2.0" if segment == "common" else f"{base}/v2.0"
            return 200, {
                "issuer": issuer,
                "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                "token_endpoint": f"{base}/oauth2/v2.0/token",
                "jwks_uri": f"{self.url}/its/own/keys",
                "response_types_supported": ["code"],
                "subject_types_supported": ["pairwise"],
                "id_token_signing_alg_values_supported": ["RS256"],
            }
        if path == "/its/own/keys":
            public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key()))
            return 200, {"keys": [{**public, "kid": "one", "use": "sig"}]}
        if path.endswith("/oauth2/v2.0/token"):
            return self._token(form)
        if path.startswith("/v1.0/"):
            if bearer.removeprefix("Bearer ") not in self.access_tokens:
                return 401, {"error": {"code": "InvalidAuthenticationToken", "message": "No."}}
            return 200, {"id": "inbox", "displayName": "Inbox", "totalItemCount": 0, "value": []}
        return 404, {"error": "not_here"}

    def _token(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        if form.get("client_secret") != SECRET:
            return 401, {"error": "invalid_client", "error_description": "AADSTS7000215: no", "error_codes": [7000215]}
        grant = form["grant_type"]
        if grant == "client_credentials":
            claims = {"roles": ["Mail.Read", "User.Read.All"], "exp": int(time.time()) + 3600}
            return 200, self._tokens(jwt.encode(claims, self.key, algorithm="RS256"))
        if grant == "refresh_token" and form["refresh_token"] not in self.refresh_tokens:
            return 400, {"error": "invalid_grant", "error_description": "AADSTS50173: no", "error_codes": [50173]}
        extra: dict[str, Any] = {
            "scope": " ".join(form.get("scope", "Mail.Read").split()),
            "refresh_token": self._new(),
        }
        if grant == "authorization_code":
            request = self.codes.pop(form["code"])
            extra |= {"scope": request["scope"], "id_token": self._id_token(request["nonce"])}
        return 200, {**self._tokens(secrets.token_urlsafe(40)), **extra}

    def _new(self) -> str:
        token = secrets.token_urlsafe(40)
        self.refresh_tokens.add(token)
        return token

    def _tokens(self, access_token: str) -> dict[str, Any]:
        self.access_tokens.add(access_token)
        return {"token_type": "Bearer", "expires_in": "3599", "access_token": access_token}

    def _id_token(self, nonce: str) -> str:
        now = int(time.time())
        claims = {
            **ACCOUNT,
            "iss": f"{self.url}/{DIRECTORY}/v2.0",
            "aud": CLIENT_ID,
            "sub": str(uuid.uuid4()),
            "iat": now,
            "nbf": now,
            "exp": now + 600,
            "nonce": nonce,
            "name": "Mary",
        }
        return jwt.encode(claims, self.key, algorithm="RS256", headers={"kid": "one"})
