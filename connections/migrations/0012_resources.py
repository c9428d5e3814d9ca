"""Tokens for other resources than Microsoft Graph, with one refresh token for each connection."""

import importlib
import uuid

import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models

import connections.fields

IDENTITIES = importlib.import_module("connections.migrations.0005_bound_secrets")
AUDIT_GUARDS = importlib.import_module("connections.migrations.0003_audit_guards")

STATUSES = [
    ("pending", "Not signed in yet"),
    ("active", "Active"),
    ("reconnect_needed", "Sign-in required"),
    ("consent_needed", "Consent required"),
    ("blocked", "Blocked by policy"),
    ("disabled", "Disabled"),
]
WHO = [
    ("owner", "The owner"),
    ("it_admin", "An IT admin"),
    ("microsoft", "Microsoft"),
    ("nobody", "Nobody needs to act"),
]


def install_triggers(apps, schema_editor):
    """Bind the new secret to its row, and replace the triggers that SQLite drops when it rebuilds a table."""
    IDENTITIES.install(apps, schema_editor, ("connections_connection", "connections_resourcetoken"))
    AUDIT_GUARDS.install(apps, schema_editor)


def reinstall_triggers(apps, schema_editor):
    IDENTITIES.install(apps, schema_editor, ("connections_connection",))
    AUDIT_GUARDS.install(apps, schema_editor)


def fetched_once(*fields):
    return models.UniqueConstraint(
        fields=("key", "connection", "address", "minute", *fields),
        condition=models.Q(seal=None),
        name="fetches_once_per_minute",
    )


class Migration(migrations.Migration):
    dependencies = [("connections", "0011_key_issuers")]

    operations = [
        # Run last when going back.
        migrations.RunPython(migrations.RunPython.noop, reinstall_triggers),
        migrations.AddField("apikey", "can_narrow", models.BooleanField(default=False)),
        migrations.AddField("connection", "hosts", models.JSONField(blank=True, default=dict)),
        migrations.AddField("connection", "other_granted", models.TextField(blank=True)),
        migrations.AddField("connection", "resource", models.CharField(default="graph", max_length=150)),
        migrations.RemoveConstraint("tokenfetch", "fetches_once_per_minute"),
        migrations.AddField(
            "tokenfetch", "resource", models.CharField(db_default="graph", default="graph", max_length=150)
        ),
        migrations.AddConstraint("tokenfetch", fetched_once("resource")),
        migrations.CreateModel(
            name="ResourceToken",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "connection",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="resource_tokens",
                        to="connections.connection",
                    ),
                ),
                ("resource", models.CharField(max_length=150)),
                ("identity", models.UUIDField(default=uuid.uuid4, editable=False, unique=True)),
                ("access_token", connections.fields.SecretField(blank=True, editable=False, null=True)),
                ("expires_at", models.DateTimeField(blank=True, null=True)),
                ("granted_scopes", models.TextField(blank=True)),
                ("refreshed_at", models.DateTimeField(blank=True, null=True)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ("problem_code", models.CharField(blank=True, max_length=60)),
                ("problem_status", models.CharField(blank=True, choices=STATUSES, max_length=20)),
                ("problem_cause", models.TextField(blank=True)),
                ("problem_action", models.TextField(blank=True)),
                ("problem_who", models.CharField(blank=True, choices=WHO, max_length=10)),
                ("problem_at", models.DateTimeField(blank=True, null=True)),
                ("trouble_at", models.DateTimeField(blank=True, null=True)),
            ],
            options={
                "ordering": ("connection", "resource"),
                "base_manager_name": "objects",
                "constraints": [
                    models.UniqueConstraint(fields=("connection", "resource"), name="resource_once_per_connection"),
                ],
            },
        ),
        migrations.RunPython(install_triggers, AUDIT_GUARDS.remove),
    ]
