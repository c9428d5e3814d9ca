"""Federated credentials with the portal's own signing keys, and credentials that the portal renews."""

import importlib
import uuid

import django.db.models.deletion
from django.db import migrations, models

import connections.fields

IDENTITIES = importlib.import_module("connections.migrations.0005_bound_secrets")


def protect_identities(apps, schema_editor):
    """Signing keys are bound to their rows, too; and SQLite has rebuilt the table of credentials."""
    IDENTITIES.install(apps, schema_editor, ("connections_issuerkey", "connections_appcredential"))


def protect_credentials(apps, schema_editor):
    IDENTITIES.install(apps, schema_editor, ("connections_appcredential",))


class Migration(migrations.Migration):
    dependencies = [
        ("connections", "0012_resources"),
    ]

    operations = [
        migrations.RunPython(migrations.RunPython.noop, protect_credentials),
        migrations.CreateModel(
            name="CredentialRenewal",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("reference", models.UUIDField(default=uuid.uuid4, editable=False)),
                (
                    "step",
                    models.CharField(
                        choices=[
                            ("add", "Adding the new credential in Entra"),
                            ("try", "Waiting until Microsoft accepts it"),
                            ("settle", "Using it, with the old one in reserve"),
                            ("remove", "Removing the old credential"),
                            ("undo", "Removing the new credential again"),
                            ("done", "Renewed"),
                            ("failed", "Failed"),
                        ],
                        default="add",
                        max_length=10,
                    ),
                ),
                ("started_at", models.DateTimeField()),
                ("step_started_at", models.DateTimeField()),
                ("sent_at", models.DateTimeField(null=True)),
                ("due_at", models.DateTimeField()),
                ("finished_at", models.DateTimeField(null=True)),
                ("cause", models.TextField(blank=True)),
                ("action", models.TextField(blank=True)),
            ],
            options={
                "ordering": ("-started_at", "-pk"),
            },
        ),
        migrations.CreateModel(
            name="IssuerKey",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("number", models.PositiveIntegerField(unique=True)),
                ("key_id", models.CharField(max_length=43, unique=True)),
                ("identity", models.UUIDField(default=uuid.uuid4, editable=False, unique=True)),
                ("private_key", connections.fields.SecretField(blank=True, editable=False, null=True)),
                ("created_at", models.DateTimeField()),
                ("use_after", models.DateTimeField()),
            ],
            options={
                "ordering": ("number",),
            },
        ),
        migrations.RemoveConstraint(
            model_name="appcredential",
            name="credential_is_one_kind",
        ),
        migrations.AddField(
            model_name="appcredential",
            name="key_id",
            field=models.CharField(blank=True, editable=False, max_length=36),
        ),
        migrations.AddField(
            model_name="appcredential",
            name="source",
            field=models.CharField(
                blank=True, choices=[("portal", "This portal"), ("file", "Token file")], max_length=10
            ),
        ),
        migrations.AddField(
            model_name="appregistration",
            name="object_id",
            field=models.CharField(blank=True, max_length=36, verbose_name="object ID"),
        ),
        migrations.AddField(
            model_name="appregistration",
            name="renews_credentials",
            field=models.BooleanField(default=False, verbose_name="automatic renewal of credentials"),
        ),
        migrations.AlterField(
            model_name="appcredential",
            name="kind",
            field=models.CharField(
                choices=[
                    ("secret", "Client secret"),
                    ("certificate", "Certificate"),
                    ("federated", "Federated credential"),
                ],
                max_length=12,
            ),
        ),
        migrations.AlterField(
            model_name="incident",
            name="kind",
            field=models.CharField(
                choices=[
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
                    ("portal_sign_in", "Portal sign-in rejected"),
                    ("credential_renewal", "Credential not renewed"),
                ],
                max_length=20,
            ),
        ),
        migrations.AddConstraint(
            model_name="appcredential",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("certificate", ""), ("kind", "secret"), ("private_key__isnull", True), ("source", "")),
                    models.Q(("kind", "certificate"), ("secret__isnull", True), ("source", "")),
                    models.Q(
                        ("certificate", ""),
                        ("expires_at__isnull", True),
                        ("kind", "federated"),
                        ("private_key__isnull", True),
                        ("secret__isnull", True),
                        ("source__in", ("portal", "file")),
                    ),
                    _connector="OR",
                ),
                name="credential_is_one_kind",
            ),
        ),
        migrations.AddField(
            model_name="credentialrenewal",
            name="app_registration",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE, related_name="renewals", to="connections.appregistration"
            ),
        ),
        migrations.AddField(
            model_name="credentialrenewal",
            name="new",
            field=models.ForeignKey(
                null=True, on_delete=django.db.models.deletion.CASCADE, related_name="+", to="connections.appcredential"
            ),
        ),
        migrations.AddField(
            model_name="credentialrenewal",
            name="old",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE, related_name="+", to="connections.appcredential"
            ),
        ),
        migrations.AddIndex(
            model_name="credentialrenewal",
            index=models.Index(condition=models.Q(("finished_at", None)), fields=["due_at"], name="renewal_due"),
        ),
        migrations.AddConstraint(
            model_name="credentialrenewal",
            constraint=models.UniqueConstraint(
                condition=models.Q(("finished_at", None)), fields=("app_registration",), name="one_renewal_at_a_time"
            ),
        ),
        migrations.RunPython(protect_identities, migrations.RunPython.noop),
    ]
