"""One inbox of requests, notifications in the portal, and the setup checklist."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("connections", "0020_saved_views"),
    ]

    operations = [
        migrations.CreateModel(
            name="Notification",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("key", models.CharField(max_length=420)),
                (
                    "event",
                    models.CharField(
                        choices=[
                            ("opened", "Incident opened"),
                            ("reminder", "Reminder"),
                            ("healed", "Incident resolved"),
                            ("expiry", "Credential expires soon"),
                            ("message", "Request or review"),
                            ("test", "Test"),
                        ],
                        max_length=10,
                    ),
                ),
                ("text", models.CharField(max_length=200)),
                (
                    "tone",
                    models.CharField(
                        choices=[
                            ("broken", "Problem"),
                            ("warning", "Warning"),
                            ("ok", "Success"),
                            ("info", "Information"),
                        ],
                        default="info",
                        max_length=10,
                    ),
                ),
                ("path", models.CharField(max_length=200)),
                ("created_at", models.DateTimeField()),
                ("read_at", models.DateTimeField(null=True)),
            ],
            options={
                "ordering": ("-pk",),
            },
        ),
        migrations.CreateModel(
            name="SetupDecision",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "step",
                    models.CharField(
                        choices=[
                            ("sign_in", "Sign-in with Microsoft"),
                            ("policy", "Policy"),
                            ("backup", "Backups"),
                            ("checklist", "Setup checklist"),
                        ],
                        max_length=10,
                        unique=True,
                    ),
                ),
                ("decided_by_name", models.CharField(max_length=320)),
                ("decided_at", models.DateTimeField()),
            ],
        ),
        migrations.AddIndex(
            model_name="approval",
            index=models.Index(fields=["-requested_at", "-id"], name="approval_by_time"),
        ),
        migrations.AddIndex(
            model_name="approval",
            index=models.Index(
                condition=models.Q(("state", "waiting")), fields=["-requested_at", "-id"], name="approval_waiting"
            ),
        ),
        migrations.AddIndex(
            model_name="changerequest",
            index=models.Index(fields=["-requested_at", "-id"], name="change_request_by_time"),
        ),
        migrations.AddIndex(
            model_name="changerequest",
            index=models.Index(
                condition=models.Q(("state", "waiting")), fields=["-requested_at", "-id"], name="change_request_waiting"
            ),
        ),
        migrations.AddIndex(
            model_name="consentrequest",
            index=models.Index(fields=["-asked_at", "-id"], name="consent_request_by_time"),
        ),
        migrations.AddIndex(
            model_name="consentrequest",
            index=models.Index(
                condition=models.Q(("closed_at", None)), fields=["-asked_at", "-id"], name="consent_request_open"
            ),
        ),
        migrations.AddField(
            model_name="notification",
            name="incident",
            field=models.ForeignKey(
                null=True,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="notifications",
                to="connections.incident",
            ),
        ),
        migrations.AddField(
            model_name="notification",
            name="user",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="notifications",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AddField(
            model_name="setupdecision",
            name="decided_by",
            field=models.ForeignKey(
                null=True, on_delete=django.db.models.deletion.SET_NULL, related_name="+", to=settings.AUTH_USER_MODEL
            ),
        ),
        migrations.AddIndex(
            model_name="notification",
            index=models.Index(fields=["user", "-id"], name="notification_by_person"),
        ),
        migrations.AddIndex(
            model_name="notification",
            index=models.Index(
                condition=models.Q(("read_at", None)), fields=["user", "-id"], name="notification_unread"
            ),
        ),
        migrations.AddIndex(
            model_name="notification",
            index=models.Index(fields=["created_at"], name="notification_by_age"),
        ),
        migrations.AddConstraint(
            model_name="notification",
            constraint=models.UniqueConstraint(fields=("user", "key"), name="notification_once_per_person"),
        ),
    ]
