"""A worker that is killed while it renews a credential leaves one that works, and the running beat finishes the job."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from connections.microsoft import certificates
from connections.models import AppCredential, AppRegistration, CredentialRenewal, Incident, Policy
from connections.services.expiry import renewal_steps
from connections.services.registry import credentials
from portal.processes import Process
from portal.sandbox.client import Control
from tests import factories
from tests.faults.test_many_workers import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

FAST = {"LOOK_AHEAD_INTERVAL": "3"}


def prepared(sandbox: Control, kind: str) -> tuple[AppRegistration, AppCredential]:
    """An app registration whose only credential expires soon, at Microsoft too, and which may be renewed."""
    Policy.objects.create(rules={"credential_renewal": True})
    (listed,) = at_microsoft(sandbox, "secrets")
    app = factories.make_app_registration(secret=None, renews_credentials=True)
    if kind == "secrets":
        sandbox.set_app(factories.CLIENT_ID, application=["Application.ReadWrite.OwnedBy"])
        sandbox.grant_consent(factories.CLIENT_ID, roles=["Application.ReadWrite.OwnedBy"])
        sandbox.set_owners(factories.CLIENT_ID, [factories.CLIENT_ID])
        expires_at = timezone.now() + timedelta(days=20)
        return app, factories.make_secret(app, expires_at=expires_at, key_id=listed["id"])
    AppRegistration.objects.update(object_id=application(sandbox)["object_id"])
    pair = certificates.generate("old", months=1, now=timezone.now() - timedelta(days=10))
    added = sandbox.add_certificate(factories.CLIENT_ID, pair.certificate)
    sandbox.remove_secret(factories.CLIENT_ID, listed["id"])
    new = credentials.NewCertificate(pair)
    return app, credentials.store(app, new, actor=None, verified_at=timezone.now(), key_id=added["id"])


def application(sandbox: Control) -> dict[str, Any]:
    return next(app for app in sandbox.state()["apps"] if app["client_id"] == factories.CLIENT_ID)


def at_microsoft(sandbox: Control, kind: str) -> list[dict[str, Any]]:
    return list(application(sandbox)[kind])


def in_step(*steps: str) -> Callable[[], bool]:
    return lambda: CredentialRenewal.objects.filter(step__in=steps).exists()


@pytest.mark.parametrize("kind", ["certificates", "secrets"])
def test_the_running_beat_finishes_a_renewal_whose_workers_were_killed(
    sandbox: Control,
    celery_worker: Callable[..., list[Process]],
    celery_beat: Callable[..., list[Process]],
    kind: str,
) -> None:
    app, old = prepared(sandbox, kind)
    sandbox.weather("slow", where="graph", delay_ms=1500)  # so that the worker dies while Microsoft answers
    (victim,) = celery_worker(n=1)
    celery_beat(n=1, **FAST)
    wait_until(lambda: len(at_microsoft(sandbox, kind)) == 2 or in_step("try", "settle")(), seconds=40)
    victim.popen.kill()
    sandbox.weather("normal")
    assert any(renewal_steps.is_accepted(row) for row in app.credentials.live())

    now = timezone.now()  # the lease has expired, and so has the time in which a sent certificate may still appear
    CredentialRenewal.objects.update(due_at=now)
    CredentialRenewal.objects.exclude(sent_at=None).update(sent_at=now - renewal_steps.SEND_AGAIN)
    (second,) = celery_worker(n=1)
    wait_until(in_step("settle"), seconds=40)
    second.popen.kill()
    CredentialRenewal.objects.update(due_at=timezone.now())  # an hour has passed
    celery_worker(n=2)
    wait_until(in_step("done"), seconds=40)

    (new,) = app.credentials.live()
    assert new != old
    assert renewal_steps.is_accepted(new)
    (left,) = at_microsoft(sandbox, kind)
    assert left["id"] == new.key_id
    assert not Incident.objects.exists()
