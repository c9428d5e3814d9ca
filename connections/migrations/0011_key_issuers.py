"""Who issued and rotated a key, which the retention of the audit trail must not forget."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

COLUMNS = {"api_key.issued": "issued_by", "api_key.rotated": "rotated_by"}


def fill_from_audit_trail(apps, schema_editor):
    """Keys whose events were pruned stay without an issuer; then nobody close to the account may decide for it."""
    key, user = apps.get_model("connections", "ApiKey"), apps.get_model("connections", "User")
    events = apps.get_model("connections", "AuditEvent").objects.filter(target_type="ApiKey", action__in=COLUMNS)
    known = events.filter(actor_id__in=user.objects.values("pk")).order_by("pk")
    for action, number, actor in known.values_list("action", "target_id", "actor_id"):
        if number.isdecimal():
            key.objects.filter(pk=int(number)).update(**{COLUMNS[action]: actor})


def user_column():
    return models.ForeignKey(
        settings.AUTH_USER_MODEL,
        django.db.models.deletion.SET_NULL,
        null=True,
        editable=False,
        related_name="+",
        db_index=False,
    )


class Migration(migrations.Migration):
    dependencies = [("connections", "0010_labels")]

    operations = [
        migrations.AddField("apikey", "issued_by", user_column()),
        migrations.AddField("apikey", "rotated_by", user_column()),
        migrations.RunPython(fill_from_audit_trail, migrations.RunPython.noop),
    ]
