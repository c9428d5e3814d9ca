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

router = Router(tags=["API key"])


class KeyOut(Schema):
    """An API key, without the key itself."""

    name: str
    prefix: str = Field(description="The first part of the key, as shown in the portal.")
    scopes: list[Annotated[ApiKey.Scope, listed(ApiKey.Scope)]]
    owner: AsText
    owner_username: str = Field(validation_alias="owner.username")
    created_at: datetime
    expires_at: datetime | None
    networks: list[str] = Field(description="The networks it can be used from. Empty: anywhere.")
    can_narrow: bool = Field(description="Whether it can request tokens with fewer permissions, with `scope`.")
    only_chosen: bool = Field(description="Whether it is limited to selected connections.")
    connections: list[Named] = Field(description="The connections it is limited to.")
    rate_limit: int = Field(description="Calls per minute. 0: no limit.")

    @staticmethod
    def resolve_connections(key: ApiKey) -> Any:
        if not key.only_chosen:
            return []
        return authentication.visible_connections(key).order_by("name", "pk").values("id", "name")[:200]

    @staticmethod
    def resolve_rate_limit(key: ApiKey) -> int:
        return api_keys.rate_limit_of(key)


@router.get("/me", response=KeyOut, summary="Get the calling API key")
def read_me(request: HttpRequest) -> Any:
    """The calling key: its owner, its scopes and its limits."""
    return key_scoping.any_scope(request, *ApiKey.Scope)
