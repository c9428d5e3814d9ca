import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("connections", "0023_key_rotation"),
    ]

    operations = [
        migrations.AddField(
            "user",
            "kind",
            models.CharField(
                choices=[("person", "Person"), ("service", "Service account")],
                default="person",
                editable=False,
                max_length=10,
            ),
        ),
        migrations.AddField("user", "purpose", models.TextField(blank=True, editable=False)),
        migrations.AddField(
            "user",
            "responsible",
            models.ForeignKey(
                blank=True,
                editable=False,
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="service_accounts",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AddConstraint(
            "user",
            models.CheckConstraint(
                condition=~models.Q(kind="service")
                | models.Q(password__startswith="!", is_superuser=False, is_staff=False),  # noqa: S106
                name="service_account_cannot_sign_in",
            ),
        ),
        migrations.AddConstraint(
            "user",
            models.UniqueConstraint(
                condition=models.Q(kind="service"), fields=("first_name",), name="service_account_name_once"
            ),
        ),
    ]
