"""All checks of a running portal. ``manage.py doctor`` runs all of them, ``/readyz`` and the home page only some."""

from django.utils import timezone

from connections.services.operations import (
    database_checks,
    health,
    host_checks,
    network_checks,
    redis_checks,
    restore,
    search_indexes,
    stream_check,
)
from connections.services.operations.checks import Check

_DATABASE, _BROKER = ("database",), ("broker",)

CHECKS = (
    Check(
        "database",
        health.database_answers,
        "Check DATABASE_URL, that the server is running and accepts this role, and that its disk isn't full.",
        is_for_readiness=True,
    ),
    Check("database_version", database_checks.version, needs=_DATABASE),
    Check("database_role", database_checks.role, needs=_DATABASE),
    Check("database_connections", database_checks.connection_limit, needs=_DATABASE),
    Check("migrations", database_checks.migrations, needs=_DATABASE, is_for_readiness=True),
    Check("audit_guards", database_checks.audit_guards, needs=_DATABASE),
    Check("search_indexes", search_indexes.check, needs=_DATABASE),
    Check("restore", lambda: restore.progress(timezone.now()), needs=("migrations",)),
    Check("audit_stream", stream_check.check, needs=("migrations",), is_for_home=True),
    Check(
        "broker",
        health.broker_answers,
        "Check REDIS_URL and its password, and that the server is running.",
        is_for_readiness=True,
        is_for_home=True,
    ),
    Check("redis_version", redis_checks.version, needs=_BROKER),
    Check("redis_access", redis_checks.access, needs=_BROKER),
    Check("redis_memory", redis_checks.memory, needs=_BROKER),
    Check("queue", redis_checks.queue, needs=_BROKER, is_for_home=True),
    Check("encryption_keys", health.encryption_keys, needs=_DATABASE, is_for_readiness=True, is_for_home=True),
    Check("sweep", health.sweep, needs=_BROKER, is_for_readiness=True, is_for_home=True),
    Check("processes", health.processes, needs=_DATABASE, is_for_home=True),
    Check("clocks", health.clock_differences, needs=(*_BROKER, *_DATABASE), is_for_readiness=True, is_for_home=True),
    Check("public_url", network_checks.public_url),
    Check("public_metrics", network_checks.public_metrics, needs=("public_url",)),
    Check("mail", network_checks.mail_server),
    Check("microsoft", network_checks.microsoft, needs=_DATABASE),
    Check("sign_in_app", host_checks.sign_in_app),
    Check("break_glass", host_checks.break_glass, needs=_DATABASE),
    Check("secret_files", host_checks.secret_files),
    Check("disk", host_checks.disk, is_for_home=True),
)
