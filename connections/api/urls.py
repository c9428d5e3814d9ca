from django.contrib.auth.decorators import login_not_required
from django.urls import path
from django.views.decorators.http import require_safe

from connections.api import (
    access_reviews,
    app_registrations,
    approvals,
    audit,
    connections,
    consent_requests,
    docs_page,
    http_methods,
    incidents,
    mailboxes,
    me,
    ownership_transfer,
    policy,
    problems,
    shares,
    teams,
    tenants,
    tokens,
)
from connections.api.authentication import KeyAuth
from connections.api.openapi import PortalAPI
from connections.api.query_validation import reject_unknown_params

api = PortalAPI(
    title="Connections for Microsoft 365",
    version="1",
    description="Valid access tokens for automations, or why there is none; and everything the portal's pages can do.",
    auth=KeyAuth(),
    urls_namespace="api",
    openapi_url="/openapi.json",
    docs_url=None,
)
problems.register_handlers(api)
# django-ninja serves these for every HTTP method.
READ_ONLY = ("openapi-json", "api-root")
MODULES = (
    me, connections, tokens, shares, ownership_transfer, mailboxes, incidents, tenants, app_registrations,
    consent_requests, policy, approvals, access_reviews, teams, audit,
)  # fmt: skip
for module in MODULES:
    reject_unknown_params(module.router)
    api.add_router("", module.router)

routes = api.urls
routes[0].insert(0, path("docs", docs_page.render_page(api), name="reference"))
for pattern in routes[0]:
    # These routes authenticate by API key, not by session.
    if pattern.callback is not None:
        view = pattern.callback if pattern.name not in READ_ONLY else require_safe(pattern.callback)
        pattern.callback = login_not_required(http_methods.with_http_methods(view))
