"""The form for a credential of an app registration. It never shows a secret again."""

from collections.abc import Collection
from typing import Any

from django import forms
from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.utils import timezone

from connections.errors import InvalidInput
from connections.microsoft import certificates
from connections.services.registry import issuer
from connections.validators import ExpiryField, NameField, SecretValueField

SECRET, GENERATE, UPLOAD = "secret", "generate", "upload"
FEDERATED, TOKEN_FILE = "federated", "token_file"
# The required fields of each kind, with the error for a missing value.
REQUIRED = {
    SECRET: {"secret": "Enter a valid client secret."},
    GENERATE: {"months": f"Enter the number of months, from 1 to {certificates.MOST_MONTHS}."},
    UPLOAD: {"certificate_file": "Choose a certificate file."},
    FEDERATED: {},
    TOKEN_FILE: {},
}
_ALL_REQUIRED = {name: sentence for fields in REQUIRED.values() for name, sentence in fields.items()}
MAX_UPLOAD = 100_000  # bytes; a certificate with its key takes a few thousand


class ExpiryForm(forms.Form):
    """The expiration date of a secret that was added without one."""

    expires_at = ExpiryField(label="Expires on")


class CertificateFileField(forms.FileField):
    """A small file. Cleaned to its content as bytes."""

    def clean(self, data: Any, initial: Any = None) -> bytes:
        upload = super().clean(data, initial)
        if not isinstance(upload, UploadedFile):
            return b""
        if (upload.size or 0) > MAX_UPLOAD:
            raise forms.ValidationError("This file is too large for a certificate. Choose another file.")
        return bytes(upload.read())


class CredentialForm(forms.Form):
    # Otherwise, the browser would require the fields of kinds that are not chosen.
    use_required_attribute = False

    kind = forms.ChoiceField(
        label="Credential",
        choices=(
            (SECRET, "Client secret"),
            (GENERATE, "Generate certificate"),
            (UPLOAD, "Upload certificate"),
        ),
        initial=SECRET,
        widget=forms.RadioSelect(attrs={"class": "form-check-input"}),
    )
    label = NameField(required=False, help_text="To distinguish several credentials, for example “until March 2027”.")
    secret = SecretValueField(
        label="Client secret value",
        required=False,
        help_text="The Value column in Entra, not the Secret ID. It's stored encrypted and won't be shown again.",
    )
    expires_at = ExpiryField(
        label="Expires on",
        required=False,
        help_text="The Expires column in Entra. We email reminders before this date. You can enter it later.",
    )
    months = forms.IntegerField(
        label="Validity (months)",
        required=False,
        min_value=1,
        max_value=certificates.MOST_MONTHS,
        initial=12,
        error_messages={"invalid": f"Enter a whole number from 1 to {certificates.MOST_MONTHS}."},
    )
    certificate_file = CertificateFileField(
        label="Certificate file",
        required=False,
        help_text="A PFX file, or a PEM file with the certificate and its private key.",
    )
    key_file = CertificateFileField(
        label="Private key file", required=False, help_text="Only if the key is in a separate PEM file."
    )
    file_password = forms.CharField(
        label="File password",
        required=False,
        strip=False,
        max_length=500,
        widget=forms.PasswordInput(render_value=False, attrs={"autocomplete": "new-password"}),
    )

    def __init__(self, *args: Any, environment: str = "", **kwargs: Any) -> None:
        """``environment`` is that of the tenant; "" if the tenant is chosen in the same form."""
        super().__init__(*args, **kwargs)
        self.federated_problem = issuer.unavailable_reason(environment)
        self._offer_federated(environment)
        if not self.is_bound:
            self._require(_ALL_REQUIRED)

    def _offer_federated(self, environment: str) -> None:
        """Offer credentials that never expire first, as far as they are available."""
        kind = self.fields["kind"]
        choices = [*self.base_fields["kind"].choices]  # type: ignore[attr-defined]
        if settings.FEDERATED_TOKEN_PATH:
            choices.insert(0, (TOKEN_FILE, "Token file: no secret to expire"))
        if not self.federated_problem or (settings.MICROSOFT_SANDBOX_URL and not environment):
            choices.insert(0, (FEDERATED, "Federated: no secret to expire"))
        kind.choices = choices  # type: ignore[attr-defined]
        if not self.federated_problem:
            kind.initial = FEDERATED

    def full_clean(self) -> None:
        """Require only the fields of the chosen kind."""
        self._require(REQUIRED.get(self.data.get(self.add_prefix("kind"), ""), {}))
        super().full_clean()
        # Fields with required=False are labelled as optional, but all of these are mandatory.
        self._require(_ALL_REQUIRED)

    def _require(self, names: Collection[str]) -> None:
        for name, sentence in _ALL_REQUIRED.items():
            self.fields[name].required = name in names
            self.fields[name].error_messages["required"] = sentence

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        if cleaned.get("secret") and cleaned.get("kind") not in (None, SECRET):
            self.add_error("kind", "You entered a client secret, but chose another credential. Choose one of them.")
        if cleaned.get("kind") == UPLOAD and cleaned.get("certificate_file"):
            cleaned["pair"] = None
            try:
                cleaned["pair"] = certificates.read(
                    cleaned["certificate_file"],
                    key_data=cleaned.get("key_file") or b"",
                    password=cleaned.get("file_password", ""),
                    now=timezone.now(),
                )
            except InvalidInput as error:
                self.add_error(error.field or "certificate_file", str(error))
        return cleaned
