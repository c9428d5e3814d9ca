"""``python -m tests.with_temp_settings COMMAND ...``: run a command with temporary settings.

For checks that load the portal's settings but need no database and no real secrets (mypy, makemigrations). Variables
that are already set are kept.
"""

import os
import sys

from cryptography.fernet import Fernet

if __name__ == "__main__":
    settings = {
        "DJANGO_SETTINGS_MODULE": "portal.settings",
        "SECRET_KEY": Fernet.generate_key().decode() + Fernet.generate_key().decode(),
        "FIELD_ENCRYPTION_KEYS": Fernet.generate_key().decode(),
        "DATABASE_URL": "sqlite://:memory:",
    }
    os.execvpe(sys.argv[1], sys.argv[1:], {**settings, **os.environ})
