"""Test a running portal against its OpenAPI document, over HTTP. Nothing is rolled back between the calls.

This is a separate module because the data set of test_schemathesis.py would still exist in that one.
"""

import copy
import itertools
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from schemathesis.config import SchemathesisConfig

from connections.api.urls import api
from portal.sandbox.process import SandboxProcess
from tests import factories, full_dataset
from tests.api.test_schemathesis import CONFIG, sandbox_alone


@pytest.mark.django_db(transaction=True)
def test_a_running_portal_answers_as_documented(live_server: Any, sandbox_process: SandboxProcess) -> None:
    people = {name: factories.make_person(name) for name in ("alice", "bob", "carol", "dave")}
    with sandbox_alone(sandbox_process):
        full_dataset.make(people)
        keys = itertools.cycle(factories.make_key(user)[1] for user in people.values())
        config = copy.deepcopy(CONFIG) | {"auth": {}}
        served = schemathesis.openapi.from_url(
            f"{live_server.url}/api/v1/openapi.json", config=SchemathesisConfig.from_dict(config)
        )
        called = 0
        for result in served.get_all_operations():
            operation = result.ok()  # type: ignore[union-attr]

            @seed(called)
            @settings(max_examples=2, database=None, deadline=None, suppress_health_check=list(HealthCheck))
            @given(case=operation.as_strategy())
            def ask(case: Any) -> None:
                case.call_and_validate(headers={"Authorization": f"Bearer {next(keys)}"})

            ask()
            called += 1
    assert called == len([method for path in api.get_openapi_schema()["paths"].values() for method in path])
