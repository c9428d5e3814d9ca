"""Seals carry a signature, a Merkle root and declared restores; verifications carry a signature."""

from importlib import import_module

from django.db import migrations, models

GUARDS = import_module("connections.migrations.0003_audit_guards")


class Migration(migrations.Migration):
    dependencies = [("connections", "0005_bound_secrets")]

    # On SQLite these operations make the table of seals anew, and so lose its triggers.
    operations = [
        migrations.RunPython(migrations.RunPython.noop, GUARDS.install),
        migrations.AddField("auditseal", "root", models.CharField(blank=True, default="", max_length=64)),
        migrations.AddField("auditseal", "key_id", models.CharField(blank=True, default="", max_length=16)),
        migrations.AddField("auditseal", "mac", models.CharField(blank=True, default="", max_length=64)),
        migrations.AddField("auditseal", "restore", models.JSONField(default=None, null=True)),
        migrations.AddField("auditverification", "since", models.BigIntegerField(default=0)),
        migrations.AddField("auditverification", "notes", models.JSONField(default=list)),
        migrations.AddField("auditverification", "key_id", models.CharField(blank=True, default="", max_length=16)),
        migrations.AddField("auditverification", "mac", models.CharField(blank=True, default="", max_length=64)),
        migrations.AlterField(
            "incident",
            "kind",
            models.CharField(
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
                ],
                max_length=20,
            ),
        ),
        migrations.RunPython(GUARDS.install, migrations.RunPython.noop),
    ]
