from typing import Any

from django.http import HttpRequest
from ninja import Router

from connections.access import permissions, roles
from connections.api import authentication
from connections.api.connections import ConnectionOut
from connections.api.field_types import RequestSchema, Tags
from connections.api.key_scoping import Scope
from connections.services.connections import tags

router = Router(tags=["Connections"])


class TagsIn(RequestSchema):
    tags: Tags


@router.put("/connections/{ref}/tags", response=ConnectionOut, summary="Replace a connection's tags")
def replace_tags(request: HttpRequest, ref: str, body: TagsIn) -> Any:
    """Give the connection exactly these tags. Its owner, people who can manage it and IT admins may do so."""
    key, connection = authentication.key_and_connection(request, Scope.CONNECTIONS_WRITE, ref)
    roles.require(permissions.can_tag(key.owner, connection), action="Ask its owner or an IT admin.")
    tags.replace(connection, body.tags, actor=key.owner)
    return authentication.find_connection(key, str(connection.pk))
