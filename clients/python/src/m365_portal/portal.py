"""The client for the portal: cached tokens, and the rest of the API for programs."""

from __future__ import annotations

import copy
import os
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Union
from urllib.parse import quote, urlencode

from m365_portal import xoauth2
from m365_portal.errors import AmbiguousName, NotFound, PortalError, Unavailable, UnexpectedAnswer
from m365_portal.key_files import key_of_environment
from m365_portal.things import Connection, Reference, SignInLink, Token, moment
from m365_portal.transport import Answer, Transport

#: A connection's number or name, or a reference's name. Changes need the connection's own number or name.
Ref = Union[int, str]

API = "/api/v1"
LONGEST_MIN_VALID = 3600  # seconds; Microsoft's tokens are valid for 60 to 90 minutes
ASK_AGAIN_AFTER = 15.0  # seconds, while the portal cannot get a token with a longer lifetime
AGENT = "m365-portal-client/1.0"

_Place = tuple[str, str]  # of a cached token: the connection's number or name, and the resource


@dataclass
class _Kept:
    """A cached token, with its expiration by this machine's clock.

    ``requested_at`` is when the portal was last asked for a token valid for ``wanted`` seconds. ``renewed`` means that
    it replaced a token that Microsoft had rejected.
    """

    token: Token
    ends: float
    requested_at: float
    wanted: float
    renewed: bool = False

    def lasts(self, seconds: float) -> bool:
        return self.ends - time.time() >= seconds


@dataclass
class _Flight:
    """One request that several threads are waiting for."""

    done: threading.Event = field(default_factory=threading.Event)
    error: PortalError | None = None


class Portal:
    """A client for one portal with one API key. It is thread-safe; create one and keep it.

    ``url`` defaults to PORTAL_URL, and ``key`` to PORTAL_API_KEY or the content of the file PORTAL_API_KEY_FILE.
    ``timeout`` is the maximum duration of one call, in seconds. ``patience`` is the number of seconds during which
    calls to a busy or restarting portal are retried. ``ca_file`` is a file with certificates (PEM) to trust instead of
    the system's. Raises ConfigurationError if the address or the key cannot be used.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        timeout: float = 30.0,
        patience: float = 60.0,
        ca_file: str | None = None,
        agent: str = AGENT,
    ) -> None:
        self._transport = Transport(
            url if url is not None else os.environ.get("PORTAL_URL", ""),
            key if key is not None else key_of_environment(),
            timeout=timeout,
            ca_file=ca_file,
            agent=agent,
        )
        self._patience = patience
        self._lock = threading.Lock()
        self._kept: dict[_Place, _Kept] = {}
        self._flights: dict[_Place, _Flight] = {}

    @property
    def url(self) -> str:
        """The portal's address."""
        return self._transport.url

    def __repr__(self) -> str:
        return f"<Portal {self.url}>"

    def __enter__(self) -> Portal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Forget the tokens and close all sockets. The client can still be used afterwards."""
        self.forget()
        self._transport.close()

    def token(self, connection: Ref, *, resource: str = "", min_valid: float = 300, fresh: bool = False) -> Token:
        """Return an access token that is valid for at least ``min_valid`` more seconds, from the cache or the portal.

        ``resource`` is what the token is for: graph, exchange, sharepoint, azure, powerbi, dataverse, or the https://
        address of another API. By default, it is the connection's own, usually graph.

        Concurrent calls send only one request to the portal. Set ``fresh`` if Microsoft rejected the cached token: it
        is skipped, unless it has just replaced another rejected token. While Microsoft or the portal is unavailable, a
        token with a shorter lifetime is returned, and its ``trouble`` says why.

        Raises ConnectionUnusable if a person must act, Unavailable if trying again later may help, KeyRefused,
        NotAllowed, NotFound or AmbiguousName.
        """
        if not 0 <= min_valid <= LONGEST_MIN_VALID:
            raise ValueError(f"min_valid must be between 0 and {LONGEST_MIN_VALID} seconds.")
        place = (_name_of(connection), resource)
        refused = self._refuse(place) if fresh else None
        while True:
            kept = self._usable(place, min_valid)
            if kept is not None and (refused is None or kept.access_token != refused.access_token):
                return kept
            with self._lock:
                flight = self._flights.get(place)
                mine = flight is None
                if flight is None:
                    flight = self._flights[place] = _Flight()
            if mine:
                return self._fly(flight, place, min_valid, refused)
            flight.done.wait()
            if flight.error is not None:
                # A copy, because every thread adds its own traceback.
                raise copy.copy(flight.error)

    def kept_token(self, connection: Ref, *, resource: str = "", min_valid: float = 300) -> Token | None:
        """Return the cached token that ``token()`` would return, if there is one. Never waits."""
        return self._usable((_name_of(connection), resource), min_valid)

    def headers(self, connection: Ref, *, resource: str = "", min_valid: float = 300) -> dict[str, str]:
        """Return a request's headers: ``{"Authorization": "Bearer …"}``. Raises the same errors as ``token()``."""
        token = self.token(connection, resource=resource, min_valid=min_valid)
        return {"Authorization": f"Bearer {token.access_token}"}

    def xoauth2(self, connection: Ref, mailbox: str, *, min_valid: float = 300) -> str:
        """Return the XOAUTH2 string (base64) that opens ``mailbox`` with IMAP, POP or SMTP. Raises as ``token()``."""
        return xoauth2.encoded(mailbox, self.token(connection, resource="exchange", min_valid=min_valid).access_token)

    def forget(self, connection: Ref | None = None) -> None:
        """Forget the cached token of one connection, or of all connections."""
        with self._lock:
            if connection is None:
                self._kept.clear()
            else:
                name = _name_of(connection)
                for place in [place for place in self._kept if place[0] == name]:
                    del self._kept[place]

    def _usable(self, place: _Place, min_valid: float) -> Token | None:
        with self._lock:
            kept = self._kept.get(place)
        if kept is None or not kept.lasts(0):
            return None
        if kept.lasts(min_valid):
            return kept.token
        in_vain = kept.token.trouble or kept.wanted >= min_valid
        waits = in_vain and kept.requested_at <= time.time() < kept.requested_at + ASK_AGAIN_AFTER
        return kept.token if waits else None

    def _refuse(self, place: _Place) -> Token | None:
        """Forget and return the cached token that Microsoft rejected; None if it has just replaced another one."""
        with self._lock:
            kept = self._kept.get(place)
            if kept is None or (
                kept.renewed and kept.requested_at <= time.time() < kept.requested_at + ASK_AGAIN_AFTER
            ):
                return None
            return self._kept.pop(place).token

    def _fly(self, flight: _Flight, place: _Place, min_valid: float, refused: Token | None) -> Token:
        """Send the request for all threads that wait for ``flight``."""
        try:
            return self._fetch(place, min_valid, refused).token
        except PortalError as error:
            flight.error = error
            raise
        except BaseException:
            flight.error = Unavailable("The thread that sent the request was stopped.")
            raise
        finally:
            with self._lock:
                self._flights.pop(place, None)
            flight.done.set()

    def _fetch(self, place: _Place, min_valid: float, refused: Token | None) -> _Kept:
        name, resource = place
        with self._lock:
            before = self._kept.get(place)
        valid = before if before is not None and before.lasts(1) else None
        requested_at = time.time()
        try:
            # With a cached token there is no need to wait.
            path = f"{self._path(name)}/token"
            query: dict[str, Any] = {"min_valid": int(min_valid)}
            if refused is not None and refused.id:
                query["refused"] = refused.id
            if resource:
                query["resource"] = resource
            answer = self._send("GET", path, query, patience=0 if valid else None)
            kept = replace(_kept_of(answer, requested_at, min_valid), renewed=refused is not None)
        except Unavailable:
            if valid is None:
                raise
            kept = replace(valid, token=replace(valid.token, trouble="portal_unavailable"), requested_at=requested_at)
        except PortalError:
            with self._lock:
                self._kept.pop(place, None)
            raise
        with self._lock:
            self._kept[place] = kept
        return kept

    def me(self) -> dict[str, Any]:
        """Return the key's name, owner, scopes, expiration and limits."""
        return _object(self.request("GET", "/me"))

    def connections(self, **filters: str) -> Iterator[Connection]:
        """Return the visible connections, filtered by ``name``, ``capability``, ``mailbox``, ``status``, ``owner``."""
        return (Connection.of(item) for item in self.items("/connections", filters))

    def connection(self, connection: Ref) -> Connection:
        """Return one connection and its state, by number or name."""
        return Connection.of(_object(self.request("GET", self._path(connection))))

    def check(self, connection: Ref) -> Connection:
        """Have the portal test the connection at Microsoft now; returns its new state."""
        return Connection.of(_object(self.request("POST", f"{self._path(connection)}/check")))

    def connect(
        self,
        name: str,
        *,
        app_registration: int,
        authentication_type: str = "authorization_code",
        capabilities: Sequence[str] = (),
        extra_scopes: Sequence[str] = (),
        shared_mailboxes: Sequence[str] = (),
        hosts: Sequence[str] = (),
        reason: str = "",
    ) -> tuple[Connection, SignInLink | None]:
        """Create a connection.

        With ``client_credentials`` (app-only) it connects at once. With ``authorization_code`` (delegated) it is
        pending until the mailbox owner opens the sign-in link and signs in. ``reason`` is for the IT admin who has to
        approve the connection, if the organisation's policy requires approval. ``hosts`` are the organisation's addresses
        at SharePoint and Dataverse, for example contoso.sharepoint.com.
        """
        wanted = {
            "app_registration": app_registration,
            "name": name,
            "authentication_type": authentication_type,
            "capabilities": list(capabilities),
            "extra_scopes": list(extra_scopes),
            "shared_mailboxes": list(shared_mailboxes),
            **({"hosts": list(hosts)} if hosts else {}),
            **({"reason": reason} if reason else {}),
        }
        response = _object(self.request("POST", "/connections", json=wanted))
        link = response.get("sign_in_link")
        return Connection.of(response), SignInLink.of(link) if link else None

    def sign_in_link(self, connection: Ref) -> SignInLink:
        """Create a link with which the mailbox owner signs in for the connection, for the first time or again."""
        return SignInLink.of(self.request("POST", f"{self._path(connection)}/sign-in-link"))

    def references(self, **filters: str) -> Iterator[Reference]:
        """Return the visible references, and the key owner's default connections; ``q`` is a part of the name."""
        return (Reference.of(item) for item in self.items("/references", filters))

    def point(self, reference: str, connection: int | str) -> Reference:
        """Point a reference at another connection, for all token requests from now on."""
        number = connection if isinstance(connection, int) else self.connection(connection).id
        answer = self.request("PATCH", f"/references/{quote(reference, safe='')}", json={"connection_id": number})
        self.forget(reference)
        return Reference.of(_object(answer))

    def incidents(self, *, state: str = "open") -> Iterator[dict[str, Any]]:
        """Return the incidents visible to the key: ``open``, ``closed``, or all if ``state`` is empty."""
        return self.items("/incidents", {"state": state} if state else {})

    def items(self, path: str, query: Mapping[str, str] | None = None) -> Iterator[dict[str, Any]]:
        """Yield all items of a list, fetched page by page; ``query`` filters the list."""
        parameters = dict(query or {})
        while True:
            page = _object(self.request("GET", path, parameters))
            yield from page.get("items", [])
            after = page.get("next")
            if not after or str(after) == parameters.get("after"):
                return
            parameters["after"] = str(after)

    def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        *,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Call the API at ``path`` below /api/v1, and return the parsed response, or None if it is empty. Raises
        PortalError.

        POST requests carry an Idempotency-Key, so that a retry never repeats the action.
        """
        return self._send(method, path, query, json=json, headers=headers).body

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        *,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
        patience: float | None = None,
    ) -> Answer:
        method, more = method.upper(), dict(headers or {})
        if method == "POST":
            more.setdefault("Idempotency-Key", str(uuid.uuid4()))
        url = f"{API}{path}?{urlencode(query)}" if query else API + path
        wait = self._patience if patience is None else patience
        return self._transport.send(method, url, body=json, headers=more, patience=wait)

    def _path(self, connection: Ref) -> str:
        name = _name_of(connection)
        if "/" in name or name.strip(".") == "":
            # Such a name cannot be part of a URL path, because proxies would normalise it.
            return f"/connections/{self._number_of(name)}"
        return f"/connections/{quote(name, safe='')}"

    def _number_of(self, name: str) -> int:
        ids = [connection.id for connection in self.connections(name=name)]
        if not ids:
            raise NotFound("The connection doesn't exist, or you have no access to it.", status=404)
        if len(ids) > 1:
            raise AmbiguousName(
                "Several connections have this name.",
                detail=f"The connections {', '.join(map(str, ids))} all have this name.",
                action="Use the connection ID instead.",
                status=409,
            )
        return ids[0]


def _name_of(connection: Ref) -> str:
    """Return a connection's number or name as text. Raises ValueError if it is neither."""
    if isinstance(connection, bool) or not isinstance(connection, (int, str)) or connection == "":
        raise ValueError("Specify a connection by its ID or name.")
    return str(connection)


def _kept_of(answer: Answer, requested_at: float, wanted: float) -> _Kept:
    """Return the token in a response. Its lifetime is measured by the portal's clock, in case this machine's is wrong."""
    body = _object(answer.body)
    if not isinstance(body.get("access_token"), str) or not body["access_token"]:
        raise UnexpectedAnswer("The portal's response contains no token.")
    token = Token(
        body["access_token"],
        moment(body.get("expires_at")),
        str(body.get("scope") or ""),
        trouble=answer.headers.get("Portal-Trouble", ""),
        id=str(body.get("id") or ""),
    )
    try:
        portal_now = parsedate_to_datetime(answer.headers.get("Date", "")).timestamp()
    except (TypeError, ValueError):
        portal_now = requested_at
    return _Kept(token, requested_at + token.expires_at.timestamp() - portal_now, requested_at, wanted)


def _object(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise UnexpectedAnswer("The portal's response isn't valid.")
    return body
