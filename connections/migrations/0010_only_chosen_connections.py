from django.db import migrations, models


def mark(apps, schema_editor):
    """Keys with chosen connections, and those whose chosen ones have all been removed: the audit trail knows them."""
    ApiKey = apps.get_model("connections", "ApiKey")
    AuditEvent = apps.get_model("connections", "AuditEvent")
    ApiKey.objects.filter(pk__in=ApiKey.objects.filter(connections__isnull=False).values("pk")).update(only_chosen=True)
    issued = AuditEvent.objects.filter(action="api_key.issued", target_type="ApiKey")
    for pk in ApiKey.objects.filter(only_chosen=False).values_list("pk", flat=True):
        event = issued.filter(target_id=str(pk)).order_by("-pk").first()
        if event is not None and event.changes.get("connections"):
            ApiKey.objects.filter(pk=pk).update(only_chosen=True)


class Migration(migrations.Migration):
    dependencies = [
        ("connections", "0009_messages"),
    ]

    operations = [
        migrations.AddField(
            model_name="apikey",
            name="only_chosen",
            field=models.BooleanField(default=False),
        ),
        migrations.RunPython(mark, migrations.RunPython.noop),
    ]
