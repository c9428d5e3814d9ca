"""The sandbox's URLs: those of Microsoft, and the control API below ``_control/``."""

from django.urls import URLPattern, path, re_path

from portal.sandbox import adminconsent, authorize, control, discovery, graph, panel, token

urlpatterns: list[URLPattern] = [
    path("", discovery.index),
    path("error", discovery.error_lookup),
    path("favicon.ico", discovery.favicon),
    path("_static/<str:name>", discovery.static),
    path("_control/", panel.panel),
    path("_control/api/", control.documentation),
    path("_control/api/state", control.state),
    path("_control/api/calls", control.call_log),
    path("_control/api/<str:name>", control.call),
    re_path(r"^v1\.0/(?P<path>.*)$", graph.graph),
    path("oidc/userinfo", graph.userinfo),
    path("<str:tenant>/v2.0/.well-known/openid-configuration", discovery.openid_configuration),
    path("<str:tenant>/discovery/v2.0/keys", discovery.keys),
    path("<str:tenant>/oauth2/v2.0/authorize", authorize.authorize),
    path("<str:tenant>/oauth2/v2.0/token", token.token),
    path("<str:tenant>/oauth2/v2.0/logout", discovery.logout),
    path("<str:tenant>/adminconsent", adminconsent.v1),
    path("<str:tenant>/v2.0/adminconsent", adminconsent.v2),
]
