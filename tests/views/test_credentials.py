"""Pages about credentials: adding and retiring them, and downloading the public part."""

from datetime import timedelta

from cryptography import x509
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from connections.microsoft import certificates
from connections.models import AppCredential, AppRegistration, AuditEvent, User
from connections.services.registry import credential_checks, credentials
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories
from tests.services.registry.test_app_registrations import expired
from tests.views.pages import assert_shows, text


def test_a_new_secret_heals_a_rejected_application(admin: Client, sandbox: Control) -> None:
    app = factories.make_app_registration(secret="stale~value")
    credential_checks.reject_app(app, expired(), now=timezone.now())
    value = sandbox.add_secret(seed.CONNECTIONS_APP)["value"]
    typed = {"kind": "secret", "secret": value, "expires_at": "2099-01-01", "label": "until 2099"}
    page = text(admin.post(reverse("credential_add", args=[app.pk]), typed, follow=True))
    assert_shows(page, "Microsoft accepts the new credential", "until 2099")
    assert value not in page
    assert factories.reloaded(app).is_ready


def test_a_pfx_file_is_uploaded_and_tried(admin: Client, sandbox: Control) -> None:
    from tests.microsoft.test_certificates import pfx

    app = factories.make_app_registration(secret=None, client_id=seed.ROBOTS_APP)
    pair = certificates.generate("Robots", months=6, now=timezone.now())
    sandbox.add_certificate(seed.ROBOTS_APP, pair.certificate)
    url, sent = reverse("credential_add", args=[app.pk]), {"kind": "upload", "file_password": "wrong"}
    file = SimpleUploadedFile("robots.pfx", pfx(pair, b"open sesame"))
    page = text(admin.post(url, sent | {"certificate_file": file}))
    assert "password is wrong" in page
    assert "open sesame" not in page
    file.seek(0)
    admin.post(url, sent | {"certificate_file": file, "file_password": "open sesame"})
    assert AppCredential.objects.get().thumbprint == pair.thumbprint


def test_an_upload_that_is_far_too_large_is_refused(admin: Client, sandbox: Control) -> None:
    app = factories.make_app_registration(secret=None)
    file = SimpleUploadedFile("film.pfx", b"\x30" * 200_000)
    page = admin.post(reverse("credential_add", args=[app.pk]), {"kind": "upload", "certificate_file": file})
    assert "too large for a certificate" in page.content.decode()


def test_retiring_says_what_will_break_and_keeps_the_row_for_the_record(admin: Client, app: AppRegistration) -> None:
    factories.make_connection(app_registration=app)
    url = reverse("credential_retire", args=[app.pk, app.credentials.get().pk])
    page = text(admin.get(url))
    assert_shows(page, "This is the last credential", "1 connection will stop")
    assert AppCredential.objects.filter(retired_at=None).exists()
    page = text(admin.post(url, follow=True))
    assert "Retired" in page
    assert AppCredential.objects.get().secret is None


def test_the_table_warns_in_words_before_a_credential_expires(admin: Client) -> None:
    app = factories.make_app_registration(secret=None)
    now = timezone.now()
    for days in (-3, 5, 200):
        factories.make_secret(app, f"x{days}~value", label=f"in {days}", expires_at=now + timedelta(days=days, hours=1))
    page = text(admin.get(reverse("app", args=[app.pk])))
    assert_shows(page, "> expired <", "5 days left", "200 days left", "Expires soon")


def test_the_public_part_of_a_certificate(
    admin: Client, auditor: Client, member: Client, alice: User, app: AppRegistration
) -> None:
    credential = credentials.add_generated_certificate(app, actor=alice)
    url = reverse("credential_certificate", args=[app.pk, credential.pk])
    assert x509.load_der_x509_certificate(auditor.get(url).content)
    assert "PRIVATE" not in admin.get(url, {"format": "pem"}).content.decode()
    assert member.get(url).status_code == 403
    secret = app.credentials.exclude(pk=credential.pk).get()
    assert admin.get(reverse("credential_certificate", args=[app.pk, secret.pk])).status_code == 404


def test_a_credential_of_another_application_is_not_found(admin: Client) -> None:
    first = factories.make_app_registration()
    second = factories.make_app_registration(name="Other", client_id=seed.MULTI_APP)
    foreign = second.credentials.get()
    for name in ("credential_retire", "credential_certificate"):
        assert admin.get(reverse(name, args=[first.pk, foreign.pk])).status_code == 404
    assert admin.post(reverse("app_verify", args=[first.pk]), {"credential": foreign.pk}).status_code == 404
    assert factories.reloaded(foreign).retired_at is None


def test_a_secret_without_a_date_asks_for_it_and_is_on_the_expirations_page(
    admin: Client, auditor: Client, app: AppRegistration
) -> None:
    credential = app.credentials.get()
    app.credentials.update(expires_at=None)
    assert_shows(text(admin.get("/expiries/")), "No expiration date is recorded", "Test secret")
    assert 'name="expires_at"' in text(admin.get(f"/apps/{app.pk}/"))
    assert 'name="expires_at"' not in text(auditor.get(f"/apps/{app.pk}/"))

    path = f"/apps/{app.pk}/credentials/{credential.pk}/expiry/"
    assert "has expired" in text(admin.post(path, {"expires_at": "2020-01-01"}, follow=True))
    day = (timezone.now() + timedelta(days=90)).date().isoformat()
    assert "was saved" in text(admin.post(path, {"expires_at": day}, follow=True))
    assert factories.reloaded(credential).expires_at is not None
    assert AuditEvent.objects.get(action="credential.expiry_entered").changes["expires_at"][1].startswith(day)
    # A second date would silently replace the first one.
    assert "has an expiration date" in text(admin.post(path, {"expires_at": day}, follow=True))
    assert "No expiration date is recorded" not in text(admin.get("/expiries/"))
