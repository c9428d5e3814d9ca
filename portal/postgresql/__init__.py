"""Django's backend for PostgreSQL, which also works behind a connection pooler."""
