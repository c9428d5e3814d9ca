"""One app registration for many tenants.

What Microsoft says about an application in one tenant moves to ``AppConsent``, and connections name their tenant. App
registrations with the same client ID in one environment become one: it keeps all their credentials, connections and
consents, and the audit trail names those that were merged into it.
"""

import uuid
from importlib import import_module

import django.db.models.deletion
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models

from connections.services.policy import rules as policy_rules

SHARED_ENDPOINTS = ("common", "organizations", "consumers")
# What Microsoft says of an application in one tenant, as in data/aadsts.toml.
TENANT_CODES = (
    "AADSTS70001", "AADSTS700011", "AADSTS700016", "AADSTS7000112", "AADSTS7000229", "AADSTS50029", "AADSTS50049",
    "AADSTS50107", "AADSTS50128", "AADSTS50169", "AADSTS90002", "AADSTS900023", "AADSTS90038", "AADSTS900382",
    "AADSTS90043", "AADSTS900432", "AADSTS90051",
)  # fmt: skip
REJECTION = ("rejected_at", "rejected_code", "rejected_cause", "rejected_action", "canary_after")
INCIDENT_KINDS = [
    ("app_registration", "App registration rejected"),
    ("account", "Sign-in required"),
    ("consent", "Consent required"),
    ("policy", "Blocked by policy"),
    ("mailbox", "Shared mailbox not reachable"),
    ("encryption_key", "Encryption key missing"),
    ("outage", "Microsoft unreachable"),
    ("hand_over", "New owner sign-in"),
    ("altered_secret", "Stored secret moved or altered"),
    ("leaver", "Owner has left"),
    ("audit_trail", "Audit trail not trustworthy"),
    ("tenant", "Tenant not registered"),
    ("portal_sign_in", "Portal sign-in rejected"),
    ("credential_renewal", "Credential not renewed"),
]


def fill(apps, schema_editor):
    """Give every connection its tenant and every app registration its row there, then merge those that are the same."""
    app_model, consent_model = (
        apps.get_model("connections", "AppRegistration"),
        apps.get_model("connections", "AppConsent"),
    )
    connections = apps.get_model("connections", "Connection").objects
    for app in app_model.objects.select_related("tenant").order_by("pk"):
        app_model.objects.filter(pk=app.pk).update(environment=app.tenant.environment)
        values = {"paused_until": app.paused_until, "created_at": app.created_at, "created_by": app.created_by}
        is_shared = app.tenant.directory_id in SHARED_ENDPOINTS
        consent = consent_model.objects.create(
            app_registration=app,
            tenant=app.tenant,
            seen_at=None if is_shared else app.verified_at,
            **values,
        )
        connections.filter(app_registration=app).update(tenant=app.tenant, app_consent=consent)
    groups = {}
    for app in app_model.objects.select_related("tenant").order_by("pk"):
        groups.setdefault((app.tenant.environment, app.client_id), []).append(app)
    for same in groups.values():
        if len(same) > 1:
            _merge(apps, same)
    if schema_editor.connection.vendor == "postgresql":
        # Otherwise the deferred checks of these writes would block the changes of the tables that follow.
        schema_editor.execute("SET CONSTRAINTS ALL IMMEDIATE")


def _merge(apps, same):
    """Keep the one that works and has a directory of its own, else the oldest."""
    ordered = sorted(
        same, key=lambda app: (app.tenant.directory_id in SHARED_ENDPOINTS, app.rejected_at is not None, app.pk)
    )
    kept, others = ordered[0], ordered[1:]
    for app in ordered:
        _move_rejection(apps, app)
    for other in others:
        _record(apps, kept, other)
        _combine_policies(apps, kept, other)
        for relation in other._meta.related_objects:
            # Not reverse accessors, because some relations have none.
            relation.related_model._base_manager.filter(**{relation.field.name: other}).update(
                **{relation.field.name: kept}
            )
        _close_incident(apps, f"app:{other.pk}")
        kept.allows_delegated |= other.allows_delegated
        kept.allows_app_only |= other.allows_app_only
        kept.default_capabilities = list(dict.fromkeys([*kept.default_capabilities, *other.default_capabilities]))
        other.delete()
    kept.audience = "multi"
    kept.save(update_fields=["allows_delegated", "allows_app_only", "default_capabilities", "audience"])


def _move_rejection(apps, app):
    """What was only true of the tenant stays with the tenant. The next test opens its incident."""
    if app.rejected_at is None or app.rejected_code not in TENANT_CODES:
        return
    if app.tenant.directory_id not in SHARED_ENDPOINTS:
        values = {name: getattr(app, name) for name in REJECTION}
        consents = apps.get_model("connections", "AppConsent").objects
        consents.filter(app_registration=app, tenant=app.tenant).update(**values)
    app.rejected_at, app.canary_after = None, None
    app.rejected_code = app.rejected_cause = app.rejected_action = ""
    app.save(update_fields=list(REJECTION))
    _close_incident(apps, f"app:{app.pk}")


def _combine_policies(apps, kept, other):
    """Apply the stricter of both policies to everything."""
    policies = apps.get_model("connections", "Policy").objects
    of_other = policies.filter(app_registration=other).first()
    if of_other is None:
        return
    of_kept = policies.filter(app_registration=kept).first()
    if of_kept is not None:
        both = map(policy_rules.from_database, (of_kept.rules, of_other.rules))
        of_kept.rules = policy_rules.to_dict(policy_rules.stricter(*both))
        of_kept.version += 1
        of_kept.save(update_fields=["rules", "version"])
        of_other.delete()


def _close_incident(apps, key):
    now = django.utils.timezone.now()
    for incident in apps.get_model("connections", "Incident").objects.filter(key=key, closed_at=None):
        affected = apps.get_model("connections", "AffectedConnection").objects
        affected.filter(incident=incident, healed_at=None).update(healed_at=now)
        incident.closed_at, incident.remind_after = now, None
        incident.save(update_fields=["closed_at", "remind_after"])


def _record(apps, kept, other):
    names = [f"{name} of {other.name}" for name in _credential_names(apps, other)]
    apps.get_model("connections", "AuditEvent")(
        action="app_registration.merged",
        outcome="done",
        actor_name="Portal",
        target_type="AppRegistration",
        target_id=str(kept.pk),
        target_name=kept.name,
        changes={
            "merged": f"{other.name} ({other.pk})",
            "tenant": other.tenant.name,
            "client_id": other.client_id,
            "credentials": ", ".join(names),
        },
        request_id=str(uuid.uuid4()),
    ).save(force_insert=True)


def _credential_names(apps, app):
    rows = apps.get_model("connections", "AppCredential").objects.filter(app_registration=app, retired_at=None)
    return [row.label or row.hint or row.thumbprint[:8] for row in rows.defer("secret", "private_key")]


def keep_identity(apps, schema_editor):
    """SQLite rebuilds the table of connections, which drops its trigger."""
    import_module("connections.migrations.0005_bound_secrets").install(apps, schema_editor)


def restore_tenants(apps, schema_editor):
    """Going back, connections in other tenants would lose theirs."""
    connections = apps.get_model("connections", "Connection").objects
    if connections.exclude(tenant=models.F("app_registration__tenant")).exists():
        raise RuntimeError(
            "Connections in other tenants than their app registration's have no place in the old tables."
        )


def rejection_columns():
    return [
        ("rejected_at", models.DateTimeField(blank=True, editable=False, null=True)),
        ("rejected_code", models.CharField(blank=True, editable=False, max_length=60)),
        ("rejected_cause", models.TextField(blank=True, editable=False)),
        ("rejected_action", models.TextField(blank=True, editable=False)),
        ("canary_after", models.DateTimeField(blank=True, editable=False, null=True)),
        ("paused_until", models.DateTimeField(blank=True, editable=False, null=True)),
    ]


def tenant_column(**options):
    return models.ForeignKey(
        "connections.tenant",
        django.db.models.deletion.PROTECT,
        related_name="connections",
        db_index=False,
        **options,
    )


def consent_column(**options):
    return models.ForeignKey(
        "connections.appconsent",
        django.db.models.deletion.DO_NOTHING,
        related_name="connections",
        db_index=False,
        editable=False,
        **options,
    )


class Migration(migrations.Migration):
    dependencies = [("connections", "0013_federated_credentials")]

    operations = [
        migrations.RunPython(migrations.RunPython.noop, keep_identity),
        migrations.CreateModel(
            "AppConsent",
            [
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ("seen_at", models.DateTimeField(blank=True, editable=False, null=True)),
                ("granted_roles", models.TextField(blank=True, editable=False)),
                ("roles_changed_at", models.DateTimeField(blank=True, editable=False, null=True)),
                *rejection_columns(),
                (
                    "app_registration",
                    models.ForeignKey(
                        "connections.appregistration",
                        django.db.models.deletion.CASCADE,
                        related_name="consents",
                        db_index=False,
                    ),
                ),
                (
                    "created_by",
                    models.ForeignKey(
                        settings.AUTH_USER_MODEL, django.db.models.deletion.SET_NULL, null=True, related_name="+"
                    ),
                ),
                (
                    "tenant",
                    models.ForeignKey(
                        "connections.tenant", django.db.models.deletion.PROTECT, related_name="app_consents"
                    ),
                ),
            ],
            options={
                "ordering": ("tenant__name", "pk"),
                "constraints": [
                    models.UniqueConstraint(fields=("app_registration", "tenant"), name="app_consent_once")
                ],
                "indexes": [
                    models.Index(
                        fields=["canary_after"],
                        condition=models.Q(rejected_at__isnull=False),
                        name="app_consent_rejected",
                    )
                ],
            },
        ),
        migrations.RemoveConstraint("appregistration", "app_once_per_tenant"),
        migrations.AddField(
            "appregistration",
            "environment",
            models.CharField(max_length=20, editable=False, default=""),
            preserve_default=False,
        ),
        migrations.AddField("connection", "tenant", tenant_column(null=True)),
        migrations.AddField("connection", "app_consent", consent_column(null=True)),
        migrations.AddField("connection", "wished_mailboxes", models.JSONField(blank=True, default=list)),
        migrations.RunPython(fill, restore_tenants),
        migrations.AlterField("connection", "tenant", tenant_column()),
        migrations.AlterField("connection", "app_consent", consent_column()),
        migrations.RemoveField("appregistration", "paused_until"),
        migrations.AddConstraint(
            "appregistration",
            models.UniqueConstraint(fields=("environment", "client_id"), name="app_once_per_environment"),
        ),
        migrations.RemoveIndex("connection", "connection_by_app"),
        migrations.AddIndex(
            "connection",
            models.Index(fields=["app_registration", "tenant", "status"], name="connection_by_app"),
        ),
        migrations.AlterField("incident", "kind", models.CharField(choices=INCIDENT_KINDS, max_length=20)),
        migrations.RunPython(keep_identity, migrations.RunPython.noop),
    ]
