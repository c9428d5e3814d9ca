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
from django.utils import timezone
from django.utils.text import slugify
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from connections.access import permissions, querysets, roles
from connections.errors import MicrosoftRefused
from connections.forms import credentials as credential_forms
from connections.forms.credentials import CredentialForm, ExpiryForm
from connections.fresh_sign_in import fresh_sign_in_required
from connections.microsoft import certificates, credential_expiry
from connections.models import AppCredential, AppRegistration, Connection, User
from connections.services.expiry import credential_expiry as credential_expiry_service
from connections.services.expiry import forecast, renewal_rules
from connections.services.registry import credential_checks, credentials, issuer
from connections.views.form_handling import done, errors_as_messages, errors_on, get_visible

TRUST_FIRST = "Federated credential was added. Create it in Entra with the values below, then select “Test”."
UPLOAD_FIRST = (
    "Certificate was generated. Download the public part, upload it to Entra, then select “Test certificate”."
)

EXPIRES_SOON = timedelta(days=30)
_SECRETS_OF_RENEWALS = ("old__secret", "old__private_key", "new__secret", "new__private_key")

# The field that shows errors about the credential itself, by kind.
_FIELDS = {credential_forms.SECRET: "secret", credential_forms.UPLOAD: "certificate_file"}
# What must be done in Entra after a credential was added that the portal can't test yet.
NEXT_STEPS = {AppCredential.Kind.CERTIFICATE: UPLOAD_FIRST, AppCredential.Kind.FEDERATED: TRUST_FIRST}


@dataclass(frozen=True, slots=True)
class CredentialRow:
    credential: AppCredential
    certificate: certificates.CertificateDetails | None
    days_left: int | None
    is_waiting: bool  # whether it still has to be added in Entra
    replaced_by: AppCredential | None  # a newer, accepted credential that expires later
    trust: issuer.Trust | None  # only of an active federated credential that uses the portal's own keys

    @property
    def warns(self) -> bool:
        """Whether a credential that is still needed has expired or expires within 30 days."""
        if self.credential.retired_at is not None or self.replaced_by is not None:
            return False
        return self.days_left is not None and self.days_left <= EXPIRES_SOON.days

    @property
    def remaining(self) -> str:
        if self.credential.kind == AppCredential.Kind.FEDERATED:
            return "Never expires"
        if self.days_left is None:
            return "No expiration date"
        if self.days_left < 0:
            return "expired"
        if self.days_left == 0:
            return "Less than 1 day left"
        return f"{self.days_left} day{'' if self.days_left == 1 else 's'} left"


def panel(app: AppRegistration, now: datetime) -> dict[str, Any]:
    credential_rows = rows(app, now)
    live = [row.credential for row in credential_rows if row.credential.retired_at is None]
    return {
        "credentials": credential_rows,
        "lasting": forecast.credential_lifetime(live),
        "first": next((credential for credential in live if forecast.is_usable(credential)), None),
        "rejected": [credential for credential in live if credential.rejected_at is not None],
        "dates_are_read": any(credential.expiry_read_at for credential in live),
        "permission": credential_expiry.PERMISSION,
        "renewal": app.renewals.select_related("old", "new").defer(*_SECRETS_OF_RENEWALS).first(),
        "is_renewed": bool(renewal_rules.renewed_by_portal([app], now=now)),
    }


def rows(app: AppRegistration, now: datetime) -> list[CredentialRow]:
    """Return the active credentials in the order in which they are tried, followed by the retired ones."""
    own = app.credentials.select_related("app_registration__tenant").defer("secret", "private_key")
    credentials = own.order_by("retired_at", "-created_at", "-pk")
    live = credential_checks.in_trial_order(credential for credential in credentials if credential.retired_at is None)
    retired = [credential for credential in credentials if credential.retired_at is not None]
    return [
        CredentialRow(
            credential,
            certificates.read_details(credential.certificate) if credential.certificate else None,
            (credential.expires_at - now).days if credential.expires_at else None,
            credential.retired_at is None and credential_checks.awaits_upload(credential),
            forecast.successor(credential, live),
            issuer.trust_of(credential) if _uses_own_keys(credential) else None,
        )
        for credential in [*live, *retired]
    ]


def _uses_own_keys(credential: AppCredential) -> bool:
    return credential.retired_at is None and credential.source == AppCredential.Source.PORTAL


def managed_app(request: HttpRequest, pk: int) -> tuple[User, AppRegistration]:
    """Return the user and the app registration. Raises Http404, or NotAllowed unless the user is an IT admin."""
    user, app = get_visible(request, querysets.visible_app_registrations, pk)
    roles.require(permissions.can_manage_registry(user))
    return user, app


@require_http_methods(["GET", "HEAD", "POST"])
@fresh_sign_in_required(also_to_read=True)
def add(request: HttpRequest, pk: int) -> HttpResponse:
    """Add a credential and keep the existing ones. The newest credential that Microsoft accepts is used first."""
    user, app = managed_app(request, pk)
    form = CredentialForm(request.POST or None, request.FILES or None, environment=app.tenant.environment)
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
                return redirect("app", pk=pk)
    return render(request, "apps/credentials/add.html", {"form": form, "app": app, "can_skip": can_skip})


@require_POST
@fresh_sign_in_required()
def next_certificate(request: HttpRequest, pk: int) -> HttpResponse:
    """Generate the next certificate in advance. The current one stays in use until Microsoft accepts the new one."""
    user, app = managed_app(request, pk)
    credential = credentials.next_certificate(app, actor=user)
    messages.info(request, f"{credential} is ready. Until Microsoft accepts it, the current credential stays in use.")
    return redirect(f"{reverse('app', args=[pk])}#credentials")


@require_http_methods(["GET", "HEAD", "POST"])
@fresh_sign_in_required(also_to_read=True)
def retire(request: HttpRequest, pk: int, credential_pk: int) -> HttpResponse:
    user = roles.current_user(request.user)
    app, credential = _get(user, pk, credential_pk)
    roles.require(permissions.can_manage_registry(user))
    if request.method == "POST":
        credentials.retire(credential, actor=user)
        return done(request, f"{credential} was retired. Its secret part was deleted.", "app", pk=pk)
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


@require_POST
def expiry(request: HttpRequest, pk: int, credential_pk: int) -> HttpResponse:
    """Save the expiration date of a secret that was added without one."""
    user = roles.current_user(request.user)
    _, credential = _get(user, pk, credential_pk)
    roles.require(permissions.can_manage_registry(user))
    form = ExpiryForm(request.POST)
    if not form.is_valid():
        messages.warning(request, " ".join(map(str, form.errors["expires_at"])))
    else:
        with errors_as_messages(request):
            credential_expiry_service.enter(credential, form.cleaned_data["expires_at"], actor=user, now=timezone.now())
            messages.success(request, f"The expiration date of {credential} was saved.")
    return redirect(f"{reverse('app', args=[pk])}#credentials")


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
    headers = {"Content-Disposition": f'attachment; filename="{name}.{extension}"'}
    return HttpResponse(content, content_type=content_type, headers=headers)


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
    elif credential.kind in NEXT_STEPS:
        messages.info(request, NEXT_STEPS[AppCredential.Kind(credential.kind)])
    else:
        text = "The credential is saved but not tested, because Microsoft couldn't be reached. Test it later."
        messages.warning(request, text)


def _get(user: User, pk: int, credential_pk: int) -> tuple[AppRegistration, AppCredential]:
    app = get_object_or_404(querysets.visible_app_registrations(user), pk=pk)
    credentials = app.credentials.defer("secret", "private_key").select_related("app_registration")
    return app, get_object_or_404(credentials, pk=credential_pk)
