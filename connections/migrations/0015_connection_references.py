"""Connection references, consent links that report back, and the account that used a sign-in link."""

import importlib

import django.db.models.deletion
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models

audit_guards = importlib.import_module("connections.migrations.0003_audit_guards")


def check_unfinished_links(apps, schema_editor):
    """Let the next run look at the links that were checked by their state alone."""
    links = apps.get_model("connections", "ConsentLink").objects.filter(state__in=("open", "granted"), scopes="")
    links.filter(app_registration__allows_app_only=True).update(check_after=models.F("requested_at"))


LINK_STATES = [
    ("open", "Awaiting administrator"),
    ("granted", "Reported, checking"),
    ("partial", "Partly granted"),
    ("verified", "Granted and verified"),
    ("declined", "Declined"),
    ("failed", "Failed"),
]
REQUEST_STATES = [
    ("asked", "Awaiting IT admin"),
    ("approved", "Approved, awaiting consent"),
    ("granted", "Reported, checking"),
    ("verified", "Granted and verified"),
    ("declined", "Declined"),
    ("failed", "Failed"),
    ("withdrawn", "Withdrawn"),
]


class Migration(migrations.Migration):
    dependencies = [("connections", "0014_app_consents")]

    operations = [
        # Run last when going back.
        migrations.RunPython(migrations.RunPython.noop, audit_guards.install),
        migrations.AddField("consentlink", "check_after", models.DateTimeField(blank=True, null=True)),
        migrations.AddField("consentlink", "checks", models.PositiveSmallIntegerField(default=0)),
        migrations.AddField("consentlink", "missing", models.TextField(blank=True)),
        migrations.AddField("consentlink", "reported_tid", models.CharField(blank=True, max_length=36)),
        migrations.AlterField(
            "consentlink", "state", models.CharField(choices=LINK_STATES, default="open", max_length=10)
        ),
        migrations.AlterField(
            "consentrequest", "state", models.CharField(choices=REQUEST_STATES, default="asked", max_length=10)
        ),
        migrations.AddIndex(
            "consentlink",
            models.Index(
                fields=["check_after"], condition=models.Q(check_after__isnull=False), name="consent_link_to_check"
            ),
        ),
        migrations.RunPython(check_unfinished_links, migrations.RunPython.noop),
        migrations.AddField("signinlink", "account", models.CharField(blank=True, max_length=320)),
        migrations.CreateModel(
            name="ConnectionReference",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=63)),
                (
                    "connection",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="references",
                        to="connections.connection",
                    ),
                ),
                (
                    "owner",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="references",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "team",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="references",
                        to="connections.team",
                    ),
                ),
                ("connector", models.CharField(blank=True, max_length=40)),
                ("description", models.CharField(blank=True, max_length=200)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ("pointed_at", models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ("removed_at", models.DateTimeField(editable=False, null=True)),
            ],
            options={
                "ordering": ("name", "pk"),
                "constraints": [
                    models.UniqueConstraint(
                        fields=("name",), condition=models.Q(connector=""), name="reference_name_once"
                    ),
                    models.UniqueConstraint(
                        fields=("owner", "name"), condition=~models.Q(connector=""), name="one_default_per_connector"
                    ),
                    models.CheckConstraint(
                        condition=(models.Q(connector="") & ~models.Q(name__startswith="default:"))
                        | (~models.Q(connector="") & models.Q(name__startswith="default:")),
                        name="only_defaults_are_named_so",
                    ),
                ],
            },
        ),
        migrations.RemoveConstraint("tokenfetch", "fetches_once_per_minute"),
        migrations.AddField(
            "tokenfetch",
            "reference",
            models.CharField(blank=True, db_default="", default="", editable=False, max_length=63),
        ),
        migrations.AddIndex(
            "tokenfetch",
            models.Index(
                fields=["reference", "-minute"], condition=~models.Q(reference=""), name="fetches_by_reference"
            ),
        ),
        migrations.AddConstraint(
            "tokenfetch",
            models.UniqueConstraint(
                fields=("key", "connection", "address", "minute", "resource", "reference"),
                condition=models.Q(seal=None),
                name="fetches_once_per_minute",
            ),
        ),
        # SQLite rebuilds the table of token requests, which drops its triggers; they also compare the new column.
        migrations.RunPython(audit_guards.install, audit_guards.remove),
    ]
