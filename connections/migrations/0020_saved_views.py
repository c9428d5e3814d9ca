"""Saved views of every list, and the columns that people choose."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("connections", "0019_bulk_actions_and_tags")]

    operations = [
        migrations.RenameModel("AuditView", "SavedView"),
        migrations.RemoveConstraint("savedview", "audit_view_name_once_per_person"),
        migrations.AddField(
            "savedview",
            "page",
            models.CharField(
                choices=[("audit", "Audit trail"), ("connections", "Connections")], default="audit", max_length=20
            ),
        ),
        migrations.AlterField(
            "savedview",
            "person",
            models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE, related_name="saved_views", to=settings.AUTH_USER_MODEL
            ),
        ),
        migrations.AddConstraint(
            "savedview",
            models.UniqueConstraint(fields=("person", "page", "name"), name="view_name_once_per_person_and_page"),
        ),
        migrations.AddField("user", "list_columns", models.JSONField(default=dict, editable=False)),
    ]
