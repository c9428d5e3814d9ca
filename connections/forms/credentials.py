"""The form for a client secret or certificate. Secrets are never rendered back."""

from collections.abc import Collection
from typing import Any

from django import forms
from django.core.files.uploadedfile import UploadedFile
from django.utils import timezone

from connections.errors import InvalidInput
from connections.microsoft import certificates
from connections.validators import ExpiryField, NameField, SecretValueField

SECRET, GENERATE, UPLOAD = "secret", "generate", "upload"
# The required fields of each kind, each with the error shown if it is missing.
REQUIRED = {
    SECRET: {
        "secret": "Paste the Value of the client secret.",
        "expires_at": "Enter the day on which the secret expires, as Entra shows it.",
    },
    GENERATE: {"months": f"Enter for how many months, from 1 to {certificates.MOST_MONTHS}."},
    UPLOAD: {"certificate_file": "Choose the file with the certificate."},
}
_ALL_REQUIRED = {name: sentence for fields in REQUIRED.values() for name, sentence in fields.items()}
MAX_UPLOAD = 100_000  # bytes; a certificate with its key takes a few thousand


class CertificateFileField(forms.FileField):
    """A small file; cleaned to its content as bytes."""

    def clean(self, data: Any, initial: Any = None) -> bytes:
        upload = super().clean(data, initial)
        if not isinstance(upload, UploadedFile):
            return b""
        if (upload.size or 0) > MAX_UPLOAD:
            raise forms.ValidationError("This file is too large to be a certificate with its key.")
        return bytes(upload.read())


class CredentialForm(forms.Form):
    # Otherwise the browser would insist on the fields of the kinds that are not chosen.
    use_required_attribute = False

    kind = forms.ChoiceField(
        label="Credential",
        choices=(
            (SECRET, "Client secret"),
            (GENERATE, "Certificate made by the portal"),
            (UPLOAD, "Certificate of your own"),
        ),
        initial=SECRET,
        widget=forms.RadioSelect(attrs={"class": "form-check-input"}),
    )
    label = NameField(required=False, help_text="To tell several credentials apart, for example “until March 2027”.")
    secret = SecretValueField(
        label="Value of the client secret",
        required=False,
        help_text="The column Value in Entra, not the Secret ID. It is stored encrypted and never shown again.",
    )
    expires_at = ExpiryField(
        label="Expires", required=False, help_text="The column Expires in Entra; the portal reminds you in time."
    )
    months = forms.IntegerField(
        label="Valid for months",
        required=False,
        min_value=1,
        max_value=certificates.MOST_MONTHS,
        initial=12,
        error_messages={"invalid": f"Enter a whole number from 1 to {certificates.MOST_MONTHS}."},
    )
    certificate_file = CertificateFileField(
        label="Certificate file", required=False, help_text="PFX, or PEM with the certificate and its private key."
    )
    key_file = CertificateFileField(
        label="Private key file", required=False, help_text="Only when the key is in a PEM file of its own."
    )
    file_password = forms.CharField(
        label="Password of the file",
        required=False,
        strip=False,
        max_length=500,
        widget=forms.PasswordInput(render_value=False, attrs={"autocomplete": "new-password"}),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.is_bound:
            self._require(_ALL_REQUIRED)

    def full_clean(self) -> None:
        """Require only the fields of the chosen kind."""
        self._require(REQUIRED.get(self.data.get(self.add_prefix("kind"), ""), {}))
        super().full_clean()
        # A field with required=False is labelled as optional. All of these are mandatory, so require them again.
        self._require(_ALL_REQUIRED)

    def _require(self, names: Collection[str]) -> None:
        for name, sentence in _ALL_REQUIRED.items():
            self.fields[name].required = name in names
            self.fields[name].error_messages["required"] = sentence

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
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
