"""Credentials for Microsoft's own SDKs, which get their tokens from the portal instead of Entra.

PortalCredential has the interface of azure-core's ``TokenCredential``, and AsyncPortalCredential that of its
``AsyncTokenCredential``. azure-core is used if it is installed, but is not required.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from m365_portal.errors import WrongResource
from m365_portal.portal import Portal, Ref
from m365_portal.things import Token

#: The resource of the portal's tokens: Microsoft Graph in Microsoft's clouds.
#: Source: https://learn.microsoft.com/graph/deployments
GRAPH_RESOURCES = (
    "https://graph.microsoft.com",
    "https://graph.microsoft.us",
    "https://dod-graph.microsoft.us",
    "https://microsoftgraph.chinacloudapi.cn",
    "00000003-0000-0000-c000-000000000000",
)


class _AccessToken(NamedTuple):
    """Replaces azure-core's AccessToken if azure-core is not installed."""

    token: str
    expires_on: int


class _AccessTokenInfo:
    """Replaces azure-core's AccessTokenInfo if azure-core is not installed."""

    def __init__(
        self,
        token: str,
        expires_on: int,
        *,
        token_type: str = "Bearer",  # noqa: S107
        refresh_on: int | None = None,
    ) -> None:
        self.token, self.expires_on, self.token_type, self.refresh_on = token, expires_on, token_type, refresh_on


class _Credential:
    def __init__(
        self,
        connection: Ref,
        portal: Portal | None = None,
        *,
        min_valid: float = 300,
        resources: Iterable[str] = GRAPH_RESOURCES,
    ) -> None:
        self._owns_portal = portal is None
        self._portal = portal or Portal()
        self._connection, self._min_valid = connection, min_valid
        self._resources = frozenset(_normal(resource) for resource in resources)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._connection!r} of {self._portal.url}>"

    def _resource(self, scopes: tuple[str, ...]) -> str:
        """Return the requested resource, "" for Graph; the permissions depend on the connection alone."""
        wanted = ""
        for scope in scopes:
            resource = scope.rpartition("/")[0]
            if resource and _normal(resource) not in self._resources:
                raise WrongResource(
                    f"This credential has no tokens for {resource}.",
                    action="Request https://graph.microsoft.com/.default, or name the resource in `resources`.",
                    who="caller",
                )
            if resource.startswith("https://") and _normal(resource) not in GRAPH_RESOURCES:
                wanted = _normal(resource)
        return wanted

    def _token(self, claims: str | None, resource: str) -> Token:
        # Claims mean that Graph has just rejected the token (continuous access evaluation), so do not reuse it.
        return self._portal.token(self._connection, resource=resource, min_valid=self._min_valid, fresh=bool(claims))

    def _close(self) -> None:
        if self._owns_portal:
            self._portal.close()


class PortalCredential(_Credential):
    """A ``TokenCredential`` that provides one connection's tokens. It is thread-safe.

    ``connection`` is the connection's number or name, and ``portal`` defaults to a client configured by the
    environment. ``resources`` are the addresses for which tokens may be requested: Graph's, and for example
    ``https://management.azure.com``, if the connection has access to it. ``get_token`` raises PortalError;
    see Portal.token().
    """

    def get_token(
        self,
        *scopes: str,
        claims: str | None = None,
        tenant_id: str | None = None,
        enable_cae: bool = False,
        **options: Any,
    ) -> Any:
        """Return an ``AccessToken``. ``tenant_id`` and ``enable_cae`` have no effect. Raises WrongResource."""
        return _as_access_token(self._token(claims, self._resource(scopes)))

    def get_token_info(self, *scopes: str, options: Any = None) -> Any:
        """Return an ``AccessTokenInfo``. Only ``claims`` in ``options`` has an effect."""
        return _as_info(self._token((options or {}).get("claims"), self._resource(scopes)), self._min_valid)

    def close(self) -> None:
        """Close the portal's client if the credential created it."""
        self._close()

    def __enter__(self) -> PortalCredential:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        problem: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        self._close()


class AsyncPortalCredential(_Credential):
    """PortalCredential as an ``AsyncTokenCredential``; requests run in a thread, so the event loop is not blocked."""

    async def get_token(
        self,
        *scopes: str,
        claims: str | None = None,
        tenant_id: str | None = None,
        enable_cae: bool = False,
        **options: Any,
    ) -> Any:
        """Return an ``AccessToken``; see PortalCredential."""
        return _as_access_token(await self._token_async(claims, self._resource(scopes)))

    async def get_token_info(self, *scopes: str, options: Any = None) -> Any:
        """Return an ``AccessTokenInfo``. Only ``claims`` in ``options`` has an effect."""
        claims, resource = (options or {}).get("claims"), self._resource(scopes)
        return _as_info(await self._token_async(claims, resource), self._min_valid)

    async def _token_async(self, claims: str | None, resource: str) -> Token:
        kept = None
        if not claims:
            kept = self._portal.kept_token(self._connection, resource=resource, min_valid=self._min_valid)
        return kept if kept is not None else await asyncio.to_thread(self._token, claims, resource)

    async def close(self) -> None:
        """Close the portal's client if the credential created it."""
        self._close()

    async def __aenter__(self) -> AsyncPortalCredential:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        problem: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        self._close()


def _normal(resource: str) -> str:
    """Return a resource without its port, in lower case, for comparison."""
    parts = urlsplit(resource.rstrip("/").lower())
    return f"{parts.scheme}://{parts.hostname}{parts.path}" if parts.hostname else resource.rstrip("/").lower()


def _as_access_token(token: Token) -> Any:
    try:
        from azure.core.credentials import AccessToken
    except ImportError:
        return _AccessToken(token.access_token, int(token.expires_at.timestamp()))
    return AccessToken(token.access_token, int(token.expires_at.timestamp()))


def _as_info(token: Token, min_valid: float) -> Any:
    ends = int(token.expires_at.timestamp())
    try:
        from azure.core.credentials import AccessTokenInfo
    except ImportError:
        return _AccessTokenInfo(token.access_token, ends, refresh_on=ends - int(min_valid))
    return AccessTokenInfo(token.access_token, ends, refresh_on=ends - int(min_valid))
