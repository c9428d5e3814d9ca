"""The whole API against its own document: valid and invalid data, invented by Schemathesis from nothing but the document.

Every call goes through all of the portal (WSGI, middleware, routes, services, the sandbox in Microsoft's place) and is
undone afterwards, so that each meets the same world, and nothing that is invented depends on what came before.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Iterator
from typing import Any
from unittest import mock
from urllib.parse import unquote

import pytest
import schemathesis
from django.conf import settings as portal
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections, transaction
from django.test import override_settings
from django.urls import NoReverseMatch, Resolver404, resolve, reverse
from hypothesis import HealthCheck, settings
from schemathesis.config import SchemathesisConfig

from connections.api.urls import api
from connections.microsoft import clouds
from portal.sandbox.process import SandboxProcess
from tests import factories, full_dataset

pytestmark = pytest.mark.django_db

# The test's budget: how many invented calls each operation gets, besides the document's examples and
# every boundary of every parameter.
EXAMPLES = 6
KEY = "the-key-of-whoever-calls"  # stands for a real key; see Callers
CONFIG: dict[str, Any] = {
    "generation": {"max-examples": EXAMPLES, "deterministic": True, "mode": "all", "database": "none"},
    "auth": {"openapi": {"KeyAuth": {"bearer": KEY}}},
    "phases": {"stateful": {"enabled": False}},  # every call is undone, so none can build upon another
    "checks": {
        # A document can say what a name looks like, but not which names are taken, which words Microsoft knows, or
        # which dates are over. What the portal knows better it refuses with 422, and with 409 what exists twice.
        "positive_data_acceptance": {"expected-statuses": ["2xx", "401", "403", "404", "409", "412", "422", "503"]},
        # The usual ones, and those of an invented If-Match, of what exists twice, and of what is too large.
        "negative_data_rejection": {
            "expected-statuses": ["400", "401", "403", "404", "409", "412", "413", "414", "422"]
        },
    },
}
THIS = 1  # stands for the number of the thing that there is; see Callers
NONE = 10**9  # nothing has this number


class Callers:
    """The portal's application, with KEY and THIS replaced by what there is: each call is made by the next person."""

    def __init__(self, application: Any) -> None:
        self.application = application
        self.keys: Iterator[str] = iter(())
        self.known: dict[str, Any] = {}

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        if environ.get("HTTP_AUTHORIZATION") == f"Bearer {KEY}":
            environ["HTTP_AUTHORIZATION"] = f"Bearer {next(self.keys)}"
        with contextlib.suppress(Resolver404, NoReverseMatch):
            match = resolve(environ["PATH_INFO"])
            real = {name: self._real(name, value) for name, value in match.kwargs.items()}
            environ["PATH_INFO"] = unquote(reverse(match.view_name, kwargs=real))
        return self.application(environ, start_response)

    def _real(self, name: str, value: Any) -> Any:
        return self.known[name] if str(value) == str(THIS) else value


callers = Callers(get_wsgi_application())


def document() -> Any:
    """The API's document, in which numbers of things are either THIS or NONE."""
    document_ = copy.deepcopy(dict(api.get_openapi_schema()))
    for methods in document_["paths"].values():
        for operation in methods.values():
            for parameter in operation["parameters"]:
                if parameter.get("in") == "path":
                    kind = str if parameter["schema"]["type"] == "string" else int
                    parameter["schema"]["enum"] = [kind(THIS), kind(NONE)]
    loaded = schemathesis.openapi.from_dict(document_, config=SchemathesisConfig.from_dict(CONFIG))
    loaded.app = callers
    return loaded


schema = document()


@pytest.fixture(scope="module")
def contoso(
    django_db_setup: None, django_db_blocker: Any, sandbox_process: SandboxProcess
) -> Iterator[full_dataset.World]:
    """One of everything, made once."""
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)  # as Django's own test client does: all is one transaction here
    with django_db_blocker.unblock(), sandbox_alone(sandbox_process), transaction.atomic():
        people = {name: factories.make_person(name) for name in ("alice", "bob", "carol", "dave")}
        world = full_dataset.make(people)
        callers.known = world.api_arguments()
        callers.keys = itertools.cycle(factories.make_key(user)[1] for user in people.values())
        yield world
        transaction.set_rollback(True)
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


@contextlib.contextmanager
def sandbox_alone(process: SandboxProcess) -> Iterator[None]:
    """No Microsoft but the sandbox can be reached, whatever environment is asked for, and nobody is slowed down."""
    process.control.reset()
    clouds.add_sandbox(process.url)
    only = {"sandbox": clouds.CLOUDS["sandbox"]}
    changed = {"MICROSOFT_SANDBOX_URL": process.url, "API_RATE_LIMIT": 0, "API_BAD_KEY_LIMIT": 0}
    with (
        override_settings(**changed, ALLOWED_HOSTS=[*portal.ALLOWED_HOSTS, "localhost"]),
        mock.patch.dict(clouds.CLOUDS, only, clear=True),
    ):
        yield
    clouds.add_sandbox("")


@schema.parametrize()
@settings(deadline=None, suppress_health_check=list(HealthCheck))
def test_every_response_is_documented(case: Any, contoso: full_dataset.World) -> None:
    with transaction.atomic():
        case.call_and_validate()
        transaction.set_rollback(True)
