"""App registrations that members bring."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("connections", "0015_connection_references")]

    operations = [
        migrations.AddField("appregistration", "is_personal", models.BooleanField(default=False)),
    ]
