"""Complete user journeys: a person with one browser in the portal and one at Microsoft."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.http import HttpResponse
from django.test import Client

from connections.models import User
from portal.sandbox.client import Control
from tests.sandbox.conftest import Browser


@pytest.fixture(autouse=True)
def _database(db: None) -> None:
    """Let every test here use the database."""


@dataclass
class Person:
    """A person signed in to the portal, with a second browser for Microsoft's pages."""

    portal: Client
    microsoft: Browser

    def post(self, path: str, **data: Any) -> Any:
        return self.portal.post(path, data)

    def get(self, path: str) -> Any:
        return self.portal.get(path)

    def follow_to_microsoft(self, answer: HttpResponse) -> None:
        assert answer.status_code == 302, (answer.status_code, answer.content[:2000])
        location = answer["Location"]
        assert location.startswith(self.microsoft.url), location
        self.microsoft.page = self.microsoft.session.get(location, allow_redirects=False, timeout=20)

    def consent(self, upn: str) -> None:
        """Sign in at Microsoft as ``upn`` and accept every consent page until Microsoft redirects back."""
        page = self.microsoft.page
        if page.status_code == 200 and 'name="login"' in page.text:
            page = self.microsoft.sign_in(upn)
        while page.status_code == 200:
            page = self.microsoft.submit("consent")
        assert page.status_code == 302, (page.status_code, page.text)

    def return_to_portal(self) -> Any:
        parts = urlsplit(self.microsoft.page.headers["Location"])
        return self.portal.get(f"{parts.path}?{parts.query}")

    def connect(self, answer: HttpResponse, upn: str) -> Any:
        self.follow_to_microsoft(answer)
        self.consent(upn)
        return self.return_to_portal()


Meet = Callable[[User], Person]


@pytest.fixture
def person(sandbox: Control, signed_in: Callable[[User], Client]) -> Meet:
    """Call ``person(bob)`` to get bob with his two browsers."""
    return lambda user: Person(signed_in(user), Browser(sandbox.base_url))
