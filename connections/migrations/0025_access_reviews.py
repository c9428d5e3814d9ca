import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("connections", "0024_service_accounts"),
    ]

    operations = [
        migrations.CreateModel(
            name="ReviewPlan",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("is_on", models.BooleanField(default=False)),
                ("days", models.PositiveSmallIntegerField(default=21)),
                ("quarter", models.CharField(blank=True, max_length=7)),
            ],
        ),
        migrations.CreateModel(
            name="AccessReview",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=120)),
                ("scope_name", models.CharField(max_length=200)),
                ("started_at", models.DateTimeField()),
                ("started_by_name", models.CharField(max_length=320)),
                ("due_at", models.DateTimeField()),
                ("reminded", models.PositiveSmallIntegerField(default=0)),
                ("warned_at", models.DateTimeField(null=True)),
                ("cancelled_at", models.DateTimeField(null=True)),
                ("cancelled_by_name", models.CharField(blank=True, max_length=320)),
                ("closed_at", models.DateTimeField(null=True)),
                (
                    "app_registration",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to="connections.appregistration",
                    ),
                ),
                (
                    "started_by",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "tenant",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to="connections.tenant",
                    ),
                ),
            ],
            options={
                "ordering": ("-started_at", "-pk"),
            },
        ),
        migrations.CreateModel(
            name="ReviewItem",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("connection_name", models.CharField(max_length=120)),
                ("app_name", models.CharField(max_length=120)),
                ("owner_name", models.CharField(max_length=320)),
                ("is_team", models.BooleanField()),
                ("with_name", models.CharField(max_length=320)),
                (
                    "level",
                    models.CharField(
                        choices=[
                            ("use", "Use: fetch tokens, see its state"),
                            ("manage", "Manage: also sign in again and share"),
                        ],
                        max_length=6,
                    ),
                ),
                ("until", models.DateTimeField(null=True)),
                ("given_by_name", models.CharField(blank=True, max_length=320)),
                ("given_at", models.DateTimeField()),
                ("last_used_at", models.DateTimeField(null=True)),
                (
                    "decision",
                    models.CharField(
                        choices=[
                            ("open", "Not answered"),
                            ("confirmed", "Confirmed"),
                            ("removed", "Removed"),
                            ("expired", "Ended unanswered"),
                            ("gone", "Had ended already"),
                        ],
                        default="open",
                        max_length=10,
                    ),
                ),
                (
                    "decided_level",
                    models.CharField(
                        blank=True,
                        choices=[
                            ("use", "Use: fetch tokens, see its state"),
                            ("manage", "Manage: also sign in again and share"),
                        ],
                        max_length=6,
                    ),
                ),
                ("decided_by_name", models.CharField(blank=True, max_length=320)),
                ("decided_at", models.DateTimeField(null=True)),
                ("note", models.CharField(blank=True, max_length=500)),
                ("ended_at", models.DateTimeField(null=True)),
                (
                    "connection",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="review_items",
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
                    "owner",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "review",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="items", to="connections.accessreview"
                    ),
                ),
                (
                    "share",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to="connections.share",
                    ),
                ),
            ],
            options={
                "ordering": ("connection_name", "pk"),
            },
        ),
        migrations.AddIndex(
            model_name="accessreview",
            index=models.Index(
                condition=models.Q(("cancelled_at", None), ("closed_at", None)),
                fields=["due_at"],
                name="review_running",
            ),
        ),
        migrations.AddConstraint(
            model_name="accessreview",
            constraint=models.CheckConstraint(
                condition=models.Q(("closed_at", None), ("cancelled_at", None), _connector="OR"),
                name="review_ends_one_way",
            ),
        ),
        migrations.AddIndex(
            model_name="reviewitem",
            index=models.Index(fields=["review", "connection_name"], name="review_items_in_order"),
        ),
        migrations.AddIndex(
            model_name="reviewitem",
            index=models.Index(condition=models.Q(("decision", "open")), fields=["review"], name="review_items_open"),
        ),
        migrations.AddConstraint(
            model_name="reviewitem",
            constraint=models.UniqueConstraint(fields=("review", "share"), name="share_once_per_review"),
        ),
    ]
