"""What the tests of pages share."""

from collections.abc import Callable
from typing import Any

from django.test import Client

from connections.models import User

SignIn = Callable[[User], Client]


def text(response: Any) -> str:
    """The body of a response as a browser shows it: line breaks in the HTML are just spaces."""
    return " ".join(response.content.decode().split())
