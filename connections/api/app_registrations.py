"""App registrations and their credentials. Secrets are accepted but never returned."""

import base64
import binascii
from datetime import datetime
from typing import Annotated, Any, Literal

from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.utils import timezone
from ninja import FilterLookup, Query, Router, Schema, Status
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
    ObjectId,
    RequestSchema,
    SecretValue,
    Text,
    listed,
)
from connections.api.hrefs import link_to, with_location
from connections.api.idempotency import idempotent
from connections.api.key_scoping import RegistryOnly, Scope
from connections.api.pagination import PageQuery, page, page_of
from connections.errors import InvalidInput
from connections.microsoft import certificates
from connections.models import ApiKey, AppCredential, AppRegistration
from connections.services.registry import app_registrations, credential_checks, credentials, issuer

router = Router(tags=["App registrations"])
Audience = Annotated[AppRegistration.Audience, listed(AppRegistration.Audience)]
Kind = Annotated[AppCredential.Kind, listed(AppCredential.Kind)]
COLUMNS = (
    "name",
    "audience",
    "allows_delegated",
    "allows_app_only",
    "default_capabilities",
    "object_id",
    "renews_credentials",
)
LONGEST_FILE = 150_000  # characters of a certificate file encoded as base64


class AppOut(Schema):
    """An app registration in Entra. Members get only the fields they need to connect; the others are null."""

    id: int
    name: str
    tenant_id: int
    client_id: Annotated[str | None, RegistryOnly] = Field(description="The application (client) ID.")
    audience: Annotated[Audience | None, RegistryOnly]
    allows_delegated: bool
    allows_app_only: bool
    default_capabilities: list[str] = Field(description="Default capabilities for new connections.")
    object_id: Annotated[str | None, RegistryOnly] = Field(description="The application's object ID. Empty: not known.")
    renews_credentials: Annotated[bool | None, RegistryOnly] = Field(
        description="Whether the portal renews its secrets and certificates, if the policy allows it."
    )
    is_ready: bool = Field(description="Whether Microsoft accepted its credentials and has not rejected them since.")
    rejected_cause: Annotated[str | None, RegistryOnly] = Field(
        description="Why Microsoft rejects it. Empty if it doesn't."
    )
    rejected_action: Annotated[str | None, RegistryOnly]
    verified_at: Annotated[datetime | None, RegistryOnly]
    rejected_at: Annotated[datetime | None, RegistryOnly]
    link: Annotated[str, link_to("app")] = Field(validation_alias="pk")


class AppQuery(PageQuery):
    q: Annotated[Text, FilterLookup("name__icontains")] = Field("", max_length=100, description="Part of the name.")
    tenant_id: int | None = Field(None, ge=1, le=2**53, description="Only those in this tenant.")
    allows: Literal["delegated", "app_only"] | None = Field(
        None, description="Only those that allow this connection type."
    )

    def filter_allows(self, kind: str | None) -> Q:
        return Q(**{f"allows_{kind}": True})


class CredentialOut(Schema):
    """A client secret, certificate or federated credential, without its secret part."""

    id: int
    kind: Kind
    label: str
    hint: str = Field(description="The first characters of a client secret, as Entra shows them.")
    thumbprint: str = Field(description="SHA-256 of a certificate.")
    certificate: str = Field(description="The public part of a certificate (PEM). Upload it to Entra.")
    source: str = Field(description="Who issues a federated credential's token: portal or file. Empty for other kinds.")
    issuer: str = Field(description="Enter it in Entra for a federated credential of the portal. Empty for others.")
    subject: str = Field(description="Likewise.")
    audience: str = Field(description="Likewise.")
    expires_at: datetime | None
    verified_at: datetime | None = Field(description="When Microsoft last accepted it.")
    rejected_at: datetime | None
    created_at: datetime

    @staticmethod
    def resolve_issuer(row: AppCredential) -> str:
        return _trust(row).issuer

    @staticmethod
    def resolve_subject(row: AppCredential) -> str:
        return _trust(row).subject

    @staticmethod
    def resolve_audience(row: AppCredential) -> str:
        return _trust(row).audience


def _trust(credential: AppCredential) -> issuer.Trust:
    is_own = credential.source == AppCredential.Source.PORTAL
    return issuer.trust_of(credential) if is_own else issuer.Trust("", "", "")


FileContent = Annotated[
    Text, WithJsonSchema({"type": "string", "format": "password", "writeOnly": True, "maxLength": LONGEST_FILE})
]


class CredentialIn(RequestSchema):
    """A credential to add. Each kind requires different fields."""

    kind: Literal["secret", "generate", "upload", "federated", "token_file"] = Field(
        description="secret: a client secret. generate: a certificate generated by the portal. upload: your own "
        "certificate. federated: no secret, Entra trusts the portal. token_file: no secret, Entra trusts the identity "
        "of the portal's server.",
        examples=["secret"],
    )
    label: Label = ""
    secret: SecretValue | None = Field(None, examples=["the-value-from-Entra"])
    expires_at: Moment | None = Field(None, description="When the client secret expires, as Entra shows it.")
    months: Number | None = Field(
        None, le=certificates.MOST_MONTHS, description="Validity of the generated certificate, in months."
    )
    certificate: FileContent | None = Field(
        None, max_length=LONGEST_FILE, description="PEM with certificate and private key, or a PFX file in base64."
    )
    password: FileContent | None = Field(
        None, max_length=500, description="The password of the PFX file or private key."
    )


class AppIn(RequestSchema):
    tenant_id: Number = Field(description="The tenant's ID.", examples=[1])
    name: Name
    client_id: ClientId
    audience: Audience = AppRegistration.Audience.SINGLE
    allows_delegated: Flag = True
    allows_app_only: Flag = False
    default_capabilities: Capabilities = Field([], examples=[["mail.read"]])
    credential: CredentialIn | None = Field(
        None, description="The first credential. It is tested with Microsoft first."
    )
    allow_untried: Flag = Field(False, description="Save it untested if Microsoft can't be reached.")


class AppChanges(ChangeSchema):
    """Changes to an app registration. You can't change its tenant and client ID."""

    name: Name | None = None
    audience: Audience | None = None
    allows_delegated: Flag | None = None
    allows_app_only: Flag | None = None
    default_capabilities: Capabilities | None = None
    object_id: ObjectId | None = Field(None, description="Needed to renew certificates. Empty: not known.")
    renews_credentials: Flag | None = Field(None, description="Whether the portal renews secrets and certificates.")


class CredentialAdded(CredentialIn):
    allow_untried: Flag = Field(False, description="Save it untested if Microsoft can't be reached.")


@router.get("/app-registrations", response=page_of(AppOut), summary="List app registrations")
def list_app_registrations(request: HttpRequest, query: Query[AppQuery]) -> Any:
    """All app registrations, ordered by name."""
    key = key_scoping.unlimited(request, Scope.ADMIN_READ)
    return page(querysets.visible_app_registrations(key.owner), query, order=("name", "pk"))


@router.post(
    "/app-registrations", response={201: AppOut} | problems.responses(404, 503), summary="Add an app registration"
)
@idempotent(Scope.ADMIN_WRITE)
def add_app_registration(request: HttpRequest, response: HttpResponse, body: AppIn) -> Any:
    """Add an app registration. Its first credential is tested with Microsoft. If it is rejected, nothing is saved."""
    key = key_scoping.unlimited(request, Scope.ADMIN_WRITE)
    key_scoping.manage_registry(key)
    tenant = get_object_or_404(querysets.visible_tenants(key.owner), pk=body.tenant_id)
    app = app_registrations.register(
        tenant,
        **body.model_dump(exclude={"tenant_id", "credential"}),
        credential=_new_credential(body.credential, body.name, "credential.") if body.credential else None,
        actor=key.owner,
    )
    with_location(response, "read_app_registration", app_id=app.pk)
    return Status(201, etags.tag(response, app, COLUMNS))


@router.get("/app-registrations/{int:app_id}", response=AppOut, summary="Get an app registration")
def read_app_registration(request: HttpRequest, response: HttpResponse, app_id: int) -> Any:
    """One app registration."""
    key = key_scoping.unlimited(request, Scope.ADMIN_READ)
    return _tagged(response, key, app_id)


@router.patch("/app-registrations/{int:app_id}", response=AppOut, summary="Change an app registration")
def change_app_registration(request: HttpRequest, response: HttpResponse, app_id: int, body: AppChanges) -> Any:
    """Change an app registration. You can't turn off an authentication type while connections use it."""
    key, app = key_scoping.managed_app(request, app_id)
    with etags.lock_matching(request, app, COLUMNS) as current:
        values = body.over(**{name: getattr(current, name) for name in COLUMNS})
        app_registrations.change(current, **values, actor=key.owner)
    return _tagged(response, key, app_id)


@router.delete(
    "/app-registrations/{int:app_id}",
    response={204: None} | problems.responses(409, 412),
    summary="Remove an app registration",
)
def remove_app_registration(request: HttpRequest, app_id: int) -> Any:
    """Delete an app registration and its credentials. It must not have any connections."""
    key, app = key_scoping.managed_app(request, app_id)
    with etags.lock_matching(request, app, COLUMNS) as current:
        app_registrations.remove(current, actor=key.owner)
    return Status(204, None)


@router.post(
    "/app-registrations/{int:app_id}/verify",
    response={200: AppOut} | problems.responses(503),
    summary="Test an app registration",
)
@idempotent(Scope.ADMIN_WRITE)
def verify_app_registration(request: HttpRequest, response: HttpResponse, app_id: int) -> Any:
    """Test all credentials now. If Microsoft accepts one, the app registration and its connections work again."""
    key, app = key_scoping.managed_app(request, app_id)
    credential_checks.verify(app, actor=key.owner)
    return _tagged(response, key, app_id)


@router.get("/app-registrations/{int:app_id}/credentials", response=page_of(CredentialOut), summary="List credentials")
def list_credentials(request: HttpRequest, app_id: int, query: Query[PageQuery]) -> Any:
    """The credentials in use, without retired ones."""
    key, app = key_scoping.key_and_object(request, querysets.visible_app_registrations, app_id, Scope.ADMIN_READ)
    roles.require(permissions.can_read_registry(key.owner), action="Ask an IT admin.")
    return page(_active_credentials(app), query)


@router.post(
    "/app-registrations/{int:app_id}/credentials",
    response={201: CredentialOut} | problems.responses(503),
    summary="Add a credential",
)
@idempotent(Scope.ADMIN_WRITE)
def add_credential(request: HttpRequest, app_id: int, body: CredentialAdded) -> Any:
    """Add a credential that Microsoft accepts. It is used first. The others stay in use until you retire them."""
    key, app = key_scoping.managed_app(request, app_id)
    new = _new_credential(body, app.name)
    return Status(201, credentials.add(app, new, actor=key.owner, allow_untried=body.allow_untried))


@router.delete(
    "/app-registrations/{int:app_id}/credentials/{int:credential_id}",
    response={204: None},
    summary="Retire a credential",
)
def retire_credential(request: HttpRequest, app_id: int, credential_id: int) -> None:
    """Stop using a credential and delete its secret part. Without a credential, the portal can't refresh tokens."""
    key, app = key_scoping.managed_app(request, app_id)
    credentials.retire(get_object_or_404(_active_credentials(app), pk=credential_id), actor=key.owner)


def _tagged(response: HttpResponse, key: ApiKey, app_id: int) -> AppRegistration:
    app = get_object_or_404(querysets.visible_app_registrations(key.owner), pk=app_id)
    return etags.tag(response, app, COLUMNS)


def _active_credentials(app: AppRegistration) -> QuerySet[AppCredential]:
    active = app.credentials.filter(retired_at=None).select_related("app_registration__tenant")
    return active.defer("secret", "private_key")


def _new_credential(body: CredentialIn, name: str, prefix: str = "") -> credentials.NewCredential:
    """Return the credential to add. Raises InvalidInput with the name of the invalid field, which starts with
    ``prefix``.
    """
    required = {"secret": ("secret",), "generate": ("months",), "upload": ("certificate",)}.get(body.kind, ())
    for field in required:
        if getattr(body, field) is None:
            raise InvalidInput(f"A credential of the kind “{body.kind}” needs {field}.", field=f"{prefix}{field}")
    if body.kind == "secret" and body.expires_at is not None and body.expires_at <= timezone.now():
        raise InvalidInput("This date is in the past, so the secret has expired.", field=f"{prefix}expires_at")
    values = body.model_dump()
    if body.kind == "upload":
        try:
            values["pair"] = certificates.read(
                _decode_file(body.certificate or ""), key_data=b"", password=body.password or "", now=timezone.now()
            )
        except InvalidInput as error:
            error.field = f"{prefix}{'password' if error.field == 'file_password' else 'certificate'}"
            raise
    return credentials.credential_from_form(values, name=name)


def _decode_file(text: str) -> bytes:
    """Return the bytes of a certificate file. PEM is returned unchanged; anything else is decoded from base64 (PFX
    files).
    """
    if "-----BEGIN" in text:
        return text.encode()
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput("The file is neither PEM nor base64.") from error
