from collections.abc import Callable
from typing import Any

from django.test import Client

from connections.models import User

SignIn = Callable[[User], Client]


def text(response: Any) -> str:
    """Return the response's body as a browser shows it, with line breaks as spaces."""
    return " ".join(response.content.decode().split()).replace("&#x27;", "'")


def assert_shows(page: str, *texts: str) -> None:
    missing = [text for text in texts if text not in page]
    assert not missing, f"not on the page: {missing}"


def assert_hides(page: str, *texts: str) -> None:
    shown = [text for text in texts if text in page]
    assert not shown, f"on the page: {shown}"


def assert_answer(response: Any, status: int, *texts: str) -> None:
    """Assert the response's status, and that its page shows these texts."""
    assert response.status_code == status, text(response)[:2000]
    assert_shows(text(response), *texts)
