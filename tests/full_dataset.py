"""One object of every kind, with recognisable secrets, for tests of all pages."""

from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache
from typing import Any

from django.urls import get_resolver, reverse
from django.utils import timezone

from connections import audit
from connections.microsoft import capabilities, certificates, clouds
from connections.models import (
    AccessReview,
    AlertChannel,
    ApiKey,
    AppCredential,
    AppRegistration,
    Approval,
    AuditEvent,
    AuditVerification,
    AuditView,
    Connection,
    ConsentLink,
    ConsentRequest,
    Delivery,
    Incident,
    MailboxAccess,
    Share,
    SharedMailbox,
    Team,
    TeamMember,
    Tenant,
    User,
)
from connections.models.audit import AuditAction
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
SECRETS = (
    REFRESH_TOKEN,
    PREVIOUS_REFRESH_TOKEN,
    ACCESS_TOKEN,
    factories.CLIENT_SECRET,
    "PRIVATE KEY",
    "a-recognisable-channel-path",
    SIGNING_SECRET,
)


@dataclass(frozen=True)
class World:
    """Contoso, where bob owns the connection and registered the mailbox."""

    people: dict[str, User]
    tenant: Tenant
    app: AppRegistration
    secret: AppCredential
    certificate: AppCredential
    connection: Connection
    mailbox: SharedMailbox
    access: MailboxAccess
    consent: ConsentLink
    consent_request: ConsentRequest
    review: AccessReview
    event: AuditEvent
    incident: Incident
    share: Share
    key: ApiKey
    service_account: User
    team: Team
    channel: AlertChannel
    delivery: Delivery
    approval: Approval

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
            "app_pk": self.app.pk,
            "credential_pk": self.certificate.pk if name == "credential_certificate" else self.secret.pk,
            "share_pk": self.share.pk,
            "user_pk": self.people["dave"].pk,
        }
        matches = [
            (prefix, kind) for kind, prefixes in _TARGETS.items() for prefix in prefixes if name.startswith(prefix)
        ]
        kind = max(matches, key=lambda match: len(match[0]), default=("", ""))[1]
        if kind == "verification":
            known["pk"] = AuditVerification.objects.get().pk
        elif kind == "view":
            known["pk"] = AuditView.objects.get().pk
        elif kind:
            known["pk"] = (self.people["bob"] if kind == "person" else getattr(self, kind)).pk
        return known

    def api_arguments(self) -> dict[str, Any]:
        return {
            "access_id": self.access.pk,
            "app_id": self.app.pk,
            "approval_id": self.approval.pk,
            "credential_id": self.secret.pk,
            "event_id": self.event.pk,
            "incident_id": self.incident.pk,
            "mailbox_id": self.mailbox.pk,
            "person_id": self.people["bob"].pk,
            "ref": str(self.connection.pk),
            "request_id": self.consent_request.pk,
            "review_id": self.review.pk,
            "share_id": self.share.pk,
            "team_id": self.team.pk,
            "tenant_id": self.tenant.pk,
            "user_id": self.people["dave"].pk,
        }


_ATTACHED = ("mailbox_attach", "mailbox_detach", "mailbox_powershell", "mailbox_probe", "mailbox_send")
# The object that "pk" identifies, by the longest prefix that matches the URL's name.
_TARGETS = {
    "app": ("app", "credential", "consent_start", "policy_app"),
    "approval": ("approval",),
    "channel": ("alert_channel",),
    "connection": ("connection", "share", "approval_ask", "consent_request_add", *_ATTACHED),
    "consent_request": ("consent_request",),
    "delivery": ("alert_retry",),
    "event": ("audit_event",),
    "incident": ("incident",),
    "key": ("api_key",),
    "mailbox": ("mailbox",),
    "person": ("person",),
    "review": ("review",),
    "service_account": ("service_account",),
    "team": ("team",),
    "tenant": ("tenant",),
    "verification": ("audit_verification",),
    "view": ("audit_view",),
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


def make(people: dict[str, User], **connection: Any) -> World:
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
    team = Team.objects.create(name="Finance", created_by=alice)
    TeamMember.objects.create(team=team, user=people["dave"])
    channel = AlertChannel.objects.create(
        name="Tickets",
        kind=AlertChannel.Kind.WEBHOOK,
        url=CHANNEL_URL,
        host="192.0.2.1",
        signing_secret=SIGNING_SECRET,
        created_by=alice,
    )
    share = Share.objects.create(
        connection=connection_made, team=Team.objects.create(name="Nobody yet"), created_by=bob
    )
    incident = incidents.report_mailbox(reach, now=timezone.now())
    AuditView.objects.create(person=people["carol"], name="Denied", query="outcome=denied")
    AuditVerification.objects.create(
        asked_by=people["carol"],
        asked_by_name="Carol",
        asked_at=timezone.now(),
        finished_at=timezone.now(),
        state="intact",
    )
    return World(
        people=people,
        tenant=tenant,
        app=app,
        secret=secret,
        certificate=certificate,
        connection=connection_made,
        mailbox=mailbox,
        access=reach,
        consent=ConsentLink.objects.create(
            app_registration=app, directory_id=tenant.directory_id, state_digest="x" * 64, requested_by=alice
        ),
        consent_request=factories.make_consent_request(connection_made),
        key=ApiKey.objects.create(name="Robot", owner=bob, prefix="abcdefghij", digest="0" * 64, scopes=["token:read"]),
        service_account=factories.make_service_account(responsible=alice),
        share=share,
        review=factories.make_review(share),
        team=team,
        event=audit.record(AuditAction.CONNECTION_CREATED, connection_made, actor=bob),
        incident=incident,
        channel=channel,
        approval=make_approval(connection_made),
        delivery=incident.deliveries.order_by("pk")[0],
    )


def relate(world: World) -> World:
    """Create people with every other relation to bob's connection: una, max, tina and eve of tests/factories.py."""
    related = {name: factories.make_person(name) for name in ("una", "max", "tina", "eve")}
    now, made_by = timezone.now(), {"connection": world.connection, "created_by": world.people["bob"]}
    team = Team.objects.create(name="Accounting", created_by=world.people["alice"])
    TeamMember.objects.create(team=team, user=related["tina"])
    Share.objects.create(person=related["una"], **made_by)
    Share.objects.create(person=related["max"], level=Share.Level.MANAGE, **made_by)
    Share.objects.create(team=team, **made_by)
    Share.objects.create(
        person=related["eve"], until=now - timedelta(days=1), created_at=now - timedelta(days=9), **made_by
    )
    return replace(world, people=world.people | related)


def make_approval(connection: Connection, **overrides: Any) -> Approval:
    """Create a pending approval request by the connection's owner."""
    values: dict[str, Any] = {
        "connection_name": connection.name,
        "app_name": connection.app_registration.name,
        "authentication_type": connection.authentication_type,
        "capabilities": connection.capabilities,
        "permissions": ["Mail.Read"],
        "reasons": ["Mail.Read needs the approval of an IT admin under the organisation's policy."],
        "requested_by": connection.owner,
        "requested_by_name": str(connection.owner),
        "requested_at": timezone.now(),
    }
    return Approval.objects.create(connection=connection, **(values | overrides))


def policy_form(**typed: Any) -> dict[str, Any]:
    """Return the policy form without restrictions, overridden by ``typed``."""
    allowed = dict.fromkeys((f"capability-{key}" for key in capabilities.CAPABILITIES), "allowed")
    ticked = dict.fromkeys(("personal_accounts", "other_tenants", "share_with_people", "share_app_only"), "on")
    everywhere = {
        "authentication_types": ["authorization_code", "client_credentials"],
        "environments": list(clouds.CLOUDS),
        "tenants": [f"{tenant.environment}/{tenant.directory_id}" for tenant in Tenant.objects.all()],
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
        "tenant": tenant,
        "app": app,
        "credential": app.credentials.get(),
        "connection": connection,
        "mailbox": mailbox,
        "access": factories.make_mailbox_access(connection, mailbox),
    }


def posted(world: World) -> dict[str, dict[str, Any]]:
    """Return a valid form for each URL name; see FILLED_IN for the others."""
    tomorrow = (timezone.now() + timedelta(days=1)).date().isoformat()
    secret = {"kind": "secret", "secret": seed.ROBOTS_SECRET, "expires_at": tomorrow, "save_untried": "1"}
    return _posted_to_api(world) | {
        "policy": policy_form(**{"capability-files.write": "forbidden"}),
        "policy_app": policy_form(**{"capability-files.write": "approval"}),
        "approval_decline": {"reason": "Use a team mailbox instead."},
        "approval_ask": {"reason": "For the invoices."},
        "share_add": {"whom": f"person:{world.people['carol'].pk}", "level": "use", "understood": "on"},
        "connection_hand_over": {
            "seen_owner": world.people["bob"].pk,
            "new_owner": world.people["dave"].pk,
            "grant": "keep",
        },
        "person_hand_over": {
            "everything_to": world.people["dave"].pk,
            "grant": "cut",
            f"take_{world.connection.pk}": "on",
        },
        "access_export": {"connection": world.connection.pk},
        "api_key_add": {"name": "Another", "scopes": ["token:read"], "expires_on": tomorrow},
        "api_key_rotate": {"overlap": "24", "expires_on": tomorrow},
        "service_account_add": {"name": "Reports", "purpose": "Reads mail.", "responsible": world.people["bob"].pk},
        "service_account_edit": {"purpose": "Nothing yet.", "responsible": world.people["bob"].pk},
        "service_account_key_add": {"name": "Robot", "scopes": ["token:read"], "expires_on": tomorrow},
        "team_add": {"name": "Sales"},
        "team_edit": {"name": "Renamed"},
        "team_member_add": {"user": world.people["bob"].pk},
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
        "app_edit": {"name": "Renamed", "audience": "single", "allows_delegated": "on", "allows_app_only": "on"},
        "credential_add": {**secret, "secret": factories.CLIENT_SECRET},
        "connection_add": {"kind": "authorization_code", "name": "Another", "chosen": ["mail.read"]},
        "review_add": {"name": "Q4", "covers": "all", "due": (timezone.now() + timedelta(days=21)).date().isoformat()},
        "review_plan": {"is_on": "on", "days": "21"},
        "review": {f"answer-{item.pk}": "confirmed" for item in world.review.items.all()},
        "consent_request_add": {"reason": "The month's end"},
        "consent_request_decline": {"reason": "Use the archive instead", "seen": "asked"},
        "connection_edit": {"name": "Renamed", "chosen": ["mail.read", "calendar.events"]},
        "mailbox_attach": {"address": "sales@contoso.example"},
        "mailbox_add": {"tenant": world.tenant.pk, "address": "info@contoso.example", "display_name": "Info"},
        "alert_channel_add": {"kind": "chat", "name": "Operations", "url": "https://93.184.216.34/hook"},
        "alert_channel_edit": {"name": "Renamed"},
        "audit_view_add": {"name": "Failed", "query": "outcome=failed"},
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
        "api:add_credential": {"kind": "generate", "months": 12},
        "api:ask_consent": {"connection_id": world.connection.pk, "reason": "For the invoices."},
        "api:hand_over": {"new_owner": "dave"},
        "api:hand_over_all": {"new_owner_id": world.people["dave"].pk, "grant": "cut"},
        "api:start_review": {"name": "Q4", "due": (timezone.now() + timedelta(days=21)).date().isoformat()},
        "api:answer_review": {
            "answers": [{"item_id": item.pk, "decision": "confirmed"} for item in world.review.items.all()]
        },
        "api:decline_approval": {"reason": "Use a team mailbox instead."},
        "api:decline_consent_request": {"reason": "Not now."},
    }
