"""Addresses that wait for their directory are called pending."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("connections", "0023_growth_of_lists")]

    operations = [migrations.RenameField("connection", "wished_mailboxes", "pending_mailboxes")]
