from django.contrib.auth.decorators import login_not_required
from django.urls import path
from django.views.decorators.http import require_safe

from connections.api import (
    access_reviews,
    app_consents,
    app_registrations,
    approvals,
    audit,
    change_requests,
    connections,
    consent_requests,
    documents,
    http_methods,
    incidents,
    mailboxes,
    me,
    ownership_transfer,
    policy,
    problems,
    references,
    shares,
    tags,
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
    description="Request access tokens for automations, and manage everything in the portal.",
    auth=KeyAuth(),
    urls_namespace="api",
    openapi_url=None,  # documents.py serves it
    docs_url=None,
)
problems.register_handlers(api)
MODULES = (
    me, connections, tags, tokens, references, shares, ownership_transfer, mailboxes, incidents, tenants, app_registrations,
    app_consents, consent_requests, policy, approvals, change_requests, access_reviews, teams, audit,
)  # fmt: skip
for module in MODULES:
    reject_unknown_params(module.router)
    api.add_router("", module.router)

routes = api.urls
routes[0].insert(0, path("docs", documents.reference_view(api), name="reference"))
routes[0].insert(0, path("openapi.json", documents.openapi_view(api), name="openapi-json"))
for pattern in routes[0]:
    # These routes authenticate by API key, not by session.
    if pattern.callback is not None:
        # django-ninja would serve its root for every HTTP method.
        view = require_safe(pattern.callback) if pattern.name == "api-root" else pattern.callback
        pattern.callback = login_not_required(http_methods.with_http_methods(view))
