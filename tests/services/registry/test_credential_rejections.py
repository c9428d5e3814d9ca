"""A credential that Microsoft refuses looks refused at once, and accepted again as soon as Microsoft accepts it."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from connections import presentation
from connections.errors import MicrosoftRefused
from connections.microsoft import certificates
from connections.microsoft.classifier import classify
from connections.models import AppCredential, AppRegistration, AuditEvent, Connection
from connections.services.registry import credential_checks
from connections.services.tokens import apply_results, batch_client, batch_results, scheduler
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories

pytestmark = pytest.mark.django_db

NOW = timezone.now()
REFUSED = classify(where="token", status=401, headers=None, body='{"error":"invalid_client","error_codes":[7000215]}')


def due_connection(sandbox: Control, **overrides: Any) -> Connection:
    return factories.make_granted_connection(sandbox, refresh_after=NOW - timedelta(minutes=1), **overrides)


def credential() -> Any:
    return AppCredential.objects.defer("secret", "private_key").get()


def test_the_only_credential_looks_rejected_at_once(sandbox: Control) -> None:
    due_connection(sandbox)
    sandbox.remove_secret(factories.CLIENT_ID, seed.CONNECTIONS_SECRET_ID)
    scheduler.sweep(now=NOW)
    after = credential()
    assert (after.rejected_at, after.rejected_code) == (NOW, "AADSTS7000215")
    assert presentation.badge(after).word == "Rejected by Microsoft"
    assert AuditEvent.objects.filter(action="credential.rejected").count() == 1


def test_a_credential_refused_in_the_middle_of_a_batch_looks_rejected_at_once(sandbox: Control) -> None:
    connection = due_connection(sandbox)
    answers = batch_results.RefreshBatchResult(connection.app_consent, rejected=[(credential(), REFUSED)])
    apply_results.apply([answers], now=NOW)
    assert credential().rejected_at == NOW


def test_the_same_batch_cannot_reject_and_accept_a_credential(sandbox: Control) -> None:
    due_connection(sandbox)
    credential_checks.credential_refused(credential(), REFUSED, now=NOW)
    (answers,) = batch_client.request_tokens(scheduler.claim(now=NOW, limit=10))
    assert answers.accepted is not None
    answers.rejected.append((answers.accepted, REFUSED))
    apply_results.apply([answers], now=NOW)
    assert credential().rejected_at == NOW


def test_it_looks_accepted_again_as_soon_as_microsoft_accepts_it(sandbox: Control) -> None:
    due_connection(sandbox)
    credential_checks.credential_refused(credential(), REFUSED, now=NOW)
    credential_checks.reject_app(AppRegistration.objects.get(), REFUSED, now=NOW)
    scheduler.sweep(now=NOW + timedelta(minutes=2))
    assert AppRegistration.objects.get().rejected_at is None
    assert credential().rejected_at is None
    assert AuditEvent.objects.filter(action="credential.accepted").count() == 1


def test_a_certificate_that_still_waits_for_its_upload_is_not_called_rejected(sandbox: Control) -> None:
    due_connection(sandbox)
    pair = certificates.generate("Robots", months=12, now=NOW)
    app = AppRegistration.objects.get()
    waiting = AppCredential.objects.create(
        app_registration=app, kind="certificate", private_key=pair.private_key, certificate=pair.certificate,
        thumbprint=pair.thumbprint, expires_at=pair.expires_at,
    )  # fmt: skip
    sandbox.remove_secret(factories.CLIENT_ID, seed.CONNECTIONS_SECRET_ID)
    scheduler.sweep(now=NOW)
    waiting = AppCredential.objects.defer("secret", "private_key").get(pk=waiting.pk)
    assert credential_checks.awaits_upload(waiting)
    assert app.credentials.get(kind="secret").rejected_at == NOW


def test_a_refusal_says_which_certificate_is_not_valid_yet(sandbox: Control) -> None:
    later = NOW + timedelta(days=3)
    pair = certificates.generate("Robots", months=12, now=later)
    app = factories.make_app_registration(secret=None)
    AppCredential.objects.create(
        app_registration=app, kind="certificate", private_key=pair.private_key, certificate=pair.certificate,
        thumbprint=pair.thumbprint, expires_at=pair.expires_at, verified_at=NOW,
    )  # fmt: skip
    reason = f"The certificate {pair.thumbprint[:8]} is not valid before"
    with pytest.raises(MicrosoftRefused, match=reason):
        credential_checks.verify(app, actor=None)
    app.refresh_from_db()
    assert reason in app.rejected_cause
