"""Checks of what the portal reaches over the network: the mail server, Microsoft, and its own public URL."""

import smtplib
import ssl
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core import mail

from connections.microsoft import clouds, http
from connections.models import Tenant
from connections.services.operations.checks import Result, combine, ok, problem, warning

_TIMEOUT = 10.0  # seconds
_LONGEST_PAGE = 200_000  # bytes
_NO_MAIL_SERVER = "EMAIL_URL contains no mail server, so the portal can't send alerts by email"

_REASONS = {
    "dns": ("its name can't be resolved", "Check the DNS servers of this machine."),
    "proxy": ("the name of the proxy can't be resolved", "Check HTTPS_PROXY."),
    "refused": ("no connection can be opened", "Allow port 443 in the firewall, or set HTTPS_PROXY."),
    "tls": (
        "its certificate isn't trusted",
        "If a proxy inspects TLS, set MICROSOFT_CA_BUNDLE to a file with its certificate authority.",
    ),
    "timeout": ("it doesn't answer in time", "Allow port 443 in the firewall, or set HTTPS_PROXY."),
    "reset": ("the connection was closed", "Check the firewall, and the credentials in HTTPS_PROXY."),
}


def has_mail_server() -> bool:
    """Whether a mail server is set up, without asking it."""
    return bool(settings.EMAIL_BACKEND.rpartition(".")[0] == "django.core.mail.backends.smtp")


def mail_server() -> Result:
    """Whether the mail server accepts the portal's credentials. Sends nothing."""
    if not has_mail_server():
        return warning(_NO_MAIL_SERVER, "Set EMAIL_URL.")
    connection = mail.get_connection()
    try:
        connection.open()
        connection.close()
    except (smtplib.SMTPException, ssl.SSLError, OSError) as error:
        return _mail_failed(error)
    return ok(f"{settings.EMAIL_HOST} accepts mail from the portal")


def send_test_mail(address: str) -> Result:
    """Send a test message to ``address``."""
    text = f"This test message was sent by manage.py doctor of {settings.PORTAL_URL}. No action needed.\n"
    try:
        mail.send_mail("Test message of the connection portal", text, None, [address])
    except (smtplib.SMTPException, ssl.SSLError, OSError) as error:
        return _mail_failed(error)
    return ok(f"a test message was sent to {address}: check that it arrives")


def microsoft() -> Result:
    """Check that sign-in at Microsoft can be reached in every cloud that tenants or the portal's own sign-in use."""
    used = set(Tenant.objects.order_by().values_list("environment", flat=True).distinct())
    if settings.LOGIN_MICROSOFT["client_id"]:
        used.add(settings.LOGIN_MICROSOFT["environment"])
    known = [cloud for key, cloud in clouds.CLOUDS.items() if key in used]
    if not known:
        return ok("no tenant has been added yet")
    requests = [http.Request("GET", cloud.discovery_url("organizations"), tag=cloud) for cloud in known]
    return combine(_answer_of_microsoft(response) for response in http.client().send_all(requests))


def public_url() -> Result:
    """Check that PORTAL_URL leads to this portal, and that the proxy in front passes on the necessary headers."""
    status, _, body = _get("/healthz")
    if status == 0:
        return problem(f"{settings.PORTAL_URL} {body}", "Check DNS, the proxy and its certificate, or PORTAL_URL.")
    if status != 200 or body != "ok\n":
        return problem(
            f"{settings.PORTAL_URL}/healthz returns {status}, but not the portal's response",
            "Configure the proxy to forward this host to the web process, and check PORTAL_URL.",
        )
    status, headers, _ = _get("/sign-in/")
    if status == 400:
        action = "Configure the proxy to pass on Host (nginx: proxy_set_header Host $host), and check ALLOWED_HOSTS."
        return problem("the sign-in page returns 400, because it is called with a different host name", action)
    if settings.HTTPS and (status in (301, 302) or "Strict-Transport-Security" not in headers):
        action = "Configure the proxy to set X-Forwarded-Proto, and set TRUSTED_PROXIES to the number of proxies."
        return problem("the portal doesn't see that browsers use https", action)
    if status != 200:
        return problem(f"the sign-in page returns {status}", "Look for errors in the log of the web process.")
    return ok(f"{settings.PORTAL_URL} leads to the portal; redirect URIs in Entra begin with it")


def public_metrics() -> Result:
    """Whether anyone can read the metrics at the public URL."""
    status, _, body = _get("/metrics")
    if status == 200 and "portal_" in body:
        action = "Set METRICS_TOKEN, and configure the proxy to set X-Forwarded-For and refuse /metrics."
        return problem(f"anyone can read {settings.PORTAL_URL}/metrics", action)
    return ok("not readable at the public URL without a token")


def _mail_failed(error: Exception) -> Result:
    if isinstance(error, smtplib.SMTPAuthenticationError):
        return problem("the mail server refuses the user name or password", "Check EMAIL_URL.")
    reason = f"error {error.smtp_code}" if isinstance(error, smtplib.SMTPResponseException) else type(error).__name__
    return problem(
        f"the mail server {settings.EMAIL_HOST} doesn't accept mail ({reason})",
        "Check EMAIL_URL: host, port and smtp+tls:// or smtp+ssl://, and the firewall.",
    )


def _answer_of_microsoft(response: http.Response[clouds.Cloud]) -> Result:
    cloud = response.request.tag
    assert cloud is not None  # noqa: S101 - every request above has one
    host = urlsplit(cloud.login).hostname
    if response.status:
        if response.status in (200, 400, 404):  # these come from Entra itself, even if it rejects the directory
            return ok(f"{host} answers")
        return problem(f"{host} returns {response.status}", "Check the proxy between the portal and Microsoft.")
    what, action = _REASONS.get(response.failure, ("it can't be reached", "Check the firewall, or set HTTPS_PROXY."))
    return problem(f"{host}: {what}", action)


class _StayHere(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any) -> None:
        """Ignore redirects."""


def _get(path: str) -> tuple[int, Any, str]:
    """Return status, headers and text of a page of the portal.

    Without a response, status is 0 and the text says why.
    """
    context = ssl.create_default_context()
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context), _StayHere
    )
    try:
        with opener.open(settings.PORTAL_URL + path, timeout=_TIMEOUT) as response:
            return response.status, response.headers, response.read(_LONGEST_PAGE).decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, ""
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            return 0, {}, "has a certificate that isn't trusted here"
        return 0, {}, "can't be reached"
    except (OSError, ValueError):
        return 0, {}, "can't be reached"
