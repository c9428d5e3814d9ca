"""Links on which the owner of a mailbox signs in for a connection."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.http import HttpRequest
from django.utils import timezone
from ninja import Router, Schema
from pydantic import Field

from connections.api import authentication
from connections.api.hrefs import page_link
from connections.api.idempotency import idempotent
from connections.api.key_scoping import Scope
from connections.models import SignInLink
from connections.services.connections import sign_in_links

router = Router(tags=["Connections"])


class SignInLinkOut(Schema):
    """A link that can be sent to the owner of a mailbox, who needs no account in the portal."""

    url: str = Field(description="Whoever opens it sees who asks and for what, and signs in at Microsoft. Works once.")
    expires_at: datetime


@router.post("/connections/{ref}/sign-in-link", response={201: SignInLinkOut}, summary="Make a sign-in link")
@idempotent(Scope.CONNECTIONS_WRITE)
def add_sign_in_link(request: HttpRequest, ref: str) -> Any:
    """A link that lives 30 minutes and works once; an earlier one of the same connection no longer works."""
    key, connection = authentication.key_and_connection(request, Scope.CONNECTIONS_WRITE, ref)
    return link_with_token(*sign_in_links.create(connection, actor=key.owner, now=timezone.now()))


def link_with_token(link: SignInLink, token: str) -> dict[str, Any]:
    """A new link as SignInLinkOut."""
    return {"url": page_link("sign_in_link", token), "expires_at": link.expires_at}
