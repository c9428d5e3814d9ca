"""A small client for the control API, for tests. It has one method per command and only needs the standard library."""

import json
import ssl
import urllib.error
import urllib.request
from typing import Any


class ControlError(Exception):
    """The sandbox rejected the call. The message is the reason."""


class Control:
    """Controls a running sandbox. Every method raises ControlError if the sandbox rejects the call."""

    def __init__(self, base_url: str, *, timeout: float = 30.0, cafile: str | None = None) -> None:
        self.base_url = base_url.rstrip("/")
        self.timeout = timeout
        context = ssl.create_default_context(cafile=cafile) if self.base_url.startswith("https") else None
        # Use no proxy, because the sandbox is always on this machine.
        handlers: list[Any] = [urllib.request.ProxyHandler({})]
        if context is not None:
            handlers.append(urllib.request.HTTPSHandler(context=context))
        self._opener = urllib.request.build_opener(*handlers)

    def _open(self, request: urllib.request.Request) -> Any:
        try:
            with self._opener.open(request, timeout=self.timeout) as response:
                return json.load(response)
        except urllib.error.HTTPError as problem:
            with problem:
                text = problem.read().decode(errors="replace")
            try:
                raise ControlError(json.loads(text)["problem"]) from None
            except (ValueError, KeyError, TypeError):
                raise ControlError(f"HTTP {problem.code}") from None

    def call(self, verb: str, **fields: Any) -> dict[str, Any]:
        """Run any command, with any fields."""
        given = {name: value for name, value in fields.items() if value is not None}
        request = urllib.request.Request(
            f"{self.base_url}/_control/api/{verb}",
            data=json.dumps(given).encode(),
            headers={"Content-Type": "application/json"},
        )
        answer: dict[str, Any] = self._open(request)
        return answer

    def _get(self, name: str) -> dict[str, Any]:
        answer: dict[str, Any] = self._open(urllib.request.Request(f"{self.base_url}/_control/api/{name}"))
        return answer

    def state(self) -> dict[str, Any]:
        return self._get("state")

    def calls(self, *, after: int = 0, limit: int = 200) -> dict[str, Any]:
        """Return the counters and the newest calls whose number is above ``after``, at most ``limit``."""
        return self._get(f"calls?after={after}&limit={limit}")

    def refreshes(self, fingerprint: str) -> int:
        """Return how many token requests used the code or a refresh token of this grant."""
        return sum(int(grants.get(fingerprint, 0)) for grants in self.calls(limit=0)["by_grant"].values())

    def reset(self) -> None:
        self.call("reset")

    def clear_calls(self) -> None:
        self.call("clear_calls")

    def clock(self, offset_s: float) -> None:
        """Set the sandbox's clock to real time plus ``offset_s`` seconds."""
        self.call("clock", offset_s=offset_s)

    def token_lifetime(self, seconds: int) -> None:
        """Give access tokens a lifetime of exactly ``seconds``; 0 means random, 60 to 90 minutes."""
        self.call("token_lifetime", seconds=seconds)

    def rotate_keys(self) -> None:
        """Generate new signing and token keys, which invalidates everything issued before."""
        self.call("rotate_keys")

    def weather(
        self,
        kind: str,
        where: str = "everything",
        *,
        seconds: float = 0,
        retry_after: str | float = "5",
        delay_ms: int = 0,
        times: int = 0,
        client_id: str = "",
    ) -> None:
        """Inject a fault. ``where`` is token, graph, batch, login or everything."""
        self.call(
            "weather",
            kind=kind,
            where=where,
            seconds=seconds,
            retry_after=str(retry_after),
            delay_ms=delay_ms,
            times=times,
            client_id=client_id,
        )

    def consent_lie(self, kind: str) -> None:
        """Make the admin consent callback misleading; ``kind`` is none, nothing, later or wrong_tenant."""
        self.call("consent_lie", kind=kind)

    def set_directory(self, tenant: str, *, user_consent: bool) -> None:
        """Set whether people may consent for themselves."""
        self.call("set_directory", tenant=tenant, user_consent=user_consent)

    def add_person(self, upn: str, name: str, **more: Any) -> dict[str, Any]:
        """Add a person. Returns id, upn, password and tenant."""
        return self.call("add_person", upn=upn, name=name, **more)

    def set_person(self, upn: str, **changes: Any) -> None:
        """Change a person: disabled, deleted, mfa_required, password_expired, ca_blocked, admin and others."""
        self.call("set_person", upn=upn, **changes)

    def revoke_sessions(self, upn: str) -> None:
        """End all sessions and refresh tokens of a person."""
        self.call("revoke_sessions", upn=upn)

    def add_app(self, name: str, **more: Any) -> dict[str, Any]:
        """Register an app. Returns client_id, object_id, tenant, secret and secret_id."""
        return self.call("add_app", name=name, **more)

    def set_app(self, client_id: str, **changes: Any) -> None:
        """Change an app: disabled, disabled_in, deleted, name, audience, platform, redirect_uris and others.

        The others include delegated, application, mailboxes, and exchange_role with exchange_mailboxes.
        """
        self.call("set_app", client_id=client_id, **changes)

    def add_secret(self, client_id: str, *, expires_at: float = 0, name: str = "New secret") -> dict[str, Any]:
        """Add a secret. Returns id, value and expires_at (seconds since 1970)."""
        return self.call("add_secret", client_id=client_id, expires_at=expires_at, name=name)

    def expire_secret(self, client_id: str, id: str) -> None:
        self.call("expire_secret", client_id=client_id, id=id)

    def remove_secret(self, client_id: str, id: str) -> None:
        self.call("remove_secret", client_id=client_id, id=id)

    def add_certificate(self, client_id: str, pem: str, *, name: str = "") -> dict[str, Any]:
        """Add a certificate. Returns id, sha1, sha256 and x5t#S256."""
        return self.call("add_certificate", client_id=client_id, pem=pem, name=name)

    def remove_certificate(self, client_id: str, id: str) -> None:
        self.call("remove_certificate", client_id=client_id, id=id)

    def add_federated_credential(
        self, client_id: str, *, issuer: str, subject: str, audience: str, delay_s: float = 0
    ) -> dict[str, Any]:
        """Let an app accept the tokens of another issuer. Returns id."""
        return self.call(
            "add_federated_credential",
            client_id=client_id,
            issuer=issuer,
            subject=subject,
            audiences=[audience],
            delay_s=delay_s,
        )

    def remove_federated_credential(self, client_id: str, id: str) -> None:
        self.call("remove_federated_credential", client_id=client_id, id=id)

    def credential_delay(self, seconds: float) -> None:
        """Set how long it takes until the token endpoint accepts credentials that were added through Graph."""
        self.call("credential_delay", seconds=seconds)

    def forget_published_keys(self) -> None:
        """Make the sandbox read the keys of other issuers again at their next use."""
        self.call("forget_published_keys")

    def set_owners(self, client_id: str, owners: list[str]) -> None:
        """Set which applications own an app registration."""
        self.call("set_owners", client_id=client_id, owners=owners)

    def assign(self, client_id: str, upn: str, roles: list[str], groups: list[str] | None = None) -> None:
        self.call("assign", client_id=client_id, upn=upn, roles=roles, groups=groups)

    def grant_consent(
        self,
        client_id: str,
        *,
        tenant: str | None = None,
        scopes: list[str] | None = None,
        roles: list[str] | None = None,
        upn: str = "",
        delay_s: float = 0,
    ) -> None:
        """Grant consent for one person or, as an admin, for everybody."""
        self.call(
            "grant_consent", client_id=client_id, tenant=tenant, scopes=scopes, roles=roles, upn=upn, delay_s=delay_s
        )

    def withdraw_consent(self, client_id: str, *, tenant: str | None = None, upn: str = "") -> None:
        self.call("withdraw_consent", client_id=client_id, tenant=tenant, upn=upn)

    def set_mailbox(self, address: str, **changes: Any) -> None:
        """Change a mailbox: members, inbox_members, senders, all_senders, app_scope, all_apps, name, deleted."""
        self.call("set_mailbox", address=address, **changes)

    def share_calendar(self, address: str, *members: str) -> None:
        """Share the calendar of a person or a shared mailbox with only these people."""
        self.call("share_calendar", address=address, members=list(members))

    def issue_grant(
        self, client_id: str, upn: str, scopes: list[str], *, count: int = 1, age_s: float = 0, mfa: bool = False
    ) -> dict[str, Any]:
        """Issue refresh tokens without a browser. Returns refresh_tokens, fingerprints, tenant and oid."""
        return self.call("issue_grant", client_id=client_id, upn=upn, scopes=scopes, count=count, age_s=age_s, mfa=mfa)

    def describe_token(self, refresh_token: str) -> dict[str, Any]:
        """Return the person and the fingerprint that a refresh token belongs to."""
        return self.call("describe_token", refresh_token=refresh_token)
