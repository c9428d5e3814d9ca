"""Access tokens for Microsoft Graph and other APIs from a connection portal.

    from m365_portal import Portal

    portal = Portal()                       # PORTAL_URL, and PORTAL_API_KEY or PORTAL_API_KEY_FILE
    token = portal.token("Invoices")        # cached until shortly before it expires
    headers = portal.headers("Invoices")    # {"Authorization": "Bearer …"}

The portal keeps the connection to Microsoft alive, so programs hold neither client secrets nor refresh tokens. The
package needs only Python 3.9 or newer. PortalCredential and AsyncPortalCredential work with Microsoft's own SDKs.
"""

from m365_portal.credentials import GRAPH_RESOURCES, AsyncPortalCredential, PortalCredential
from m365_portal.errors import (
    AmbiguousName,
    AppCredentialRejected,
    ApprovalNeeded,
    Blocked,
    ChangedMeanwhile,
    ConfigurationError,
    ConnectionUnusable,
    ConsentNeeded,
    Disabled,
    InvalidInput,
    KeyRefused,
    NotAllowed,
    NotFound,
    PortalError,
    RateLimited,
    ReconnectNeeded,
    ResourceNotGranted,
    SignInPending,
    StillRunning,
    Unavailable,
    UnexpectedAnswer,
    WrongResource,
)
from m365_portal.portal import Portal
from m365_portal.things import Token

__all__ = [
    "GRAPH_RESOURCES",
    "AmbiguousName",
    "AppCredentialRejected",
    "ApprovalNeeded",
    "AsyncPortalCredential",
    "Blocked",
    "ChangedMeanwhile",
    "ConfigurationError",
    "ConnectionUnusable",
    "ConsentNeeded",
    "Disabled",
    "InvalidInput",
    "KeyRefused",
    "NotAllowed",
    "NotFound",
    "Portal",
    "PortalCredential",
    "PortalError",
    "RateLimited",
    "ReconnectNeeded",
    "ResourceNotGranted",
    "SignInPending",
    "StillRunning",
    "Token",
    "Unavailable",
    "UnexpectedAnswer",
    "WrongResource",
]
__version__ = "1.0.0"
