"""Who is calling: the key itself."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from django.http import HttpRequest
from ninja import Router, Schema
from pydantic import Field

from connections.api import authentication, key_scoping, problems
from connections.api.connections import Named
from connections.api.field_types import listed
from connections.models import ApiKey
from connections.services.api_keys import api_keys

router = Router(tags=["This key"])
Scope = Annotated[ApiKey.Scope, listed(ApiKey.Scope)]


class KeyOut(Schema):
    """An API key, without the key itself."""

    name: str
    prefix: str = Field(description="The first part of the key, by which the portal lists it.")
    scopes: list[Scope]
    owner: str
    owner_username: str
    created_at: datetime
    expires_at: datetime | None
    networks: list[str] = Field(description="Where it may be used from; empty: anywhere.")
    only_chosen: bool = Field(description="Whether it reaches chosen connections alone.")
    connections: list[Named] = Field(description="Those it is limited to, if it is.")
    rate_limit: int = Field(description="Calls in a minute; 0: no limit.")


@router.get("/me", response={200: KeyOut} | problems.responses(), summary="Read this key")
def read_me(request: HttpRequest) -> Any:
    """The calling key: what it may be used for, and as whom."""
    key = key_scoping.any_scope(request, *ApiKey.Scope)
    chosen = (
        authentication.visible_connections(key).order_by("name", "pk").values("id", "name")[:200]
        if key.only_chosen
        else []
    )
    columns = ("name", "prefix", "scopes", "created_at", "expires_at", "networks", "only_chosen")
    return {
        **{name: getattr(key, name) for name in columns},
        "owner": str(key.owner),
        "owner_username": key.owner.username,
        "connections": list(chosen),
        "rate_limit": api_keys.rate_limit_of(key),
    }
