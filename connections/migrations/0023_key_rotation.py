from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("connections", "0022_audit_guards"),
    ]

    operations = [
        migrations.AddField("apikey", "previous_digest", models.CharField(blank=True, editable=False, max_length=64)),
        migrations.AddField(
            "apikey",
            "previous_prefix",
            models.CharField(blank=True, editable=False, max_length=16, null=True, unique=True),
        ),
        migrations.AddField("apikey", "previous_until", models.DateTimeField(blank=True, editable=False, null=True)),
        migrations.AddField("apikey", "previous_used_at", models.DateTimeField(blank=True, editable=False, null=True)),
        migrations.AddField("apikey", "rotated_at", models.DateTimeField(blank=True, editable=False, null=True)),
        migrations.AddField(
            "apikey", "warned_days", models.PositiveSmallIntegerField(blank=True, editable=False, null=True)
        ),
        migrations.AddIndex(
            "apikey", models.Index(condition=models.Q(("revoked_at", None)), fields=["expires_at"], name="key_ends")
        ),
    ]
