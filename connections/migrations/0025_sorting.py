"""Indexes in the further orders of lists: connections by owner, people by last sign-in, API keys by expiry."""

from django.db import migrations, models

INDEXES = {
    "user": (
        models.Index(fields=("first_name", "last_name", "id"), name="owner_by_name"),
        models.Index(fields=("last_login", "id"), name="person_by_sign_in"),
    ),
    "apikey": (models.Index(fields=("expires_at", "id"), name="key_by_expiry"),),
}


class Migration(migrations.Migration):
    dependencies = [("connections", "0024_pending_mailboxes")]

    operations = [migrations.AddIndex(model, index) for model, indexes in INDEXES.items() for index in indexes]
