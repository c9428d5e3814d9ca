"""Pages about client secrets and certificates. None of them ever shows a secret."""

from __future__ import annotations

from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from django import forms
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.text import slugify
from django.views.decorators.http import require_http_methods, require_safe

from connections import access
from connections.errors import MicrosoftRefused, PortalError
from connections.forms import credentials as credential_forms
from connections.forms.credentials import CredentialForm
from connections.models import AppCredential, AppRegistration, User
from connections.services import credentials

UPLOAD_FIRST = "The certificate is made. Download its public part, upload it in Entra, then press “I uploaded it”."
UNTRIED = "The credential is saved but not tried yet, because Microsoft could not be asked. Try it later."

# The form's field for what a service calls an entry.
_FIELDS = {credential_forms.SECRET: "secret", credential_forms.UPLOAD: "certificate_file"}


@require_http_methods(["GET", "HEAD", "POST"])
def add(request: HttpRequest, pk: int) -> HttpResponse:
    """Add a credential beside those there are; the newest one is used first once Microsoft accepts it."""
    user = cast(User, request.user)
    app = get_object_or_404(access.visible_app_registrations(user), pk=pk)
    access.require(access.can_manage_registry(user))
    form = CredentialForm(request.POST or None, request.FILES or None)
    can_skip = False
    if form.is_valid():
        allow_untried = "save_untried" in request.POST
        try:
            made = credentials.add(
                app, credentials.from_entries(form.cleaned_data, name=app.name), actor=user, allow_untried=allow_untried
            )
        except MicrosoftRefused as error:
            can_skip = error.status == 503
            show_refusal(error, form)
        except PortalError as error:
            form.add_error(error.field if error.field in form.fields else None, str(error))
        else:
            report(request, made)
            return redirect("app", app.pk)
    return render(request, "apps/credentials/add.html", {"form": form, "app": app, "can_skip": can_skip})


@require_http_methods(["GET", "HEAD", "POST"])
def retire(request: HttpRequest, pk: int, credential_pk: int) -> HttpResponse:
    """Ask, then retire a credential for good."""
    user = cast(User, request.user)
    app, credential = _found(user, pk, credential_pk)
    access.require(access.can_manage_registry(user))
    if request.method == "POST":
        credentials.retire(credential, actor=user)
        messages.success(request, f"{credential} is retired and its secret part deleted.")
        return redirect("app", app.pk)
    others = app.credentials.filter(retired_at=None).exclude(pk=credential.pk).defer("secret", "private_key")
    context = {
        "app": app,
        "credential": credential,
        "others": list(others),
        "waiting": app.connections.count(),
    }
    return render(request, "apps/credentials/retire.html", context)


@require_safe
def certificate(request: HttpRequest, pk: int, credential_pk: int) -> HttpResponse:
    """Download the public part of a certificate: DER (.cer), or PEM with ``?format=pem``."""
    user = cast(User, request.user)
    app, credential = _found(user, pk, credential_pk)
    access.require(access.can_read_registry(user))
    if not credential.certificate:
        raise Http404
    name = f"{slugify(app.name) or 'app'}-{credential.thumbprint[:8].lower()}"
    if request.GET.get("format") == "pem":
        response = HttpResponse(credential.certificate, content_type="application/x-pem-file")
        response["Content-Disposition"] = f'attachment; filename="{name}.pem"'
        return response
    der = x509.load_pem_x509_certificate(credential.certificate.encode()).public_bytes(Encoding.DER)
    response = HttpResponse(der, content_type="application/pkix-cert")
    response["Content-Disposition"] = f'attachment; filename="{name}.cer"'
    return response


def show_refusal(error: MicrosoftRefused, form: CredentialForm, app_form: forms.Form | None = None) -> None:
    """Put Microsoft's answer next to the entry it speaks of. Secrets are not rendered back: say so."""
    sentence = str(error)
    if app_form is not None and error.field in app_form.fields:
        app_form.add_error(error.field, sentence)
        return
    field = _FIELDS.get(form.cleaned_data.get("kind", "")) if error.field == "credential" else None
    form.add_error(field, sentence)


def report(request: HttpRequest, made: AppCredential) -> None:
    """Say what came of adding a credential."""
    if made.verified_at:
        messages.success(request, "Microsoft accepts the new credential.")
    elif made.kind == AppCredential.Kind.CERTIFICATE:
        messages.info(request, UPLOAD_FIRST)
    else:
        messages.warning(request, UNTRIED)


def _found(user: User, pk: int, credential_pk: int) -> tuple[AppRegistration, AppCredential]:
    app = get_object_or_404(access.visible_app_registrations(user), pk=pk)
    mine = app.credentials.defer("secret", "private_key").select_related("app_registration")
    return app, get_object_or_404(mine, pk=credential_pk)
