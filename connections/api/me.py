from datetime import datetime
from typing import Annotated, Any

from django.http import HttpRequest
from ninja import Router, Schema
from pydantic import Field

from connections.api import authentication, key_scoping
from connections.api.connections import Named
from connections.api.field_types import AsText, listed
from connections.models import ApiKey
from connections.services.api_keys import api_keys

router = Router(tags=["This key"])


class KeyOut(Schema):
    """An API key, without the key itself."""

    name: str
    prefix: str = Field(description="The first part of the key, by which the portal lists it.")
    scopes: list[Annotated[ApiKey.Scope, listed(ApiKey.Scope)]]
    owner: AsText
    owner_username: str = Field(validation_alias="owner.username")
    created_at: datetime
    expires_at: datetime | None
    networks: list[str] = Field(description="Where it may be used from; empty: anywhere.")
    only_chosen: bool = Field(description="Whether it reaches chosen connections alone.")
    connections: list[Named] = Field(description="Those it is limited to, if it is.")
    rate_limit: int = Field(description="Calls in a minute; 0: no limit.")

    @staticmethod
    def resolve_connections(key: ApiKey) -> Any:
        if not key.only_chosen:
            return []
        return authentication.visible_connections(key).order_by("name", "pk").values("id", "name")[:200]

    @staticmethod
    def resolve_rate_limit(key: ApiKey) -> int:
        return api_keys.rate_limit_of(key)


@router.get("/me", response=KeyOut, summary="Read this key")
def read_me(request: HttpRequest) -> Any:
    """The calling key: what it may be used for, and as whom."""
    return key_scoping.any_scope(request, *ApiKey.Scope)
