"""Sessions that can be listed, limits for sign-ins, and second factors; the tables that these replace are removed."""

import importlib
import uuid

import django.db.models.deletion
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models

import connections.fields

IDENTITIES = importlib.import_module("connections.migrations.0005_bound_secrets")

# Of django.contrib.sessions (whose rows hold the keys of open sessions) and django-axes.
REPLACED = (
    "django_session",
    "axes_accessattemptexpiration",
    "axes_accessattempt",
    "axes_accesslog",
    "axes_accessfailurelog",
)


def drop_replaced_tables(apps, schema_editor):
    """Drop them where they exist, and forget their migrations, so that going back can make them again."""
    existing = set(schema_editor.connection.introspection.table_names())
    for table in REPLACED:
        if table in existing:
            schema_editor.execute(f"DROP TABLE {schema_editor.quote_name(table)}")
    schema_editor.execute("DELETE FROM django_migrations WHERE app IN ('sessions', 'axes')")


def protect_identities(apps, schema_editor):
    """Secrets of second factors are bound to their rows, too (migration 0005)."""
    IDENTITIES.install(apps, schema_editor, ("connections_secondfactor",))


class Migration(migrations.Migration):
    dependencies = [
        ("connections", "0006_audit_seals"),
    ]

    operations = [
        migrations.AlterField(
            model_name="incident",
            name="kind",
            field=models.CharField(
                choices=[
                    ("app_registration", "App registration rejected"),
                    ("account", "Sign-in needed"),
                    ("consent", "Consent missing"),
                    ("policy", "Blocked by policy"),
                    ("mailbox", "Shared mailbox not reachable"),
                    ("encryption_key", "Encryption key missing"),
                    ("altered_secret", "Stored secret moved or altered"),
                    ("outage", "Microsoft cannot be reached"),
                    ("hand_over", "Sign-in by the new owner"),
                    ("leaver", "Owner has left"),
                    ("audit_trail", "Audit trail not trustworthy"),
                    ("portal_sign_in", "Portal sign-in rejected"),
                ],
                max_length=20,
            ),
        ),
        migrations.CreateModel(
            name="Session",
            fields=[
                ("session_data", models.TextField(verbose_name="session data")),
                ("expire_date", models.DateTimeField(db_index=True, verbose_name="expire date")),
                ("session_key", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("signed_in_at", models.DateTimeField(null=True)),
                ("seen_at", models.DateTimeField()),
                ("address", models.GenericIPAddressField(null=True)),
                ("browser", models.CharField(blank=True, max_length=100)),
                ("method", models.CharField(blank=True, max_length=20)),
                (
                    "person",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="sessions",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "ordering": ("-seen_at",),
            },
        ),
        migrations.CreateModel(
            name="SignInLimit",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("overall", "all sign-ins"),
                            ("address", "address"),
                            ("name", "name"),
                            ("pair", "name and address"),
                            ("device", "known browser"),
                            ("second_factor", "second factor"),
                            ("all_starts", "sign-ins begun from all addresses"),
                            ("start", "sign-ins begun from one address"),
                            ("refused", "sign-ins refused from one address"),
                            ("known_address", "known address"),
                        ],
                        max_length=20,
                    ),
                ),
                ("key", models.CharField(max_length=64)),
                ("label", models.CharField(blank=True, max_length=200)),
                ("count", models.PositiveIntegerField(default=0)),
                ("refused", models.PositiveIntegerField(default=0)),
                ("ends_at", models.DateTimeField()),
                ("is_recorded", models.BooleanField(default=False)),
                ("paused_at", models.DateTimeField(null=True)),
            ],
            options={
                "indexes": [models.Index(fields=["ends_at"], name="sign_in_limit_end")],
                "constraints": [models.UniqueConstraint(fields=("kind", "key"), name="sign_in_limit_once")],
            },
        ),
        migrations.CreateModel(
            name="RecoveryCode",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("digest", models.CharField(max_length=64)),
                ("used_at", models.DateTimeField(null=True)),
                (
                    "person",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="recovery_codes",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("person", "digest"), name="recovery_code_once")],
            },
        ),
        migrations.CreateModel(
            name="SecondFactor",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "kind",
                    models.CharField(choices=[("app", "Authenticator app"), ("passkey", "Passkey")], max_length=10),
                ),
                ("identity", models.UUIDField(default=uuid.uuid4, editable=False, unique=True)),
                ("name", models.CharField(max_length=100)),
                ("secret", connections.fields.SecretField(blank=True, editable=False, null=True)),
                ("last_step", models.BigIntegerField(default=0)),
                ("credential_id", models.CharField(blank=True, max_length=1400)),
                ("public_key", models.TextField(blank=True)),
                ("sign_count", models.BigIntegerField(default=0)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ("used_at", models.DateTimeField(null=True)),
                (
                    "person",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="second_factors",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "ordering": ("created_at", "pk"),
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("kind", "passkey")), fields=("credential_id",), name="passkey_once"
                    ),
                    models.UniqueConstraint(fields=("person", "name"), name="second_factor_name_once"),
                ],
            },
        ),
        migrations.RunPython(protect_identities, migrations.RunPython.noop),
        migrations.RunPython(drop_replaced_tables, migrations.RunPython.noop),
    ]
