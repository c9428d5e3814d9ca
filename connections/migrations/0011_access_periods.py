"""Who could use what, and from when to when."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("connections", "0010_only_chosen_connections"),
    ]

    operations = [
        migrations.CreateModel(
            name="AccessPeriod",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("owner", "Owner"),
                            ("person", "Shared with the person"),
                            ("team", "Shared with a team"),
                            ("member", "Member of a team"),
                            ("disabled", "Account disabled or removed"),
                        ],
                        max_length=8,
                    ),
                ),
                ("connection_id", models.BigIntegerField(null=True)),
                ("connection_name", models.CharField(blank=True, max_length=120)),
                ("person_id", models.BigIntegerField(null=True)),
                ("person_name", models.CharField(blank=True, max_length=320)),
                ("team_id", models.BigIntegerField(null=True)),
                ("team_name", models.CharField(blank=True, max_length=120)),
                ("share_id", models.BigIntegerField(null=True)),
                (
                    "level",
                    models.CharField(
                        blank=True,
                        choices=[
                            ("use", "Use: fetch tokens, see its state"),
                            ("manage", "Manage: also sign in again and share"),
                        ],
                        max_length=6,
                    ),
                ),
                ("started_at", models.DateTimeField()),
                ("until", models.DateTimeField(null=True)),
                ("ended_at", models.DateTimeField(null=True)),
                ("started_by_id", models.BigIntegerField(null=True)),
                ("started_by_name", models.CharField(blank=True, max_length=320)),
                ("ended_by_id", models.BigIntegerField(null=True)),
                ("ended_by_name", models.CharField(blank=True, max_length=320)),
            ],
            options={
                "ordering": ("started_at", "pk"),
            },
        ),
        migrations.AddIndex(
            model_name="share",
            index=models.Index(
                condition=models.Q(("ended_at", None), ("until__isnull", False)), fields=["until"], name="share_by_end"
            ),
        ),
        migrations.AddIndex(
            model_name="accessperiod",
            index=models.Index(fields=["connection_id", "started_at"], name="access_by_connection"),
        ),
        migrations.AddIndex(
            model_name="accessperiod",
            index=models.Index(fields=["person_id", "started_at"], name="access_by_person"),
        ),
        migrations.AddIndex(
            model_name="accessperiod",
            index=models.Index(fields=["team_id", "started_at"], name="access_by_team"),
        ),
        migrations.AddConstraint(
            model_name="accessperiod",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("connection_id__isnull", False), ("kind", "owner"), ("person_id__isnull", False)),
                    models.Q(
                        ("connection_id__isnull", False),
                        ("kind", "person"),
                        ("person_id__isnull", False),
                        ("share_id__isnull", False),
                    ),
                    models.Q(
                        ("connection_id__isnull", False),
                        ("kind", "team"),
                        ("share_id__isnull", False),
                        ("team_id__isnull", False),
                    ),
                    models.Q(("kind", "member"), ("person_id__isnull", False), ("team_id__isnull", False)),
                    models.Q(("kind", "disabled"), ("person_id__isnull", False)),
                    _connector="OR",
                ),
                name="access_period_names_its_parts",
            ),
        ),
        migrations.AddConstraint(
            model_name="accessperiod",
            constraint=models.UniqueConstraint(
                condition=models.Q(("ended_at", None), ("kind", "owner")),
                fields=("connection_id",),
                name="access_one_owner",
            ),
        ),
        migrations.AddConstraint(
            model_name="accessperiod",
            constraint=models.UniqueConstraint(
                condition=models.Q(("ended_at", None)), fields=("share_id",), name="access_share_once"
            ),
        ),
        migrations.AddConstraint(
            model_name="accessperiod",
            constraint=models.UniqueConstraint(
                condition=models.Q(("ended_at", None), ("kind", "member")),
                fields=("team_id", "person_id"),
                name="access_member_once",
            ),
        ),
        migrations.AddConstraint(
            model_name="accessperiod",
            constraint=models.UniqueConstraint(
                condition=models.Q(("ended_at", None), ("kind", "disabled")),
                fields=("person_id",),
                name="access_disabled_once",
            ),
        ),
    ]
