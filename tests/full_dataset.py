"""One object of every kind, with recognisable secrets, for tests of all pages."""

from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache
from typing import Any

import pyotp
from django.urls import get_resolver, reverse
from django.utils import timezone

from connections import audit, models
from connections.microsoft import capabilities, certificates, clouds
from connections.models.audit import AuditAction
from connections.services.connections import bulk_actions
from connections.services.connections.bulk_options import Options
from connections.services.incidents import incidents
from connections.services.registry import credentials
from portal.sandbox import seed
from tests import factories

REFRESH_TOKEN = "1.A-recognisable-refresh-token"
PREVIOUS_REFRESH_TOKEN = "1.A-recognisable-previous-refresh-token"
ACCESS_TOKEN = "eyJ0eXAi.recognisable.access-token"
# Sent with every form on a page, so that none is empty.
FILLED_IN = {"csrfmiddlewaretoken": "not checked in tests"}
# An address reserved for documentation: nothing may be sent to it.
CHANNEL_URL = "https://192.0.2.1/a-recognisable-channel-path"
SIGNING_SECRET = "whsec_cmVjb2duaXNhYmxlIHNpZ25pbmcgc2VjcmV0"
APP_KEY = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"  # of bob's authenticator app
SECRETS = (
    REFRESH_TOKEN,
    PREVIOUS_REFRESH_TOKEN,
    ACCESS_TOKEN,
    factories.CLIENT_SECRET,
    "PRIVATE KEY",
    "a-recognisable-channel-path",
    SIGNING_SECRET,
    APP_KEY,
)


@dataclass(frozen=True)
class World:
    """Contoso, where bob owns the connection and registered the mailbox."""

    people: dict[str, models.User]
    tenant: models.Tenant
    app: models.AppRegistration
    secret: models.AppCredential
    certificate: models.AppCredential
    connection: models.Connection
    mailbox: models.SharedMailbox
    access: models.MailboxAccess
    consent: models.ConsentLink
    consent_request: models.ConsentRequest
    reference: models.ConnectionReference
    review: models.AccessReview
    event: models.AuditEvent
    incident: models.Incident
    tenant_incident: models.Incident
    share: models.Share
    key: models.ApiKey
    service_account: models.User
    team: models.Team
    channel: models.AlertChannel
    delivery: models.Delivery
    approval: models.Approval
    second_factor: models.SecondFactor
    change_request: models.ChangeRequest
    bulk_action: models.BulkAction
    notification: models.Notification

    def url(self, name: str, argument: str = "") -> str:
        """Return the URL with this name, using the ids in this dataset."""
        if argument:
            return reverse(name, args=[argument])
        if name == "sign_in_link":
            return reverse(name, args=["no-such-token"])
        known = self.api_arguments() if name.startswith("api:") else self._page_arguments(name)
        return reverse(name, kwargs={argument: known[argument] for argument in _arguments(name)})

    def _page_arguments(self, name: str) -> dict[str, Any]:
        known = {
            "access_pk": self.access.pk,
            "connector": "outlook",
            "page": "clients/python",
            "name": "home",
            "source": "recipients",
            "step": "policy",
            "app_pk": self.app.pk,
            "consent_pk": self.app.consents.get().pk,
            "credential_pk": self.certificate.pk if name == "credential_certificate" else self.secret.pk,
            "share_pk": self.share.pk,
            "user_pk": self.people["dave"].pk,
        }
        matches = [
            (prefix, kind) for kind, prefixes in _TARGETS.items() for prefix in prefixes if name.startswith(prefix)
        ]
        kind = max(matches, key=lambda match: len(match[0]), default=("", ""))[1]
        if kind == "verification":
            known["pk"] = models.AuditVerification.objects.get().pk
        elif kind == "view":
            known["pk"] = models.SavedView.objects.get().pk
        elif kind:
            known["pk"] = (self.people["bob"] if kind == "person" else getattr(self, kind)).pk
        return known

    def api_arguments(self) -> dict[str, Any]:
        return {
            "access_id": self.access.pk,
            "app_id": self.app.pk,
            "approval_id": self.approval.pk,
            "change_id": self.change_request.pk,
            "credential_id": self.secret.pk,
            "event_id": self.event.pk,
            "incident_id": self.incident.pk,
            "mailbox_id": self.mailbox.pk,
            "person_id": self.people["bob"].pk,
            "ref": str(self.connection.pk),
            "name": self.reference.name,
            "request_id": self.consent_request.pk,
            "review_id": self.review.pk,
            "share_id": self.share.pk,
            "team_id": self.team.pk,
            "tenant_id": self.tenant.pk,
            "user_id": self.people["dave"].pk,
        }


_ATTACHED = (
    "mailbox_attach",
    "mailbox_detach",
    "mailbox_permission",
    "mailbox_powershell",
    "mailbox_probe",
    "mailbox_send",
)
# The object that "pk" identifies, by the longest prefix that matches the URL's name.
_TARGETS = {
    "app": ("app", "credential", "consent_start", "policy_app"),
    "approval": ("approval",),
    "bulk_action": ("bulk_action",),
    "change_request": ("change_request",),
    "channel": ("alert_channel",),
    "connection": ("connection", "share", "approval_ask", "consent_request_add", *_ATTACHED),
    "consent_request": ("consent_request",),
    "delivery": ("alert_retry",),
    "event": ("audit_event",),
    "incident": ("incident",),
    "tenant_incident": ("incident_add_tenant",),
    "key": ("api_key",),
    "mailbox": ("mailbox",),
    "notification": ("notification",),
    "person": ("person",),
    "reference": ("reference",),
    "review": ("review",),
    "second_factor": ("second_factor",),
    "service_account": ("service_account",),
    "team": ("team",),
    "tenant": ("tenant",),
    "verification": ("audit_verification",),
    "view": ("saved_view",),
}


@cache
def _arguments(name: str) -> tuple[str, ...]:
    namespace, _, plain = name.rpartition(":")
    resolver = get_resolver()
    if namespace:
        _, resolver = resolver.namespace_dict[namespace]
    ((_, names),) = resolver.reverse_dict.getlist(plain)[0][0]
    return tuple(names)


@cache
def _generated() -> credentials.NewCertificate:
    """Return a certificate made by the portal, cached because RSA keys are slow to generate."""
    pair = certificates.generate("Contoso Connections", months=12, now=timezone.now())
    return credentials.NewCertificate(pair, at_microsoft=False)


def make(people: dict[str, models.User], **connection: Any) -> World:
    """Create one of everything in Contoso; ``connection`` holds column values for bob's connection."""
    alice, bob = people["alice"], people["bob"]
    tenant = factories.make_tenant(created_by=alice)
    app = factories.make_app_registration(tenant=tenant, created_by=alice, default_capabilities=["mail.read"])
    secret = app.credentials.get()
    certificate = credentials.store(app, _generated(), actor=alice, verified_at=None)
    tokens = {
        "refresh_token": REFRESH_TOKEN,
        "previous_refresh_token": PREVIOUS_REFRESH_TOKEN,
        "access_token": ACCESS_TOKEN,
    }
    connection_made = factories.make_connection(app_registration=app, owner=bob, **(tokens | connection))
    mailbox = factories.make_mailbox(tenant=tenant, created_by=bob)
    reach = factories.make_mailbox_access(connection_made, mailbox)
    team = models.Team.objects.create(name="Finance", created_by=alice)
    models.TeamMember.objects.create(team=team, user=people["dave"])
    channel = models.AlertChannel.objects.create(
        name="Tickets", kind=models.AlertChannel.Kind.WEBHOOK, url=CHANNEL_URL, host="192.0.2.1",
        signing_secret=SIGNING_SECRET, created_by=alice,
    )  # fmt: skip
    share = models.Share.objects.create(
        connection=connection_made, team=models.Team.objects.create(name="Nobody yet"), created_by=bob
    )
    incident = incidents.report_mailbox(reach, now=timezone.now())
    models.SavedView.objects.create(person=people["carol"], name="Denied", query="outcome=denied")
    models.AuditVerification.objects.create(
        asked_by=people["carol"], asked_by_name="Carol", asked_at=timezone.now(), finished_at=timezone.now(),
        state="intact",
    )  # fmt: skip
    return World(
        people=people,
        tenant=tenant,
        app=app,
        secret=secret,
        certificate=certificate,
        connection=connection_made,
        mailbox=mailbox,
        access=reach,
        consent=models.ConsentLink.objects.create(
            app_registration=app, directory_id=tenant.directory_id, state_digest="x" * 64, requested_by=alice
        ),
        consent_request=factories.make_consent_request(connection_made),
        key=models.ApiKey.objects.create(
            name="Robot", owner=bob, prefix="abcdefghij", digest="0" * 64, scopes=["token:read"]
        ),
        service_account=factories.make_service_account(responsible=alice),
        share=share,
        reference=models.ConnectionReference.objects.create(
            name="invoices-inbox", connection=connection_made, owner=bob
        ),
        review=factories.make_review(share),
        team=team,
        event=audit.record(AuditAction.CONNECTION_CREATED, connection_made, actor=bob),
        incident=incident,
        tenant_incident=incidents.tenant_unknown(
            connection_made, seed.FABRIKAM, username="guest@fabrikam.example", now=timezone.now()
        ),
        channel=channel,
        approval=make_approval(connection_made),
        change_request=make_change_request(connection_made, people["dave"]),
        bulk_action=make_bulk_action(connection_made),
        delivery=incident.deliveries.order_by("pk")[0],
        notification=models.Notification.objects.create(
            user=bob,
            key="approval:1:approved",
            event=models.Delivery.Event.MESSAGE,
            text="Approved: Invoices",
            path="/approvals/1/",
            created_at=timezone.now(),
        ),
        second_factor=models.SecondFactor.objects.create(
            person=bob, kind=models.SecondFactor.Kind.APP, name="Bob's phone", secret=APP_KEY
        ),
    )


def relate(world: World) -> World:
    """Create people with every other relation to bob's connection: una, max, tina and eve of tests/factories.py."""
    related = {name: factories.make_person(name) for name in ("una", "max", "tina", "eve")}
    now, made_by = timezone.now(), {"connection": world.connection, "created_by": world.people["bob"]}
    team = models.Team.objects.create(name="Accounting", created_by=world.people["alice"])
    models.TeamMember.objects.create(team=team, user=related["tina"])
    models.Share.objects.create(person=related["una"], **made_by)
    models.Share.objects.create(person=related["max"], level=models.Share.Level.MANAGE, **made_by)
    models.Share.objects.create(team=team, **made_by)
    models.Share.objects.create(
        person=related["eve"], until=now - timedelta(days=1), created_at=now - timedelta(days=9), **made_by
    )
    return replace(world, people=world.people | related)


def make_approval(connection: models.Connection, **overrides: Any) -> models.Approval:
    """Create a pending approval request by the connection's owner."""
    values: dict[str, Any] = {
        "connection_name": connection.name,
        "app_name": connection.app_registration.name,
        "authentication_type": connection.authentication_type,
        "capabilities": connection.capabilities,
        "permissions": ["Mail.Read"],
        "reasons": ["Mail.Read needs an IT admin's approval under the organisation's policy."],
        "requested_by": connection.owner,
        "requested_by_name": str(connection.owner),
        "requested_at": timezone.now(),
    }
    return models.Approval.objects.create(connection=connection, **(values | overrides))


def make_change_request(connection: models.Connection, requester: models.User) -> models.ChangeRequest:
    """Create a pending request to share the connection with its requester."""
    return models.ChangeRequest.objects.create(
        kind=models.ChangeRequest.Kind.SHARE,
        connection=connection,
        title=f"Sharing {connection} with {requester}",
        details=["Access: use, without an end"],
        proposal={"connection": connection.pk, "person": requester.pk, "team": None, "level": "use", "until": None},
        path=f"/connections/{connection.pk}/shares/add/",
        requested_by=requester,
        requested_by_name=str(requester),
        requested_at=timezone.now(),
    )


def make_bulk_action(connection: models.Connection) -> models.BulkAction:
    """Let the connection's owner prepare to give it a tag."""
    owner, now = connection.owner, timezone.now()
    bulk_action = bulk_actions.draft("tag", [connection], actor=owner, now=now)
    bulk_actions.preview(bulk_action, Options(tags=("finance",)), actor=owner, now=now)
    return bulk_action


def policy_form(**typed: Any) -> dict[str, Any]:
    """Return the policy form without restrictions, overridden by ``typed``."""
    allowed = dict.fromkeys((f"capability-{key}" for key in capabilities.CAPABILITIES), "allowed")
    ticked = dict.fromkeys(("personal_accounts", "other_tenants", "share_with_people", "share_app_only"), "on")
    everywhere = {
        "authentication_types": ["authorization_code", "client_credentials"],
        "environments": list(clouds.CLOUDS),
        "tenants": [f"{tenant.environment}/{tenant.directory_id}" for tenant in models.Tenant.objects.all()],
    }
    return allowed | ticked | everywhere | typed


def make_elsewhere() -> dict[str, Any]:
    """Create similar objects in another directory, all owned by alice."""
    tenant = factories.make_tenant(name="Fabrikam", directory_id=seed.FABRIKAM, tid=seed.FABRIKAM)
    app = factories.make_app_registration(
        tenant=tenant, name="Fabrikam app", client_id=seed.MULTI_APP, secret=seed.MULTI_SECRET
    )
    connection = factories.make_app_only_connection(app_registration=app, access_token=ACCESS_TOKEN)
    mailbox = factories.make_mailbox(tenant=tenant, address="office@fabrikam.example")
    return {
        "tenant": tenant, "app": app, "credential": app.credentials.get(), "connection": connection,
        "mailbox": mailbox, "access": factories.make_mailbox_access(connection, mailbox),
    }  # fmt: skip


def posted(world: World) -> dict[str, dict[str, Any]]:
    """Return a valid form for each URL name; see FILLED_IN for the others."""
    tomorrow = (timezone.now() + timedelta(days=1)).date().isoformat()
    secret = {"kind": "secret", "secret": seed.ROBOTS_SECRET, "expires_at": tomorrow, "save_untried": "1"}
    return _posted_to_api(world) | {
        "policy": policy_form(**{"capability-files.write": "forbidden"}),
        "policy_app": policy_form(**{"capability-files.write": "approval"}),
        "approval_decline": {"reason": "Use a team mailbox instead."},
        "change_request_decline": {"reason": "Ask the owner."},
        "share_emergency": {"hours": "1", "reason": "An outage."},
        "approval_ask": {"reason": "For the invoices."},
        "share_add": {"whom": f"person:{world.people['carol'].pk}", "level": "use", "understood": "on"},
        "connection_hand_over": {
            "seen_owner": world.people["bob"].pk,
            "new_owner": f"person:{world.people['dave'].pk}",
            "grant": "keep",
        },
        "person_hand_over": {
            "everything_to": f"person:{world.people['dave'].pk}",
            "grant": "cut",
            f"take_{world.connection.pk}": "on",
        },
        "change_password": {"new_password1": "another-long-pass-phrase", "new_password2": "another-long-pass-phrase"},
        "account": {"time_zone": "Europe/Berlin"},
        "confirm_identity": {"password": factories.PASSWORD},
        "second_factor_add_app": {"name": "Phone", "secret": APP_KEY, "code": pyotp.TOTP(APP_KEY).now()},
        "session_end": {"session": "of-nobody"},
        "access_export": {"connection": world.connection.pk},
        "api_key_add": {"name": "Another", "scopes": ["token:read"], "expires_on": tomorrow},
        "api_key_rotate": {"overlap": "24", "expires_on": tomorrow},
        "service_account_add": {"name": "Reports", "purpose": "Reads mail.", "responsible": "bob"},
        "service_account_edit": {"purpose": "Nothing yet.", "responsible": "bob"},
        "service_account_key_add": {"name": "Robot", "scopes": ["token:read"], "expires_on": tomorrow},
        "reference_add": {"name": "payroll", "connection": str(world.connection.pk)},
        "reference_edit": {"description": "For the month's end"},
        "reference_point": {"connection": str(world.connection.pk)},
        "connection_default": {"connector": "outlook"},
        "team_add": {"name": "Sales"},
        "team_edit": {"name": "Renamed"},
        "team_member_add": {"user": "bob"},
        "tenant_add": {"name": "New", "environment": "sandbox", "directory_id": "organizations"},
        "tenant_edit": {"name": "Renamed", "environment": "sandbox", "directory_id": world.tenant.directory_id},
        "app_add": {
            **secret,
            "tenant": world.tenant.pk,
            "name": "Robots",
            "client_id": seed.ROBOTS_APP,
            "audience": "single",
            "allows_app_only": "on",
        },
        "app_consents": {"directory_id": world.tenant.directory_id},
        "app_edit": {"name": "Renamed", "audience": "single", "allows_delegated": "on", "allows_app_only": "on"},
        "credential_expiry": {"expires_at": tomorrow},
        "credential_add": {**secret, "secret": factories.CLIENT_SECRET},
        "connect_service": {
            "app": world.app.pk,
            "kind": "authorization_code",
            "name": "Another",
            "chosen": ["mail.read"],
        },
        "connect_new_app": {
            "kind": "client_credentials",
            "name": "Another",
            "chosen": ["mail.read"],
            "client_id": seed.ROBOTS_APP,
            "audience": "single",
            "directory_id": world.tenant.directory_id,
            "environment": "sandbox",
            "credential-kind": "secret",
            "credential-secret": seed.ROBOTS_SECRET,
        },
        "review_add": {"name": "Q4", "covers": "all", "due": (timezone.now() + timedelta(days=21)).date().isoformat()},
        "review_plan": {"is_on": "on", "days": "21"},
        "review": {f"answer-{item.pk}": "confirmed" for item in world.review.items.all()},
        "notifications_read": {"upto": world.notification.pk},
        "consent_request_add": {"reason": "The month's end"},
        "consent_request_decline": {"reason": "Use the archive instead", "seen": "asked"},
        "connection_tags": {"tags": "finance, nightly"},
        "bulk_action_add": {"action": "check", "connection": [world.connection.pk]},
        "bulk_action_preview": {"tags": "finance"},
        "connection_edit": {"name": "Renamed", "chosen": ["mail.read", "calendar.events"]},
        "mailbox_attach": {"address": "sales@contoso.example"},
        "mailbox_add": {"tenant": world.tenant.pk, "address": "info@contoso.example", "display_name": "Info"},
        "alert_channel_add": {"kind": "chat", "name": "Operations", "url": "https://93.184.216.34/hook"},
        "alert_channel_edit": {"name": "Renamed"},
        "saved_view_add": {"page": "audit", "name": "Failed", "query": "outcome=failed"},
        "audit_export": {"format": "csv"},
        "mailbox_edit": {"address": "help@contoso.example", "display_name": "Help"},
    }


def _posted_to_api(world: World) -> dict[str, dict[str, Any]]:
    """Return a complete body for each API operation that takes one."""
    return {
        "api:add_team": {"name": "Sales"},
        "api:change_team": {"name": "Renamed"},
        "api:add_tenant": {"name": "New", "environment": "sandbox", "directory_id": "organizations"},
        "api:change_tenant": {"name": "Renamed"},
        "api:add_connection": {
            "app_registration": world.app.pk,
            "name": "Another",
            "authentication_type": "authorization_code",
            "capabilities": ["mail.read"],
        },
        "api:change_connection": {"name": "Renamed"},
        "api:replace_tags": {"tags": ["finance"]},
        "api:add_reference": {"name": "payroll", "connection_id": world.connection.pk},
        "api:change_reference": {"connection_id": world.connection.pk},
        "api:add_share": {"person_id": world.people["carol"].pk},
        "api:change_share": {"level": "manage"},
        "api:add_mailbox": {"tenant_id": world.tenant.pk, "address": "info@contoso.example"},
        "api:change_mailbox": {"display_name": "Help"},
        "api:attach_mailbox": {"address": "sales@contoso.example"},
        "api:add_app_registration": {
            "tenant_id": world.tenant.pk,
            "name": "Robots",
            "client_id": seed.ROBOTS_APP,
            "allows_app_only": True,
        },
        "api:change_app_registration": {"name": "Renamed"},
        "api:add_app_consent": {"directory_id": world.tenant.directory_id},
        "api:add_credential": {"kind": "generate", "months": 12},
        "api:ask_consent": {"connection_id": world.connection.pk, "reason": "For the invoices."},
        "api:hand_over": {"new_owner": "dave"},
        "api:hand_over_all": {"new_owner_id": world.people["dave"].pk, "grant": "cut"},
        "api:start_review": {"name": "Q4", "due": (timezone.now() + timedelta(days=21)).date().isoformat()},
        "api:answer_review": {
            "answers": [{"item_id": item.pk, "decision": "confirmed"} for item in world.review.items.all()]
        },
        "api:decline_change_request": {"reason": "Ask the owner."},
        "api:take_emergency_access": {"hours": 1, "reason": "An outage."},
        "api:decline_approval": {"reason": "Use a team mailbox instead."},
        "api:decline_consent_request": {"reason": "Not now."},
    }
