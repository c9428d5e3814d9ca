"""``python -m tests.django_command``: Django's command line on throw-away settings, for checks that need no database."""

import os
import sys

from cryptography.fernet import Fernet
from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "portal.settings",
        "SECRET_KEY": Fernet.generate_key().decode(),
        "FIELD_ENCRYPTION_KEYS": Fernet.generate_key().decode(),
        "DATABASE_URL": "sqlite://:memory:",
        "PORTAL_URL": os.environ.get("PORTAL_URL", "http://localhost:8000"),
    }
    execute_from_command_line(sys.argv)
