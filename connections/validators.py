"""Input checks for forms, the API, configuration files and commands. Values may be pasted from Microsoft's portals."""

import re
import unicodedata
import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django import forms
from django.conf import settings
from django.utils import timezone

from connections import domain_names, mail_addresses
from connections.errors import InvalidInput
from connections.microsoft import capabilities
from connections.microsoft.clouds import is_guid
from connections.models.app_registrations import AuthenticationType
from connections.models.tenants import SHARED_ENDPOINTS
from connections.outbound import safe_http

NAME_LENGTH = 120
REASON_LENGTH = 2000
MOST_MAILBOXES = 20
MOST_TAGS, TAG_LENGTH = 10, 40  # tags of a connection; characters of a tag
# The format that browsers send. Others are ambiguous: in Entra, 03/04/2027 is the 3rd of April or the 4th of March.
ISO_DATE = ["%Y-%m-%d"]
LATEST_DAY = date(9000, 12, 31)  # leaves room below the last date that Python supports
# What happens to the old account's tokens if a connection gets a new owner.
KEEP, CUT = "keep", "cut"
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad"
_QUOTES = "\"'`“”„‘’«»"
_URL = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE | re.ASCII)
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


def strip_pasted(text: str) -> str:
    """Return a pasted value without invisible characters, surrounding white space and quotes."""
    return strip_invisible(text).strip().strip(_QUOTES).strip()


def strip_invisible(text: str) -> str:
    return text.translate(dict.fromkeys(map(ord, _INVISIBLE)))


class PastedField(forms.CharField):
    def to_python(self, value: Any) -> str:
        return strip_pasted(super().to_python(value) or "")

    def widget_attrs(self, widget: forms.Widget) -> dict[str, Any]:
        return {**super().widget_attrs(widget), "autocomplete": "off", "spellcheck": "false", "autocapitalize": "none"}


class GuidField(PastedField):
    """An ID from Microsoft. Cleaned to lower case without braces. ``what`` is its name in error messages."""

    def __init__(self, *, what: str, **kwargs: Any) -> None:
        self.what = what
        # This leaves room for stray spaces. Longer text is reported as "not an ID".
        super().__init__(max_length=500, **kwargs)

    def to_python(self, value: Any) -> str:
        text = super().to_python(value).strip("{}()").lower()
        if not text:
            return ""
        if _URL.match(text):
            raise forms.ValidationError(
                f"This is a full address. Enter only the {self.what}, which looks like "
                "00000000-0000-0000-0000-000000000000."
            )
        if is_guid(text):
            return text
        if re.fullmatch(r"[0-9a-f]{32}", text):
            return str(uuid.UUID(text))
        raise forms.ValidationError(
            f"This isn't a valid {self.what}. Copy it from the Overview page in Entra. It looks like "
            "00000000-0000-0000-0000-000000000000."
        )


class DirectoryField(PastedField):
    """A directory: a GUID, a verified domain or a shared endpoint. Cleaned to lower case."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_length=500, **kwargs)

    def to_python(self, value: Any) -> str:
        pasted = super().to_python(value).strip("{}").rstrip(".")
        text = pasted.lower()
        if not text or text in SHARED_ENDPOINTS or is_guid(text):
            return text
        if _URL.match(text) or "/" in text:
            raise forms.ValidationError(
                "This is a full address. Enter only the directory (tenant) ID, which looks like "
                "00000000-0000-0000-0000-000000000000, or the domain, such as contoso.com."
            )
        if "@" in text:
            raise forms.ValidationError(
                f"This is an email address. Enter the part after the @: {text.rpartition('@')[2]}."
            )
        if re.fullmatch(r"[0-9a-f-]{30,40}", text):
            raise forms.ValidationError(
                "This directory ID is incomplete or too long. It looks like 00000000-0000-0000-0000-000000000000."
            )
        if "." not in text:
            raise forms.ValidationError(
                "Enter the directory (tenant) ID or the full domain, such as contoso.com or contoso.onmicrosoft.com."
            )
        try:
            domain = domain_names.to_ascii(pasted)  # as in Microsoft's URLs
        except UnicodeError:
            domain = ""
        if not domain or len(domain) > 253 or not all(map(_LABEL.fullmatch, domain.split("."))):
            raise forms.ValidationError(
                "This isn't a domain name. Enter the directory (tenant) ID from the Overview page in Entra, or a domain "
                "like contoso.com."
            )
        return domain


class NameField(forms.CharField):
    """A display name in any script. It is trimmed, and has single spaces and no control characters."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"max_length": NAME_LENGTH} | kwargs)

    def to_python(self, value: Any) -> str:
        text = unicodedata.normalize("NFC", super().to_python(value) or "")
        text = " ".join(text.translate(dict.fromkeys(map(ord, "\u200b\u2060\ufeff\u00ad"))).split())
        # Category Cf includes marks that reverse the direction of text and can make names look like others.
        if any(
            unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co") and letter not in "\u200c\u200d" for letter in text
        ):
            raise forms.ValidationError(
                "The name contains invisible control characters. Type it instead of pasting it."
            )
        return text


class SecretValueField(forms.CharField):
    """The value of a client secret. It is never shown again. The ID of a secret is rejected."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("widget", forms.PasswordInput(render_value=False, attrs={"autocomplete": "new-password"}))
        super().__init__(max_length=500, strip=False, **kwargs)

    def to_python(self, value: Any) -> str:
        text = strip_pasted(super().to_python(value) or "")
        if not text:
            return ""
        if is_guid(text.strip("{}")):
            raise forms.ValidationError(
                "This is the Secret ID. Enter the Value instead. You can copy it in Entra, under Certificates & secrets, "
                "only right after the secret was created."
            )
        if _URL.match(text) or any(letter.isspace() or not letter.isprintable() for letter in text):
            raise forms.ValidationError(
                "Client secrets contain no spaces or line breaks. Enter only the Value from Entra."
            )
        if "*" in text and set(text[3:]) == {"*"}:
            raise forms.ValidationError(
                "Entra shows only the beginning of this secret. Create a new one there and copy its Value."
            )
        return text


class ExpiryField(forms.DateField):
    """The day on which a secret expires, as shown in Entra. Cleaned to the beginning of that day in UTC."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("widget", forms.DateInput(format="%Y-%m-%d", attrs={"type": "date"}))
        kwargs.setdefault("input_formats", ISO_DATE)
        errors = {"invalid": "Enter the date as year-month-day, for example 2027-03-31."}
        super().__init__(error_messages=errors, **kwargs)

    def clean(self, value: Any) -> datetime | None:
        day: date | None = super().clean(value)
        if day is None:
            return None
        today = timezone.now().date()
        if day <= today:
            raise forms.ValidationError(
                "This secret has expired. Create a new one in Entra and enter its expiration date."
            )
        if day.year > today.year + 100:
            raise forms.ValidationError("This date is too far in the future. Enter the date in Entra's Expires column.")
        return datetime.combine(day, time.min, UTC)


class LastDayField(forms.DateField):
    """The last valid day (UTC), which must not be in the past. Cleaned to the end of that day."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(widget=forms.DateInput(attrs={"type": "date"}), input_formats=ISO_DATE, **kwargs)

    def clean(self, value: Any) -> datetime | None:
        day: date | None = super().clean(value)
        if day is not None and day < timezone.now().date():
            raise forms.ValidationError("Choose today or a future date.")
        return end_of_day(day) if day else None


class AddressField(PastedField):
    """A pasted mail address. Cleaned to the bare address, with its domain in lower case."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("label", "Address")
        kwargs.setdefault("error_messages", {"required": "Enter the address of the shared mailbox."})
        super().__init__(max_length=500, **kwargs)

    def to_python(self, value: Any) -> str:
        text = super().to_python(value)
        if not text:
            return ""
        try:
            return mail_addresses.parse(text)
        except InvalidInput as wrong:
            raise forms.ValidationError(wrong.cause) from wrong


class WriteOnlyInput(forms.TextInput):
    """Accepts a value but never shows one, because the address of a chat webhook is like a password."""

    def format_value(self, value: Any) -> None:
        return None


class TargetField(PastedField):
    """The URL that alerts are sent to. Its target is checked when it is saved and at each use."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("label", "Address (URL)")
        super().__init__(max_length=2000, widget=WriteOnlyInput(attrs={"inputmode": "url"}), **kwargs)

    def to_python(self, value: Any) -> str:
        text = super().to_python(value)
        if not text:
            return ""
        try:
            return safe_http.parse_target(text, allow_private=settings.ALERT_PRIVATE_TARGETS).url
        except safe_http.TargetRefused as refused:
            raise forms.ValidationError(str(refused)) from refused


class TagsField(forms.CharField):
    """Tags separated by commas. Cleaned to a tuple."""

    def __init__(self, **kwargs: Any) -> None:
        help_text = f"Separate tags with commas. Up to {MOST_TAGS}."
        # This leaves room for spaces. parse_tags reports tags that are too long, and too many tags.
        defaults: dict[str, Any] = {"label": "Tags", "max_length": 2000, "help_text": help_text}
        super().__init__(**defaults | kwargs)

    def clean(self, value: Any) -> tuple[str, ...]:
        try:
            return parse_tags(super().clean(value).split(","))
        except InvalidInput as wrong:
            raise forms.ValidationError(str(wrong)) from wrong


def parse_tags(names: Iterable[str]) -> tuple[str, ...]:
    """Return the tags in lower case, trimmed, sorted and without duplicates. Raises InvalidInput (field ``tags``)."""
    tags = {" ".join(unicodedata.normalize("NFKC", strip_invisible(name)).lower().split()) for name in names} - {""}
    for tag in tags:
        if len(tag) > TAG_LENGTH:
            raise InvalidInput(f"A tag can have up to {TAG_LENGTH} characters.", field="tags")
        if "," in tag or any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co") for letter in tag):
            raise InvalidInput("Tags can't contain commas or control characters.", field="tags")
    if len(tags) > MOST_TAGS:
        raise InvalidInput(f"A connection can have up to {MOST_TAGS} tags.", field="tags")
    return tuple(sorted(tags))


def end_of_day(day: date) -> datetime:
    """Return the first moment after a day (UTC). Days after LATEST_DAY are treated like LATEST_DAY."""
    return datetime.combine(min(day, LATEST_DAY) + timedelta(days=1), time.min, UTC)


def capability_errors(chosen: Sequence[str], extra_scopes: Sequence[str], authentication_type: str) -> list[str]:
    """Return sentences on why a connection of this type cannot have the chosen capabilities; [] if it can."""
    if not chosen and not extra_scopes:
        return ["Choose at least one capability."]
    sentences = []
    for key in chosen:
        capability = capabilities.CAPABILITIES[key]
        app_only = authentication_type == AuthenticationType.CLIENT_CREDENTIALS
        reason = capability.no_application if app_only else capability.no_delegated
        if reason and not capabilities.needs(capability, authentication_type):
            sentences.append(f"{capability.label}: {reason}")
    return sentences
