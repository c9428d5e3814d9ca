"""Give events and token hand-outs the ids that stay when the person, key or connection goes."""

from django.db import migrations
from django.db.models import F


def fill(apps, schema_editor):
    event = apps.get_model("connections", "AuditEvent")
    event._base_manager.filter(actor__isnull=False).update(actor_ref=F("actor_id"))
    fetch = apps.get_model("connections", "TokenFetch")
    fetch.objects.update(key_ref=F("key_id"), connection_ref=F("connection_id"))


class Migration(migrations.Migration):
    dependencies = [
        ("connections", "0020_audit_seals"),
    ]

    operations = [
        migrations.RunPython(fill, migrations.RunPython.noop),
    ]
