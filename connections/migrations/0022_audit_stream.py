"""Audit events are streamed to a receiver such as a SIEM."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("connections", "0021_inbox_notifications_and_setup")]

    operations = [
        migrations.AlterField(
            "sealpublication",
            "place",
            models.CharField(
                choices=[("file", "File"), ("webhook", "Webhook"), ("log", "Log"), ("stream", "Event stream")],
                max_length=10,
                primary_key=True,
                serialize=False,
            ),
        ),
    ]
