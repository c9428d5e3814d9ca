"""Maximum age of authority from Entra, changes that need a second person, and emergency access."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models
from django.db.models.functions import Coalesce


def age_of_authority(apps, schema_editor):
    """Give people who sign in with Microsoft the age of their last sign-in, or their roles would count for ever."""
    user, login = apps.get_model("connections", "User"), apps.get_model("social_django", "UserSocialAuth")
    from_microsoft = user.objects.filter(pk__in=login.objects.filter(provider="microsoft").values("user"))
    read_at = Coalesce("last_login", "date_joined")
    from_microsoft.update(roles_read_at=read_at, groups_read_at=read_at)


class Migration(migrations.Migration):
    dependencies = [
        ("connections", "0007_sessions_and_mfa"),
        ("social_django", "0011_alter_id_fields"),
    ]

    operations = [
        migrations.AddField(
            model_name="share",
            name="emergency_reason",
            field=models.TextField(blank=True, default="", editable=False),
        ),
        migrations.AddField(
            model_name="user",
            name="groups_read_at",
            field=models.DateTimeField(blank=True, editable=False, null=True),
        ),
        migrations.AddField(
            model_name="user",
            name="roles_read_at",
            field=models.DateTimeField(blank=True, editable=False, null=True),
        ),
        migrations.CreateModel(
            name="ChangeRequest",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("share", "Share a connection"),
                            ("transfer", "Transfer ownership"),
                            ("team_member", "Add a team member"),
                            ("team_group", "Change a team's Entra group"),
                            ("api_key", "Issue a service account's key"),
                            ("policy", "Loosen the policy"),
                        ],
                        max_length=12,
                    ),
                ),
                ("title", models.CharField(max_length=320)),
                ("details", models.JSONField(default=list)),
                ("proposal", models.JSONField()),
                ("path", models.CharField(max_length=200)),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("waiting", "Awaiting approval"),
                            ("approved", "Approved"),
                            ("declined", "Declined"),
                            ("withdrawn", "Withdrawn"),
                            ("used", "Done"),
                        ],
                        default="waiting",
                        max_length=10,
                    ),
                ),
                ("requested_by_name", models.CharField(max_length=320)),
                ("requested_at", models.DateTimeField()),
                ("decided_by_name", models.CharField(blank=True, max_length=320)),
                ("decided_at", models.DateTimeField(null=True)),
                ("decision_reason", models.TextField(blank=True)),
                ("used_at", models.DateTimeField(null=True)),
                (
                    "connection",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="change_requests",
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
                    "requested_by",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="change_requests",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "ordering": ("-requested_at", "-pk"),
                "indexes": [models.Index(fields=["requested_by", "state"], name="change_request_by_person")],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("decided_at", None), ("state", "waiting")),
                            models.Q(models.Q(("state", "waiting"), _negated=True), ("decided_at__isnull", False)),
                            _connector="OR",
                        ),
                        name="decided_change_request_says_when",
                    )
                ],
            },
        ),
        migrations.RunPython(age_of_authority, migrations.RunPython.noop),
    ]
