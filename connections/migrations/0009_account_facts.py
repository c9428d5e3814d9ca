"""Find all connections of a Microsoft account, and confirm a new account of the same name."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("connections", "0008_authority")]

    operations = [
        migrations.AddField("approval", "account_oid", models.CharField(blank=True, max_length=36)),
        migrations.AddField("approval", "account_username", models.CharField(blank=True, max_length=320)),
        migrations.AddIndex(
            "connection", models.Index(fields=("account_oid", "account_tid"), name="connection_by_account")
        ),
    ]
