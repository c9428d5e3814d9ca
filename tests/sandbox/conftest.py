"""One sandbox process for this folder, and a browser and an app that use it over HTTP."""

import html
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from portal.sandbox import process, seed

CALLBACK = "http://localhost:8000/auth/complete/microsoft-connect/"


@dataclass
class Browser:
    """A browser that submits the sandbox's forms."""

    url: str
    session: requests.Session = field(default_factory=requests.Session)
    page: requests.Response = field(default_factory=requests.Response)

    def open(self, path: str, **query: str) -> requests.Response:
        self.page = self.session.get(self.url + path, params=query, allow_redirects=False, timeout=20)
        return self.page

    def authorize(self, tenant: str = seed.CONTOSO, **query: str) -> requests.Response:
        parameters = {
            "client_id": seed.CONNECTIONS_APP,
            "response_type": "code",
            "redirect_uri": CALLBACK,
            "scope": "openid profile offline_access https://graph.microsoft.com/Mail.Read",
            "state": "state-1",
            **query,
        }
        return self.open(f"/{tenant}/oauth2/v2.0/authorize", **{k: v for k, v in parameters.items() if v})

    def hidden(self, name: str) -> str:
        match = re.search(rf'name="{name}" value="([^"]*)"', self.page.text)
        assert match is not None, self.page.text
        return html.unescape(match.group(1))

    def submit(self, step: str, **fields: str) -> requests.Response:
        data = {"csrfmiddlewaretoken": self.hidden("csrfmiddlewaretoken"), "step": step, **fields}
        if step in ("mfa", "consent"):
            data["flow"] = self.hidden("flow")
        self.page = self.session.post(self.page.url, data=data, allow_redirects=False, timeout=20)
        return self.page

    def sign_in(self, name: str, password: str = "") -> requests.Response:
        word = "katherine" if name == "admin@contoso.example" else name.partition("@")[0]
        return self.submit("password", login=name, password=password or f"sandbox-{word}")

    @property
    def answer(self) -> dict[str, str]:
        """Return the parameters of the redirect to the app."""
        assert self.page.status_code == 302, (self.page.status_code, self.page.text)
        parts = urlsplit(self.page.headers["Location"])
        return {name: values[0] for name, values in parse_qs(parts.query or parts.fragment).items()}


@dataclass
class Client:
    """An app that calls the token endpoint and Graph."""

    url: str
    client_id: str = seed.CONNECTIONS_APP
    secret: str = seed.CONNECTIONS_SECRET
    tenant: str = seed.CONTOSO

    def token(self, **fields: Any) -> requests.Response:
        data = {"client_id": self.client_id, "client_secret": self.secret, **fields}
        tenant = data.pop("tenant", self.tenant)
        data = {name: value for name, value in data.items() if value is not None}
        return requests.post(f"{self.url}/{tenant}/oauth2/v2.0/token", data=data, timeout=20)

    def redeem(self, code: str, **fields: Any) -> requests.Response:
        return self.token(**{"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK, **fields})

    def refresh(self, refresh_token: str, **fields: Any) -> requests.Response:
        return self.token(**{"grant_type": "refresh_token", "refresh_token": refresh_token, **fields})

    def graph(self, path: str, token: str, **options: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {token}", **options.pop("headers", {})}
        method = options.pop("method", "GET")
        return requests.request(method, f"{self.url}/v1.0/{path}", headers=headers, timeout=20, **options)


@pytest.fixture
def sandbox(sandbox_process: process.SandboxProcess) -> process.SandboxProcess:
    """The running sandbox, reset to its seed."""
    sandbox_process.control.reset()
    return sandbox_process


@pytest.fixture
def browser(sandbox: process.SandboxProcess) -> Browser:
    return Browser(sandbox.url)


@pytest.fixture
def client(sandbox: process.SandboxProcess) -> Client:
    return Client(sandbox.url)
