"""Pages about client secrets and certificates. No page ever shows a secret."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from django import forms
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.text import slugify
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from connections.access import permissions, querysets, roles
from connections.errors import MicrosoftRefused
from connections.forms import credentials as credential_forms
from connections.forms.credentials import CredentialForm
from connections.microsoft import certificates, credential_expiry
from connections.models import AppCredential, AppRegistration, Connection, User
from connections.services.expiry import forecast
from connections.services.registry import credential_checks, credentials
from connections.views.form_handling import errors_on, get_visible

UPLOAD_FIRST = "The certificate is made. Download its public part, upload it in Entra, then press “I uploaded it”."

EXPIRES_SOON = timedelta(days=30)

# For each kind, the field that shows errors about the credential itself.
_FIELDS = {credential_forms.SECRET: "secret", credential_forms.UPLOAD: "certificate_file"}


@dataclass(frozen=True, slots=True)
class CredentialRow:
    """One row in the table of credentials."""

    credential: AppCredential
    certificate: certificates.CertificateDetails | None
    days_left: int | None
    is_waiting: bool  # for its upload to Entra
    replaced_by: AppCredential | None  # a newer, accepted credential that expires later

    @property
    def warns(self) -> bool:
        """Whether the credential is still needed and has expired or expires within 30 days."""
        if self.credential.retired_at is not None or self.replaced_by is not None:
            return False
        return self.days_left is not None and self.days_left <= EXPIRES_SOON.days

    @property
    def remaining(self) -> str:
        if self.days_left is None:
            return "no expiry date known"
        if self.days_left < 0:
            return "expired"
        if self.days_left == 0:
            return "less than a day left"
        return f"{self.days_left} day{'' if self.days_left == 1 else 's'} left"


def panel(app: AppRegistration, now: datetime) -> dict[str, Any]:
    """Return the context for apps/credentials/_panel.html."""
    credential_rows = rows(app, now)
    live = [row.credential for row in credential_rows if row.credential.retired_at is None]
    return {
        "credentials": credential_rows,
        "lasting": forecast.credential_lifetime(live),
        "first": next((credential for credential in live if forecast.is_usable(credential)), None),
        "rejected": [credential for credential in live if credential.rejected_at is not None],
        "dates_are_read": any(credential.expiry_read_at for credential in live),
        "permission": credential_expiry.PERMISSION,
    }


def rows(app: AppRegistration, now: datetime) -> list[CredentialRow]:
    """List the live credentials in the order they are tried, followed by the retired ones."""
    credentials = app.credentials.defer("secret", "private_key").order_by("retired_at", "-created_at", "-pk")
    live = credential_checks.in_trial_order(credential for credential in credentials if credential.retired_at is None)
    retired = [credential for credential in credentials if credential.retired_at is not None]
    return [
        CredentialRow(
            credential,
            certificates.read_details(credential.certificate) if credential.certificate else None,
            (credential.expires_at - now).days if credential.expires_at else None,
            credential.retired_at is None and credential_checks.awaits_upload(credential),
            forecast.successor(credential, live),
        )
        for credential in [*live, *retired]
    ]


def managed_app(request: HttpRequest, pk: int) -> tuple[User, AppRegistration]:
    """Return the user, who must be an IT admin, and the app registration. Raises Http404 or NotAllowed."""
    user, app = get_visible(request, querysets.visible_app_registrations, pk)
    roles.require(permissions.can_manage_registry(user))
    return user, app


@require_http_methods(["GET", "HEAD", "POST"])
def add(request: HttpRequest, pk: int) -> HttpResponse:
    """Add a credential without removing the existing ones. The newest credential Microsoft accepts is used first."""
    user, app = managed_app(request, pk)
    form = CredentialForm(request.POST or None, request.FILES or None)
    can_skip = False
    if form.is_valid():
        new = credentials.credential_from_form(form.cleaned_data, name=app.name)
        with errors_on(form):
            try:
                credential = credentials.add(app, new, actor=user, allow_untried="save_untried" in request.POST)
            except MicrosoftRefused as error:
                can_skip = error.status == 503
                show_refusal(error, form)
            else:
                _report_added(request, credential)
                return redirect("app", pk)
    return render(request, "apps/credentials/add.html", {"form": form, "app": app, "can_skip": can_skip})


@require_POST
def next_certificate(request: HttpRequest, pk: int) -> HttpResponse:
    """Generate the next certificate in advance; the current one stays in use."""
    user, app = managed_app(request, pk)
    credential = credentials.next_certificate(app, actor=user)
    messages.info(request, f"{credential} is ready. Until Microsoft has accepted it, everything goes on as before.")
    return redirect(f"{reverse('app', args=[pk])}#credentials")


@require_http_methods(["GET", "HEAD", "POST"])
def retire(request: HttpRequest, pk: int, credential_pk: int) -> HttpResponse:
    user = roles.current_user(request.user)
    app, credential = _get(user, pk, credential_pk)
    roles.require(permissions.can_manage_registry(user))
    if request.method == "POST":
        credentials.retire(credential, actor=user)
        messages.success(request, f"{credential} is retired and its secret part deleted.")
        return redirect("app", pk)
    others = app.credentials.filter(retired_at=None).exclude(pk=credential.pk).defer("secret", "private_key")
    accepted = [
        other for other in others if other.verified_at and forecast.is_usable(other) and not other.has_expired()
    ]
    context = {
        "app": app,
        "credential": credential,
        "others": list(others),
        "next": next(iter(credential_checks.in_trial_order(accepted)), None),
        "waiting": app.connections.exclude(status=Connection.Status.DISABLED).count(),
    }
    return render(request, "apps/credentials/retire.html", context)


@require_safe
def certificate(request: HttpRequest, pk: int, credential_pk: int) -> HttpResponse:
    """Download the public part of a certificate as DER (.cer), or as PEM with ``?format=pem``."""
    user = roles.current_user(request.user)
    app, credential = _get(user, pk, credential_pk)
    roles.require(permissions.can_read_registry(user))
    if not credential.certificate:
        raise Http404
    name = f"{slugify(app.name) or 'app'}-{credential.thumbprint[:8].lower()}"
    content, extension, content_type = credential.certificate.encode(), "pem", "application/x-pem-file"
    if request.GET.get("format") != "pem":
        content = x509.load_pem_x509_certificate(content).public_bytes(Encoding.DER)
        extension, content_type = "cer", "application/pkix-cert"
    response = HttpResponse(content, content_type=content_type)
    response["Content-Disposition"] = f'attachment; filename="{name}.{extension}"'
    return response


def show_refusal(error: MicrosoftRefused, form: CredentialForm, app_form: forms.Form | None = None) -> None:
    """Show Microsoft's error next to the field it concerns."""
    if app_form is not None and error.field in app_form.fields:
        app_form.add_error(error.field, str(error))
        return
    field = _FIELDS.get(form.cleaned_data.get("kind", "")) if error.field == "credential" else None
    form.add_error(field, str(error))


def _report_added(request: HttpRequest, credential: AppCredential) -> None:
    if credential.verified_at:
        messages.success(request, "Microsoft accepts the new credential.")
    elif credential.kind == AppCredential.Kind.CERTIFICATE:
        messages.info(request, UPLOAD_FIRST)
    else:
        text = "The credential is saved but not tried yet, because Microsoft could not be asked. Try it later."
        messages.warning(request, text)


def _get(user: User, pk: int, credential_pk: int) -> tuple[AppRegistration, AppCredential]:
    app = get_object_or_404(querysets.visible_app_registrations(user), pk=pk)
    credentials = app.credentials.defer("secret", "private_key").select_related("app_registration")
    return app, get_object_or_404(credentials, pk=credential_pk)
