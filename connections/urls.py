"""Every page of the portal. A newcomer starts reading here."""

from django.urls import path

from connections.views import (
    accounts,
    alerts,
    app_registrations,
    audit,
    connections,
    consent,
    credentials,
    health,
    home,
    incidents,
    mailboxes,
    tenants,
)

urlpatterns = [
    path("", home.index, name="home"),
    # Signing in and out
    path("sign-in/", accounts.sign_in, name="sign_in"),
    path("sign-out/", accounts.sign_out, name="sign_out"),
    path("account/", accounts.profile, name="account"),
    path("account/alerts/", alerts.choices, name="account_alerts"),
    path("account/alerts/test/", alerts.choices_test, name="account_alerts_test"),
    # Tenants
    path("tenants/", tenants.index, name="tenants"),
    path("tenants/add/", tenants.add, name="tenant_add"),
    path("tenants/<int:pk>/", tenants.detail, name="tenant"),
    path("tenants/<int:pk>/edit/", tenants.edit, name="tenant_edit"),
    path("tenants/<int:pk>/remove/", tenants.remove, name="tenant_remove"),
    # App registrations
    path("apps/", app_registrations.index, name="apps"),
    path("apps/add/", app_registrations.add, name="app_add"),
    path("apps/<int:pk>/", app_registrations.detail, name="app"),
    path("apps/<int:pk>/edit/", app_registrations.edit, name="app_edit"),
    path("apps/<int:pk>/remove/", app_registrations.remove, name="app_remove"),
    path("apps/<int:pk>/verify/", app_registrations.verify, name="app_verify"),
    path("apps/<int:pk>/script/", app_registrations.script, name="app_script"),
    path("apps/<int:pk>/credentials/add/", credentials.add, name="credential_add"),
    path("apps/<int:pk>/credentials/<int:credential_pk>/retire/", credentials.retire, name="credential_retire"),
    path(
        "apps/<int:pk>/credentials/<int:credential_pk>/certificate/",
        credentials.certificate,
        name="credential_certificate",
    ),
    # Admin consent
    path("apps/<int:pk>/consent/", consent.start, name="consent_start"),
    path("consent/callback/", consent.callback, name="consent_callback"),
    # Connections
    path("connections/", connections.index, name="connections"),
    path("connections/add/", connections.choose, name="connection_choose"),
    path("connections/add/<int:app_pk>/", connections.add, name="connection_add"),
    path("connections/<int:pk>/", connections.detail, name="connection"),
    path("connections/<int:pk>/edit/", connections.edit, name="connection_edit"),
    path("connections/<int:pk>/sign-in/", connections.sign_in, name="connection_sign_in"),
    path("connections/<int:pk>/check/", connections.check, name="connection_check"),
    path("connections/<int:pk>/disable/", connections.disable, name="connection_disable"),
    path("connections/<int:pk>/enable/", connections.enable, name="connection_enable"),
    path("connections/<int:pk>/remove/", connections.remove, name="connection_remove"),
    path("connections/<int:pk>/mailboxes/", mailboxes.attach, name="mailbox_attach"),
    path("connections/<int:pk>/mailboxes/<int:access_pk>/probe/", mailboxes.probe, name="mailbox_probe"),
    path("connections/<int:pk>/mailboxes/<int:access_pk>/detach/", mailboxes.detach, name="mailbox_detach"),
    # Shared mailboxes
    path("mailboxes/", mailboxes.index, name="mailboxes"),
    path("mailboxes/add/", mailboxes.add, name="mailbox_add"),
    path("mailboxes/<int:pk>/", mailboxes.detail, name="mailbox"),
    path("mailboxes/<int:pk>/edit/", mailboxes.edit, name="mailbox_edit"),
    path("mailboxes/<int:pk>/remove/", mailboxes.remove, name="mailbox_remove"),
    # Incidents
    path("incidents/", incidents.index, name="incidents"),
    path("incidents/<int:pk>/", incidents.detail, name="incident"),
    # Alerts
    path("alerts/", alerts.index, name="alerts"),
    path("alerts/retry/", alerts.retry_all, name="alerts_retry"),
    path("alerts/<int:pk>/retry/", alerts.retry, name="alert_retry"),
    path("alerts/channels/", alerts.channels, name="alert_channels"),
    path("alerts/channels/add/", alerts.channel_add, name="alert_channel_add"),
    path("alerts/channels/<int:pk>/", alerts.channel, name="alert_channel"),
    path("alerts/channels/<int:pk>/edit/", alerts.channel_edit, name="alert_channel_edit"),
    path("alerts/channels/<int:pk>/disable/", alerts.channel_disable, name="alert_channel_disable"),
    path("alerts/channels/<int:pk>/enable/", alerts.channel_enable, name="alert_channel_enable"),
    path("alerts/channels/<int:pk>/remove/", alerts.channel_remove, name="alert_channel_remove"),
    path("alerts/channels/<int:pk>/test/", alerts.channel_test, name="alert_channel_test"),
    path("alerts/channels/<int:pk>/secret/", alerts.channel_secret, name="alert_channel_secret"),
    # Audit
    path("audit/", audit.index, name="audit"),
    path("audit/<int:pk>/", audit.detail, name="audit_event"),
    # For machines that watch the portal
    path("healthz", health.healthz, name="healthz"),
    path("readyz", health.readyz, name="readyz"),
    path("metrics", health.metrics, name="metrics"),
]
