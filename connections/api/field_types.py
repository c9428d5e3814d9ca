"""Types of schema fields. Input is validated by the same form fields as on the portal's pages."""

import re
from datetime import date
from typing import Annotated, Any

from django import forms
from django.core.exceptions import ValidationError
from django.db.models import TextChoices
from ninja import Schema
from pydantic import AfterValidator, AwareDatetime, BeforeValidator, ConfigDict, Field, Strict, WithJsonSchema

from connections import validators
from connections.errors import InvalidInput
from connections.microsoft import capabilities, resources
from connections.validators import AddressField


class RequestSchema(Schema):
    """A request body. Unknown fields are rejected, because a misspelt one would otherwise be ignored silently."""

    model_config = ConfigDict(extra="forbid")


class ChangeSchema(RequestSchema):
    """The body of a PATCH request: fields that are not sent keep their values."""

    def over(self, **current: Any) -> dict[str, Any]:
        """Return ``current``, updated with the fields that were sent. A field that was sent as null keeps its current
        value.
        """
        sent = self.model_dump(exclude_unset=True)
        return current | {name: value for name, value in sent.items() if value is not None}


def validated_by(field: forms.Field) -> AfterValidator:
    """Return a validator that cleans a value with a form field and reports errors with the field's messages."""

    def clean(value: Any) -> Any:
        try:
            return field.clean(value)
        except ValidationError as error:
            raise ValueError(" ".join(error.messages)) from error

    return AfterValidator(clean)


def _without_nul(text: str) -> str:
    if "\x00" in text:
        raise ValueError("NUL characters are not allowed.")
    return text


def _permissions(names: list[str]) -> list[str]:
    try:
        return list(capabilities.parse_scopes(" ".join(names)))
    except InvalidInput as error:
        raise ValueError(str(error)) from error


def _known_capabilities(keys: list[str]) -> list[str]:
    unknown = [key for key in keys if key not in capabilities.CAPABILITIES]
    if unknown:
        raise ValueError(
            f"“{unknown[0][:60]}” isn't a valid capability. Use one of: {', '.join(capabilities.CAPABILITIES)}."
        )
    return [key for key in capabilities.CAPABILITIES if key in keys]


def _iso_date(value: Any) -> Any:
    """Reject numbers, which pydantic would read as seconds since 1970."""
    if not isinstance(value, str) or not re.match(r"\d{4}-\d\d-\d\d", value, re.ASCII):
        raise ValueError("Enter the date as YYYY-MM-DD, for example 2027-03-31.")
    return value


def listed(choices: type[TextChoices]) -> WithJsonSchema:
    """Return a JSON schema with the values inline, because several enumerations have the same short name."""
    return WithJsonSchema({"type": "string", "enum": choices.values})


# For responses.
AsText = Annotated[str, BeforeValidator(str)]
Words = Annotated[list[str], BeforeValidator(str.split)]
Sorted = Annotated[list[str], BeforeValidator(sorted)]

# For requests.
Text = Annotated[str, AfterValidator(_without_nul)]
Name = Annotated[
    str,
    validated_by(validators.NameField()),
    Field(
        min_length=1,
        max_length=validators.NAME_LENGTH,
        description="The display name, in any script.",
        examples=["Invoices"],
    ),
]
Label = Annotated[str, validated_by(validators.NameField(required=False)), Field(max_length=validators.NAME_LENGTH)]
ClientId = Annotated[
    str,
    validated_by(validators.GuidField(what="application (client) ID")),
    Field(
        max_length=100, description="The application (client) ID.", examples=["11111111-2222-4333-8444-555555555555"]
    ),
]
ObjectId = Annotated[
    str,
    validated_by(validators.GuidField(what="object ID", required=False)),
    Field(max_length=100, examples=["11111111-2222-4333-8444-555555555555"]),
]
DirectoryId = Annotated[
    str,
    validated_by(validators.DirectoryField()),
    Field(
        min_length=1,
        max_length=260,
        description="Directory (tenant) ID, a verified domain, or organizations, common, consumers.",
        examples=["contoso.com"],
    ),
]
Address = Annotated[
    str,
    validated_by(AddressField()),
    Field(min_length=3, max_length=320, description="An email address.", examples=["support@contoso.com"]),
]
SecretValue = Annotated[
    str,
    validated_by(validators.SecretValueField()),
    Field(min_length=1, max_length=500, description="The Value from Entra, not the Secret ID. Never shown again."),
    WithJsonSchema({"type": "string", "format": "password", "writeOnly": True, "minLength": 1, "maxLength": 500}),
]


Capabilities = Annotated[
    list[str],
    AfterValidator(_known_capabilities),
    WithJsonSchema({"type": "array", "items": {"type": "string", "enum": list(capabilities.CAPABILITIES)}}),
]
Permissions = Annotated[
    list[Text],
    AfterValidator(_permissions),
    Field(
        max_length=100,
        description="Additional permissions, such as Mail.Read for Graph or exchange/SMTP.Send for another API.",
    ),
]


def _hosts(names: list[str]) -> dict[str, str]:
    try:
        return resources.parse_hosts(" ".join(names))
    except InvalidInput as error:
        raise ValueError(str(error)) from error


Hosts = Annotated[
    list[Text],
    AfterValidator(_hosts),
    Field(max_length=10, description="The organisation's SharePoint and Dataverse addresses, if they are needed."),
]


def _tags(names: list[str]) -> list[str]:
    try:
        return list(validators.parse_tags(names))
    except InvalidInput as error:
        raise ValueError(str(error)) from error


Tags = Annotated[
    list[Text],
    AfterValidator(_tags),
    Field(
        max_length=validators.MOST_TAGS,
        description="Free words, stored in lower case.",
        examples=[["finance", "nightly"]],
    ),
]

Flag = Annotated[bool, Strict()]
Number = Annotated[int, Strict(), Field(ge=1, le=2**53)]
Day = Annotated[date, BeforeValidator(_iso_date)]
Moment = Annotated[
    AwareDatetime,
    BeforeValidator(_iso_date),
    Field(description="A time with its time zone.", examples=["2027-03-31T00:00:00Z"]),
]
