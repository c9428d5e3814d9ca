"""What the tests of pages share."""

from collections.abc import Callable
from typing import Any

from django.test import Client

from connections.models import User

SignIn = Callable[[User], Client]


def text(response: Any) -> str:
    """The body of a response as a browser shows it: line breaks in the HTML are just spaces."""
    return " ".join(response.content.decode().split())


def assert_shows(page: str, *texts: str) -> None:
    """Fail with the texts that are not on the page."""
    missing = [text for text in texts if text not in page]
    assert not missing, f"not on the page: {missing}"


def assert_hides(page: str, *texts: str) -> None:
    """Fail with the texts that are on the page."""
    shown = [text for text in texts if text in page]
    assert not shown, f"on the page: {shown}"
