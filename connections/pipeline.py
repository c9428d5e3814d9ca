"""The portal's part of social-auth: the strategy that supplies the client, and the steps after Microsoft's response."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from social_core.actions import do_auth
from social_core.exceptions import (
    AuthAssociationError,
    AuthConfigurationError,
    AuthInputError,
    AuthProviderError,
    AuthResponseError,
    AuthSessionError,
    SocialAuthBaseException,
)
from social_django.strategy import DjangoStrategy

from connections import errors, fresh_sign_in
from connections.access import querysets
from connections.microsoft import account_claims, backends, clouds, token_endpoint
from connections.microsoft.classifier import transport_failure
from connections.microsoft.error_types import Kind
from connections.models import Connection, SignInLink, User
from connections.models.tenants import SHARED_ENDPOINTS
from connections.services.connections import connections, sign_in, sign_in_links
from connections.services.incidents import incidents
from connections.services.people import accounts

# The session key for the value that binds a sign-in link to the browser that opened it.
LINK_BROWSER = "sign_in_link_browser"


@dataclass(frozen=True, slots=True)
class LinkHolder:
    """The person who uses a sign-in link. It is not an account, so social-auth signs nobody in."""

    pk: str
    is_authenticated: bool = True
    is_active: bool = False

    @property
    def id(self) -> str:
        return self.pk


class PortalStrategy(DjangoStrategy):  # type: ignore[misc]
    """Supplies a backend with its client: the portal's own, or that of a connection's app registration."""

    connection: Connection | None = None
    # Set if a sign-in link is used, no matter who is signed in to the portal in this browser.
    link: SignInLink | None = None
    # A connection with several resources needs one step for each. These are the current one and those begun so far.
    resource: str = ""
    walked: tuple[str, ...] = ()
    _client: backends.SignInClient | None = None

    def sign_in_client(self, backend: Any) -> backends.SignInClient:
        if self._client is None:
            if backend.name == backends.MicrosoftSignIn.name:
                self._client = portal_client()
            elif self.connection is not None:
                self._client = sign_in.sign_in_client(self.connection, self.resource)
            else:
                raise AuthSessionError(backend, code="session_context_missing")
        return self._client

    @property
    def credential_id(self) -> int | None:
        return self._client.credential_id if self._client else None

    def intent(self) -> dict[str, Any]:
        """Return the values to keep in the session while the person is on Microsoft's pages."""
        if self.connection is None:
            return {}
        return {
            "connection": self.connection.pk,
            "link": self.link.pk if self.link else None,
            "resource": self.resource,
            "walked": list(self.walked),
        }

    @property
    def link_holder(self) -> LinkHolder | None:
        return LinkHolder(f"link:{self.link.pk}") if self.link else None

    def resume(self, started: dict[str, Any]) -> None:
        """Restore the sign-in from the session. Raises LinkUnusable if its sign-in link can no longer be used."""
        self.resource, self.walked = started.get("resource", ""), tuple(started.get("walked", ()))
        if started.get("link"):
            browser, is_later = str(self.session_get(LINK_BROWSER, "")), bool(self.resource)
            opened = sign_in_links.resume(
                int(started["link"]), browser=browser, now=timezone.now(), is_later_step=is_later
            )
            self.link, self.connection = opened.link, opened.connection
            return
        visible = querysets.visible_connections(self._require_request().user)
        self.connection = visible.filter(pk=int(started.get("connection") or 0)).first()

    def forget(self) -> None:
        """Drop the connection and the link, because a different person has returned from Microsoft."""
        self.connection = self.link = None

    def partial_load(self, token: str) -> None:
        """Ignore partial tokens, because pausing a sign-in would store Microsoft's tokens in plain text."""

    def require_request(self) -> HttpRequest:
        request: HttpRequest = self._require_request()
        return request

    @property
    def confirms(self) -> bool:
        """Whether this sign-in must confirm a signed-in person's identity; see connections/fresh_sign_in.py."""
        return self.require_request().user.is_authenticated

    def query_string(self) -> str:
        return str(self._require_request().META.get("QUERY_STRING", ""))

    def absolute_uri(self, path: str | None = None) -> str | None:
        """Build redirect URIs from PORTAL_URL. With a proxy's host, they would cause AADSTS50011."""
        return f"{settings.PORTAL_URL}{path}" if path and path.startswith("/") else path


def portal_client() -> backends.SignInClient:
    """Return the portal's own client, from LOGIN_MICROSOFT_*. Raises SignInFailed if these settings are incomplete."""
    # A shared endpoint such as "common" would let anybody sign in.
    login = settings.LOGIN_MICROSOFT
    complete = all(login[name] for name in ("tenant", "client_id", "client_secret"))
    if not complete or login["tenant"].lower() in SHARED_ENDPOINTS or login["environment"] not in clouds.CLOUDS:
        raise errors.SignInFailed(
            "Sign-in with Microsoft isn't configured in this portal.",
            action="Sign in with a local password, or ask an operator to configure LOGIN_MICROSOFT_*.",
        )
    application = token_endpoint.Application(
        clouds.cloud(login["environment"]),
        login["tenant"],
        login["client_id"],
        token_endpoint.ClientSecret(login["client_secret"]),
    )
    return backends.SignInClient(application, ("openid", "profile", "email"), {})


def admit_person(
    response: dict[str, Any], user: User | None = None, social: Any = None, **kwargs: Any
) -> dict[str, Any]:
    """Create an account at the first sign-in. Reject guests, disabled accounts and service accounts.

    The Microsoft account is never linked to a user who is already signed in. It could belong to another person, who
    could then always sign in as that user.
    """
    accounts.require_admitted(response)
    if user is None:
        return {"user": accounts.create_from_directory(claims=response), "is_new": True}
    if social is None:
        raise errors.SignInFailed(
            f"You are signed in as {user}.", action="Sign out first, then sign in with Microsoft."
        )
    if user.is_service:
        accounts.sign_in_failed(user.username, reason="service_account")
        raise errors.NotAllowed("Service accounts can't sign in.", action="Use your own account.")
    if not user.is_active:
        accounts.sign_in_failed(user.username, reason="account_disabled")
        raise errors.NotAllowed("Your account in this portal is disabled.", action="Ask an IT admin.")
    return {"user": user, "is_new": False}


def follow_directory(
    strategy: PortalStrategy, backend: backends.MicrosoftSignIn, user: User, response: dict[str, Any], **kwargs: Any
) -> None:
    """Record the sign-in, or the confirmation of a signed-in person, and update the account from the claims."""
    request, proved_at = strategy.require_request(), backend.proved_at(response, now=timezone.now())
    confirms = request.user.is_authenticated
    if confirms:
        if proved_at is None or timezone.now() - proved_at > timedelta(minutes=settings.FRESH_SIGN_IN_MINUTES):
            raise errors.SignInFailed(
                "Microsoft didn't ask you to sign in again.",
                action="Try again and enter your password at Microsoft. If this happens again, contact an IT admin.",
            )
        fresh_sign_in.renew(request, proved_at=proved_at)
        # Microsoft decides whether a second factor is needed, as for every sign-in there
        fresh_sign_in.note_second_factor(request)
    else:
        fresh_sign_in.begin(request, method="microsoft", proved_at=proved_at)
    accounts.update_from_directory(user, claims=response, confirms=confirms)
    if accounts.has_groups_overage(response):
        messages.warning(
            strategy.request,
            "Microsoft didn't include your groups in the sign-in, because there are too many. Your roles and teams "
            "aren't updated. See your account page for what an IT admin can do.",
        )


def finish_connect(
    strategy: PortalStrategy, response: dict[str, Any], user: User | None = None, **kwargs: Any
) -> HttpResponse:
    """Store the tokens in the connection. The redirect ends the pipeline, so social-auth stores nothing."""
    connection, link, now = strategy.connection, strategy.link, timezone.now()
    actor = link.made_by if link is not None else user
    if connection is None or actor is None:
        raise errors.SignInExpired
    answer = sign_in.read_answer(connection, response, strategy.resource)
    account = account_claims.account_from_claims(response)
    if strategy.resource:
        sign_in.complete_resource(connection, strategy.resource, actor=actor, answer=answer, account=account, now=now)
    else:
        sign_in.complete(connection, actor=actor, answer=answer, account=account, now=now, by_link=link)
    following = sign_in.next_resource(connection, walked=strategy.walked, now=now)
    if following:
        return to_microsoft(
            strategy.require_request(), connection, link, resource=following, walked=(*strategy.walked, following)
        )
    if link is not None:
        # The person with the link only provides access, and sees nothing of the connection.
        connection.mailbox_accesses.update(probe_after=now)
        return redirect("sign_in_link_done")
    connections.probe_mailboxes(connection, actor=actor, now=timezone.now())
    text = f"You're connected as {connection.account_username}. The portal renews access automatically."
    messages.success(strategy.request, text)
    return redirect("connection", pk=connection.pk)


def to_microsoft(
    request: HttpRequest,
    connection: Connection,
    link: SignInLink | None = None,
    *,
    resource: str = "",
    walked: tuple[str, ...] = (),
) -> HttpResponse:
    """Start the OAuth sign-in for a connection, or the later step for another ``resource``."""
    from social_django.utils import load_backend, load_strategy  # imported late, because these import this module

    strategy = load_strategy(request)
    strategy.connection, strategy.link, strategy.resource, strategy.walked = connection, link, resource, walked
    name = backends.MicrosoftConnect.name
    backend = load_backend(strategy, name, reverse("social:complete", args=[name]))
    response: HttpResponse = do_auth(backend, user=request.user)
    return response


@dataclass(frozen=True)
class FailedSignIn:
    """The reason for a failed sign-in, for its page."""

    error: errors.PortalError
    connection: Connection | None
    needs_consent: bool = False  # whether an administrator must consent
    resource: str = ""  # set if only the step for this resource failed; the connection itself works
    by_link: bool = False  # whether a sign-in link was used; its page must show nothing else of the portal


def explain(request: HttpRequest, exception: Exception) -> FailedSignIn | None:
    """Explain a failed sign-in, and record it if it was for a connection. Returns None for all other exceptions."""
    if isinstance(exception, SocialAuthBaseException):
        error = _translate(exception)
    elif isinstance(exception, errors.PortalError) and request.path.startswith("/auth/"):
        error = exception
    else:
        return None
    strategy = getattr(request, "social_strategy", None)
    connection = getattr(strategy, "connection", None)
    link: SignInLink | None = getattr(strategy, "link", None)
    actor = link.made_by if link is not None else request.user
    if connection is not None and isinstance(actor, User):
        error = sign_in.record_failure(
            connection,
            actor=actor,
            by_link=link,
            error=error,
            verdict=getattr(exception, "verdict", None),
            now=timezone.now(),
            credential_id=strategy.credential_id if strategy is not None else None,
            resource=getattr(strategy, "resource", ""),
        )
    elif connection is None and isinstance(exception, backends.MicrosoftSignInRefused):
        accounts.sign_in_failed("", reason=error.code)
        if exception.is_proven and exception.verdict.credential:
            incidents.portal_sign_in_rejected(exception.verdict, now=timezone.now())
            error = errors.SignInFailed(
                "Microsoft doesn't accept this portal's own credential, so nobody can sign in with Microsoft.",
                action="Ask a portal operator to set a new LOGIN_MICROSOFT_CLIENT_SECRET.",
            )
    by_link = link is not None or isinstance(error, sign_in_links.LinkUnusable)
    needs_consent = isinstance(exception, errors.ConsentMissing)
    if isinstance(exception, backends.MicrosoftSignInRefused):
        needs_consent = exception.verdict.kind is Kind.CONSENT and not exception.cancelled
    resource = getattr(strategy, "resource", "") if connection is not None else ""
    return FailedSignIn(error, connection, needs_consent, resource, by_link)


def _translate(exception: SocialAuthBaseException) -> errors.PortalError:
    if isinstance(exception, backends.MicrosoftSignInRefused):
        if exception.cancelled:
            return errors.SignInCancelled()
        is_temporary = exception.verdict.kind in (Kind.TRANSIENT, Kind.THROTTLED)
        return (errors.MicrosoftUnavailable if is_temporary else errors.MicrosoftRefused)(exception.verdict)
    if isinstance(exception, AuthSessionError | AuthInputError):
        return errors.SignInExpired()
    if isinstance(exception, AuthProviderError) or exception.code == "malformed_response":
        return errors.MicrosoftUnavailable(transport_failure("timeout"))
    if isinstance(exception, AuthResponseError):
        return errors.SignInFailed(
            "Microsoft's response couldn't be verified, so it was ignored.",
            action="Start again. If it happens again, an IT admin should check the tenant and environment.",
        )
    if isinstance(exception, AuthConfigurationError):
        return errors.SignInFailed(
            "The sign-in isn't configured correctly.",
            action="An IT admin should check the app registration's credentials.",
        )
    if isinstance(exception, AuthAssociationError):
        return errors.SignInFailed(
            "This Microsoft account belongs to another person in the portal.", action="Sign out first, then sign in."
        )
    return errors.SignInFailed(action="Start again. If it happens again, contact an IT admin.")
