"""Indexes for further orders and a filter of lists.

Connections by owner, app-only connections by name, people by last sign-in, API keys by expiration date.
"""

from django.db import migrations, models
from django.db.models import Q

INDEXES = {
    "user": (
        models.Index(fields=("first_name", "last_name", "id"), name="owner_by_name"),
        models.Index(fields=("last_login", "id"), name="person_by_sign_in"),
    ),
    "connection": (
        models.Index(
            fields=("name", "id"), condition=Q(authentication_type="client_credentials"), name="connection_app_only"
        ),
    ),
    "apikey": (models.Index(fields=("expires_at", "id"), name="key_by_expiry"),),
}


class Migration(migrations.Migration):
    dependencies = [("connections", "0024_pending_mailboxes")]

    operations = [migrations.AddIndex(model, index) for model, indexes in INDEXES.items() for index in indexes]
