import django.db.models.deletion
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    """What was called a request is the link; a request is now what a person asks for."""

    dependencies = [
        ("connections", "0014_who_disabled_and_who_left"),
    ]

    operations = [
        migrations.RenameModel("ConsentRequest", "ConsentLink"),
        migrations.AlterField(
            model_name="consentlink",
            name="app_registration",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE,
                related_name="consent_links",
                to="connections.appregistration",
            ),
        ),
        migrations.CreateModel(
            name="ConsentRequest",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("connection_name", models.CharField(max_length=120)),
                ("directory_id", models.CharField(max_length=253)),
                (
                    "authentication_type",
                    models.CharField(
                        choices=[
                            ("authorization_code", "Delegated: a person signs in"),
                            ("client_credentials", "App-only: no person, the application itself"),
                        ],
                        max_length=20,
                    ),
                ),
                ("capabilities", models.JSONField(default=list)),
                ("permissions", models.TextField(blank=True)),
                ("reason", models.TextField()),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("asked", "Waits for an IT admin"),
                            ("approved", "Approved, waits for the directory's administrator"),
                            ("granted", "Granted, not yet seen in a token"),
                            ("verified", "Granted and verified"),
                            ("declined", "Declined"),
                            ("failed", "Failed at Microsoft"),
                            ("withdrawn", "Withdrawn"),
                        ],
                        default="asked",
                        max_length=10,
                    ),
                ),
                ("requester_name", models.CharField(max_length=320)),
                ("asked_at", models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ("decided_by_name", models.CharField(blank=True, max_length=320)),
                ("decided_at", models.DateTimeField(blank=True, null=True)),
                ("answer", models.TextField(blank=True)),
                ("closed_at", models.DateTimeField(blank=True, null=True)),
                (
                    "app_registration",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="consent_requests",
                        to="connections.appregistration",
                    ),
                ),
                (
                    "connection",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="consent_requests",
                        to="connections.connection",
                    ),
                ),
                (
                    "decided_by",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "link",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="requests",
                        to="connections.consentlink",
                    ),
                ),
                (
                    "requester",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="consent_requests",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "ordering": ("-asked_at", "-pk"),
                "indexes": [models.Index(fields=["app_registration", "state"], name="consent_request_by_app")],
                "constraints": [
                    models.UniqueConstraint(
                        condition=Q(closed_at=None),
                        fields=("connection",),
                        name="one_open_consent_request_per_connection",
                    )
                ],
            },
        ),
    ]
