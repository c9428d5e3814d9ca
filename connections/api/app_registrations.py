"""App registrations and their credentials over the API. What is secret goes in and never comes out."""

from __future__ import annotations

import base64
import binascii
from datetime import datetime
from typing import Annotated, Any, Literal

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.utils import timezone
from ninja import Query, Router, Schema, Status
from pydantic import Field, WithJsonSchema

from connections.access import permissions, querysets, roles
from connections.api import etags, key_scoping, problems
from connections.api.field_types import (
    Capabilities,
    ChangeSchema,
    ClientId,
    Flag,
    Label,
    Moment,
    Name,
    Number,
    RequestSchema,
    SecretValue,
    Text,
    listed,
)
from connections.api.hrefs import page_link, with_location
from connections.api.idempotency import idempotent
from connections.api.key_scoping import Scope
from connections.api.pagination import Page, PageQuery, matching, page
from connections.errors import InvalidInput
from connections.microsoft import certificates
from connections.models import ApiKey, AppCredential, AppRegistration
from connections.services.registry import app_registrations, credential_checks, credentials

router = Router(tags=["App registrations"])
Audience = Annotated[AppRegistration.Audience, listed(AppRegistration.Audience)]
Kind = Annotated[AppCredential.Kind, listed(AppCredential.Kind)]
COLUMNS = ("name", "audience", "allows_delegated", "allows_app_only", "default_capabilities")
LONGEST_FILE = 150_000  # characters of a certificate file in base64


class AppOut(Schema):
    """An application in Entra. Members of the portal read what they need to connect; the rest is then null."""

    id: int
    name: str
    tenant_id: int
    client_id: str | None = Field(description="The application (client) ID.")
    audience: Audience | None
    allows_delegated: bool
    allows_app_only: bool
    default_capabilities: list[str] = Field(description="What connections usually need.")
    is_ready: bool = Field(description="Whether Microsoft accepted its credentials and has not rejected them since.")
    rejected_cause: str | None = Field(description="Why Microsoft rejects it; empty if it does not.")
    rejected_action: str | None
    verified_at: datetime | None
    rejected_at: datetime | None
    link: str


class AppPage(Page):
    """One page of app registrations."""

    items: list[AppOut]


class AppsWanted(PageQuery):
    """Which app registrations."""

    q: Text = Field("", max_length=100, description="Part of the name.")
    tenant_id: int | None = Field(None, ge=1, le=2**53, description="Only those of this tenant.")
    allows: Literal["delegated", "app_only"] | None = Field(None, description="Only those for such connections.")


class CredentialOut(Schema):
    """A client secret or certificate. Its secret part is never given out."""

    id: int
    kind: Kind
    label: str
    hint: str = Field(description="The first characters of a client secret, as Entra shows them.")
    thumbprint: str = Field(description="SHA-256 of a certificate.")
    certificate: str = Field(description="The public part of a certificate, PEM; upload it in Entra.")
    expires_at: datetime | None
    verified_at: datetime | None = Field(description="When Microsoft last accepted it.")
    rejected_at: datetime | None
    created_at: datetime


class CredentialPage(Page):
    """One page of credentials."""

    items: list[CredentialOut]


FileContent = Annotated[
    Text,
    WithJsonSchema({"type": "string", "format": "password", "writeOnly": True, "maxLength": LONGEST_FILE}),
]


class CredentialIn(RequestSchema):
    """A credential to be added. Each kind needs fields of its own."""

    kind: Literal["secret", "generate", "upload"] = Field(
        description="secret: a client secret. generate: a certificate made by the portal. upload: one of your own.",
        examples=["secret"],
    )
    label: Label = ""
    secret: SecretValue | None = Field(None, examples=["the-value-from-Entra"])
    expires_at: Moment | None = Field(None, description="When the client secret expires, as Entra shows it.")
    months: Number | None = Field(None, le=certificates.MOST_MONTHS, description="How long the generated one is valid.")
    certificate: FileContent | None = Field(
        None, max_length=LONGEST_FILE, description="PEM with certificate and private key, or a PFX file in base64."
    )
    password: FileContent | None = Field(None, max_length=500, description="Of the PFX file or the private key.")


class AppIn(RequestSchema):
    """An app registration to be made."""

    tenant_id: Number = Field(description="Number of the tenant it is used in.", examples=[1])
    name: Name
    client_id: ClientId
    audience: Audience = AppRegistration.Audience.SINGLE
    allows_delegated: Flag = True
    allows_app_only: Flag = False
    default_capabilities: Capabilities = Field([], examples=[["mail.read"]])
    credential: CredentialIn | None = Field(None, description="Its first credential, tried at Microsoft before all.")
    allow_untried: Flag = Field(False, description="Save it as not tried yet if Microsoft cannot be asked.")


class AppChanges(ChangeSchema):
    """What changes about an app registration; tenant and client ID stay what they are."""

    name: Name | None = None
    audience: Audience | None = None
    allows_delegated: Flag | None = None
    allows_app_only: Flag | None = None
    default_capabilities: Capabilities | None = None


class CredentialAdded(CredentialIn):
    """A credential to be added."""

    allow_untried: Flag = Field(False, description="Save it as not tried yet if Microsoft cannot be asked.")


# --- App registrations ----------------------------------------------------------------------------


@router.get("/app-registrations", response={200: AppPage} | problems.responses(), summary="List app registrations")
def list_app_registrations(request: HttpRequest, wanted: Query[AppsWanted]) -> Any:
    """App registrations in the order of their names."""
    key = key_scoping.unlimited(request, Scope.ADMIN_READ)
    found = querysets.visible_app_registrations(key.owner).filter(matching(wanted.q, "name"))
    if wanted.tenant_id is not None:
        found = found.filter(tenant=wanted.tenant_id)
    if wanted.allows is not None:
        found = found.filter(**{f"allows_{wanted.allows}": True})
    return page(found, wanted, describe=lambda row: describe(row, key), order=("name", "pk"))


@router.post(
    "/app-registrations",
    response={201: AppOut} | problems.responses(404, *problems.CREATING, 503),
    summary="Register an app registration",
)
@idempotent(Scope.ADMIN_WRITE)
def add_app_registration(request: HttpRequest, response: HttpResponse, entry: AppIn) -> Any:
    """The credential is tried at Microsoft first; if Microsoft says no, nothing is stored."""
    key = key_scoping.unlimited(request, Scope.ADMIN_WRITE)
    key_scoping.manage_registry(key)
    tenant = get_object_or_404(querysets.visible_tenants(key.owner), pk=entry.tenant_id)
    made = app_registrations.register(
        tenant,
        **entry.model_dump(exclude={"tenant_id", "credential"}),
        credential=_new(entry.credential, entry.name, "credential.") if entry.credential else None,
        actor=key.owner,
    )
    with_location(response, "read_app_registration", app_id=made.pk)
    etags.tag(response, made, COLUMNS)
    return Status(201, describe(made, key))


@router.get(
    "/app-registrations/{int:app_id}",
    response={200: AppOut} | problems.responses(404),
    summary="Read an app registration",
)
def read_app_registration(request: HttpRequest, response: HttpResponse, app_id: int) -> Any:
    """One app registration."""
    key = key_scoping.unlimited(request, Scope.ADMIN_READ)
    return _told(response, key, app_id)


@router.patch(
    "/app-registrations/{int:app_id}",
    response={200: AppOut} | problems.responses(*problems.CHANGING),
    summary="Change an app registration",
)
def change_app_registration(request: HttpRequest, response: HttpResponse, app_id: int, entry: AppChanges) -> Any:
    """An authentication type cannot be switched off while connections use it."""
    key, found = _managed(request, app_id)
    with etags.lock_matching(request, found, COLUMNS) as current:
        values = entry.over(**{name: getattr(current, name) for name in COLUMNS})
        app_registrations.change(current, **values, actor=key.owner)
    return _told(response, key, app_id)


@router.delete(
    "/app-registrations/{int:app_id}",
    response={204: None} | problems.responses(*problems.REMOVING),
    summary="Remove an app registration",
)
def remove_app_registration(request: HttpRequest, app_id: int) -> Any:
    """Forget it with its credentials, if it has no connections."""
    key, found = _managed(request, app_id)
    with etags.lock_matching(request, found, COLUMNS) as current:
        app_registrations.remove(current, actor=key.owner)
    return Status(204, None)


@router.post(
    "/app-registrations/{int:app_id}/verify",
    response={200: AppOut} | problems.responses(404, *problems.CREATING, 503),
    summary="Try an app registration at Microsoft",
)
@idempotent(Scope.ADMIN_WRITE)
def verify_app_registration(request: HttpRequest, response: HttpResponse, app_id: int) -> Any:
    """Try all its credentials now. If Microsoft accepts one, the registration and its connections are well again."""
    key, found = _managed(request, app_id)
    credential_checks.verify(found, actor=key.owner)
    return _told(response, key, app_id)


# --- Credentials ----------------------------------------------------------------------------------


@router.get(
    "/app-registrations/{int:app_id}/credentials",
    response={200: CredentialPage} | problems.responses(404),
    summary="List credentials",
)
def list_credentials(request: HttpRequest, app_id: int, wanted: Query[PageQuery]) -> Any:
    """The credentials that are in use."""
    key = key_scoping.unlimited(request, Scope.ADMIN_READ)
    app = get_object_or_404(querysets.visible_app_registrations(key.owner), pk=app_id)
    roles.require(permissions.can_read_registry(key.owner), action="Ask an IT admin.")
    return page(_live(app), wanted, describe=describe_credential)


@router.post(
    "/app-registrations/{int:app_id}/credentials",
    response={201: CredentialOut} | problems.responses(404, *problems.CREATING, 503),
    summary="Add a credential",
)
@idempotent(Scope.ADMIN_WRITE)
def add_credential(request: HttpRequest, app_id: int, entry: CredentialAdded) -> Any:
    """It is tried at Microsoft first, and used first once accepted; the others stay until they are retired."""
    key, found = _managed(request, app_id)
    made = credentials.add(found, _new(entry, found.name), actor=key.owner, allow_untried=entry.allow_untried)
    return Status(201, describe_credential(made))


@router.delete(
    "/app-registrations/{int:app_id}/credentials/{int:credential_id}",
    response={204: None} | problems.responses(404),
    summary="Retire a credential",
)
def retire_credential(request: HttpRequest, app_id: int, credential_id: int) -> Any:
    """It is never used again and its secret part is deleted. Retire the last one, and nothing can refresh any more."""
    key, found = _managed(request, app_id)
    credentials.retire(get_object_or_404(_live(found), pk=credential_id), actor=key.owner)
    return Status(204, None)


# --- Parts ----------------------------------------------------------------------------------------


def _managed(request: HttpRequest, app_id: int) -> tuple[ApiKey, AppRegistration]:
    key = key_scoping.unlimited(request, Scope.ADMIN_WRITE)
    app_registration = get_object_or_404(querysets.visible_app_registrations(key.owner), pk=app_id)
    key_scoping.manage_registry(key)
    return key, app_registration


def _told(response: HttpResponse, key: ApiKey, app_id: int) -> dict[str, Any]:
    app_registration = get_object_or_404(querysets.visible_app_registrations(key.owner), pk=app_id)
    etags.tag(response, app_registration, COLUMNS)
    return describe(app_registration, key)


def _live(app: AppRegistration) -> Any:
    mine = app.credentials.filter(retired_at=None).select_related("app_registration")
    return mine.defer("secret", "private_key")


def _new(entry: CredentialIn, name: str, prefix: str = "") -> credentials.NewCredential:
    """The credential an entry asks for. Raises InvalidInput naming the field that is missing."""
    needed = {"secret": ("secret", "expires_at"), "generate": ("months",), "upload": ("certificate",)}[entry.kind]
    for field in needed:
        if getattr(entry, field) is None:
            raise InvalidInput(f"A credential of the kind “{entry.kind}” needs {field}.", field=f"{prefix}{field}")
    if entry.kind == "secret" and entry.expires_at is not None and entry.expires_at <= timezone.now():
        raise InvalidInput("This moment is over, so the secret has expired.", field=f"{prefix}expires_at")
    said = entry.model_dump()
    if entry.kind == "upload":
        try:
            said["pair"] = certificates.read(
                _bytes(entry.certificate or ""), key_data=b"", password=entry.password or "", now=timezone.now()
            )
        except InvalidInput as error:
            error.field = f"{prefix}{'password' if error.field == 'file_password' else 'certificate'}"
            raise
    return credentials.credential_from_form(said, name=name)


def _bytes(text: str) -> bytes:
    """PEM as it is; anything else is a PFX file in base64."""
    if "-----BEGIN" in text:
        return text.encode()
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as wrong:
        raise InvalidInput("This is neither PEM nor base64.") from wrong


def describe(app: AppRegistration, key: ApiKey) -> dict[str, Any]:
    """An app registration as AppOut, as far as the key's owner may read it."""
    shown = key_scoping.reads_registry(key)
    return {
        "id": app.pk,
        "name": app.name,
        "tenant_id": app.tenant_id,
        "client_id": app.client_id if shown else None,
        "audience": app.audience if shown else None,
        "allows_delegated": app.allows_delegated,
        "allows_app_only": app.allows_app_only,
        "default_capabilities": app.default_capabilities,
        "is_ready": app.is_ready,
        "rejected_cause": app.rejected_cause if shown else None,
        "rejected_action": app.rejected_action if shown else None,
        "verified_at": app.verified_at if shown else None,
        "rejected_at": app.rejected_at if shown else None,
        "link": page_link("app", app.pk),
    }


def describe_credential(credential: AppCredential) -> dict[str, Any]:
    """A credential as CredentialOut."""
    columns = ("kind", "label", "hint", "thumbprint", "certificate", "expires_at", "verified_at", "rejected_at")
    shown = {name: getattr(credential, name) for name in columns}
    return {"id": credential.pk, **shown, "created_at": credential.created_at}
