"""An organisation after a year of use: many connections, long names, many scripts, and failures."""

import json
from datetime import timedelta

from django.utils import timezone

from connections import audit, models
from connections.microsoft.classifier import Verdict, classify
from connections.models.audit import AuditAction
from connections.services.incidents import incidents
from connections.services.tokens import apply_results
from tests import factories, full_dataset

LONG = "Accounts payable of the shared service centre for Central and Eastern Europe, invoices above ten thousand euro"
UNBROKEN = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft"
NAMES = (
    "Invoices inbox", LONG, UNBROKEN, "发票收件箱（上海分公司）", "فواتير المشتريات", "Søren's reminders 📬", "Zürich – Möbel & Co.",
    "<b>not bold</b> & \"quoted\"", "HR leave calendar", "Ticket mailbox", "Board minutes", "Contract archive",
)  # fmt: skip
TROUBLES = (50173, 700082, 65001, 53003)


def make(admin: models.User, member: models.User) -> None:
    """Fill the database; ``member`` owns most of the connections."""
    tenants = _tenants()
    apps = _apps(tenants, admin)
    connections = [_connection(number, apps[number % 3], member if number % 4 else admin) for number in range(60)]
    incidents.app_rejected(apps[1], verdict(7000222), now=timezone.now() - timedelta(hours=3))
    _break(connections)
    _mailboxes(tenants[0], connections, member)
    models.ConsentLink.objects.create(
        app_registration=apps[0], directory_id=factories.DIRECTORY_ID, state_digest="0" * 64, requested_by=admin
    )
    _policy(connections, member)
    _asked_and_reviewed(connections, admin, member)
    for connection in connections:
        audit.record(
            AuditAction.CONNECTION_CREATED, connection, actor=connection.owner, changes={"scopes": connection.scopes}
        )
    audit.record(AuditAction.CONNECTION_SHARED, connections[0], actor=member, outcome="denied")


def _policy(connections: list[models.Connection], member: models.User) -> None:
    """Create rules of both kinds, connections that break them, and requests in every state."""
    rules = {"permissions": {"Mail.*": "approval", "Calendars.*": "forbidden"}, "longest_share_days": 30}
    models.Policy.objects.create(
        rules=rules | {"capabilities": {"files.write": "forbidden"}, "app_only_second_admin": True}
    )
    models.Policy.objects.create(app_registration=connections[1].app_registration, rules={"share_app_only": False})
    for connection, state in zip(connections[4:], models.Approval.State.values, strict=False):
        full_dataset.make_approval(
            connection, state=state, reason=LONG, requested_by=member, reasons=[f"{LONG}."], decision_reason=UNBROKEN,
            decided_at=None if state == "waiting" else timezone.now(), decided_by_name="Alice Admin",
        )  # fmt: skip


def _tenants() -> list[models.Tenant]:
    return [
        factories.make_tenant(),
        factories.make_tenant(name=f"{LONG[:80]} (test)", directory_id="fabrikam.example", tid=""),
        factories.make_tenant(
            name="寿司株式会社", environment="china", directory_id="8" * 8 + "-1111-4111-8111-" + "8" * 12, tid=""
        ),
    ]


def _apps(tenants: list[models.Tenant], admin: models.User) -> list[models.AppRegistration]:
    now = timezone.now()
    expired = verdict(7000222)
    apps = [
        factories.make_app_registration(tenant=tenants[0], default_capabilities=["mail.read"], created_by=admin),
        factories.make_app_registration(
            tenant=tenants[1], name=LONG, client_id=factories.ROBOTS_CLIENT_ID, secret=None, rejected_at=now - timedelta(hours=3),
            rejected_code="AADSTS7000222", rejected_cause=expired.cause, rejected_action=expired.action,
        ),
        factories.make_app_registration(
            tenant=tenants[2], name="多租户应用", client_id="3017e7a4-33c7-4d2f-8a5e-7f4d9e8a3c03", audience="multi", verified_at=None,
            allows_app_only=False, secret=None,
        ),
    ]  # fmt: skip
    factories.make_secret(apps[0], label="Until next week", expires_at=now + timedelta(days=6))
    factories.make_secret(
        apps[1], label=LONG, expires_at=now - timedelta(days=2), rejected_at=now, rejected_code="AADSTS7000222"
    )
    return apps


def _connection(number: int, app: models.AppRegistration, owner: models.User) -> models.Connection:
    base = NAMES[number % len(NAMES)]
    name = (base if number < len(NAMES) else f"{base[:100]} {number}")[:120]
    now = timezone.now() - timedelta(minutes=number)
    if app.allows_app_only and number % 9 == 0:
        return factories.make_app_only_connection(name=name, app_registration=app, owner=owner)
    account = f"{UNBROKEN.lower()[:40]}@contoso.example" if number % 7 == 3 else factories.ADA
    return factories.make_connection(
        name=name, app_registration=app, owner=owner, account_username=account, checked_at=now
    )


def _break(connections: list[models.Connection]) -> None:
    for number, connection in enumerate(connection for connection in connections[1:30:2] if connection.is_delegated):
        broke_at = timezone.now() - timedelta(hours=number * 9 + 1)
        apply_results.flag(connection.pk, verdict(TROUBLES[number % len(TROUBLES)]), now=broke_at, version=1)
    models.Connection.objects.filter(pk=connections[20].pk).update(status="disabled")
    models.Connection.objects.filter(pk=connections[22].pk).update(
        status="pending", connected_at=None, sign_in_started_at=timezone.now() - timedelta(hours=2),
        refresh_token=None, access_token=None, granted_scopes="", account_oid="", account_username="", account_name="",
    )  # fmt: skip


def _asked_and_reviewed(connections: list[models.Connection], admin: models.User, member: models.User) -> None:
    owned = [connection for connection in connections if connection.owner_id == member.pk and connection.is_delegated]
    factories.make_consent_request(
        owned[0], reason=f"{LONG}\n{UNBROKEN}", permissions="Mail.Read Mail.Send Sites.ReadWrite.All"
    )
    factories.make_consent_request(
        owned[1], state="declined", answer=LONG, closed_at=timezone.now(), decided_by_name=LONG
    )
    team = models.Team.objects.create(name=LONG[:100])
    shares = [
        models.Share.objects.create(connection=connection, person=admin, created_by=member) for connection in owned[:3]
    ]
    shares.append(models.Share.objects.create(connection=owned[2], team=team, created_by=member))
    running, over = factories.make_review(*shares), factories.make_review(*shares, name=LONG, closed_at=timezone.now())
    running.items.filter(share=shares[1]).update(decision="confirmed", decided_at=timezone.now(), note=UNBROKEN)
    over.items.update(decision="expired", decided_at=timezone.now(), ended_at=timezone.now())


def verdict(code: int) -> Verdict:
    """Return how the portal classifies this AADSTS code."""
    answer = {
        "error": "invalid_grant",
        "error_codes": [code],
        "error_description": f"AADSTS{code}: {LONG}.",
        "trace_id": "5c0a70b5-1e5d-4c36-9d5e-7a1c0d2f4b10",
        "correlation_id": "8fab21ca-6b1d-4d3e-a1f7-2c9b5e0d6a42",
    }
    return classify(where="token", status=400, headers={}, body=json.dumps(answer))


def _mailboxes(tenant: models.Tenant, connections: list[models.Connection], member: models.User) -> None:
    boxes = [factories.make_mailbox(tenant=tenant, created_by=member)]
    boxes.append(
        factories.make_mailbox(
            tenant=tenant, address=f"{UNBROKEN.lower()[:60].replace('ä', 'ae')}@contoso.example", display_name=LONG
        )
    )
    models.SharedMailbox.objects.bulk_create(
        models.SharedMailbox(tenant=tenant, address=f"team{number}@contoso.example") for number in range(30)
    )
    factories.make_mailbox_access(connections[0], boxes[0], state="reachable", probed_at=timezone.now())
    blocked = factories.make_mailbox_access(
        connections[0], boxes[1], state="unreachable", probed_at=timezone.now(), code="ErrorAccessDenied",
        cause="Microsoft says that the account may not open this mailbox.",
        action="An Exchange administrator gives the account Full Access to the mailbox; it takes up to an hour.",
    )  # fmt: skip
    incidents.report_mailbox(blocked, now=timezone.now())
    factories.make_mailbox_access(connections[1], boxes[0], state=models.MailboxAccess.State.UNPROBED)
