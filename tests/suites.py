"""Which tests belong to which suite of ``python -m tests``, so that three processes keep two cores busy equally long.

``processes`` has the tests that start servers and browsers and mostly wait for them; they use PostgreSQL, as in
production. Of the others, those of services, API and flows are in ``postgres`` and those of pages and of everything
else in ``sqlite``. Pages use all services, so each rule meets both databases; still, ``ON_BOTH`` runs twice: what
depends on SQL that was written by hand, and on triggers. ``python -m tests --both`` runs all tests but ``processes``
on both databases, as before a release.
"""

SQLITE, POSTGRES, PROCESSES = "sqlite", "postgres", "processes"

POSTGRES_FIRST = (
    "tests/api",
    "tests/attacks",
    "tests/flows",
    "tests/services",
    "tests/test_app_consents_migration.py",
    "tests/test_bad_requests.py",
    "tests/test_bound_secrets_migration.py",
    "tests/test_csp.py",
    "tests/test_growth.py",
)
ON_BOTH = (
    "tests/attacks/test_emptied_audit_trail.py",
    "tests/attacks/test_moved_ciphertexts.py",
    "tests/services/audit",
    "tests/services/operations/test_key_rotation.py",
    "tests/services/operations/test_tallies.py",
    "tests/services/sharing/test_history_queries.py",
    "tests/services/test_locks.py",
    "tests/services/test_rights_under_lock.py",
    "tests/services/tokens",
    "tests/test_database_outage.py",
    "tests/test_doctor.py",
    "tests/test_effective_status.py",
    "tests/test_fields.py",
    "tests/test_schema.py",
)
# These look at files, not at a database.
WITHOUT_DATABASE = (
    "tests/deploy/test_image.py",
    "tests/deploy/test_logs.py",
    "tests/deploy/test_monitoring.py",
    "tests/microsoft",
    "tests/test_contract.py",
    "tests/test_mail_addresses.py",
    "tests/test_presentation.py",
    "tests/test_release.py",
    "tests/test_security_document.py",
    "tests/test_suites.py",
    "tests/test_templates.py",
    "tests/test_version.py",
    "tests/test_wording.py",
)
WITH_PROCESSES = (
    "tests/browser",
    "tests/clients",
    "tests/deploy/test_backup.py",
    "tests/deploy/test_install.py",
    "tests/deploy/test_kit.py",
    "tests/deploy/test_upgrade.py",
    "tests/faults",
    "tests/flows/test_imap.py",
    "tests/sandbox",
    "tests/test_all_in_one.py",
    "tests/test_clocks.py",
    "tests/test_plaintext_secrets.py",
    "tests/test_redis_server.py",
    "tests/test_running.py",
    "tests/test_settings.py",
)


def has(suite: str, path: str, *, both: bool = False) -> bool:
    """Whether the suite runs the test file; ``path`` is relative to the project and has forward slashes.

    ``both`` makes the suites of the two databases run everything that uses a database.
    """
    if suite == PROCESSES or _is_in(path, WITH_PROCESSES):
        return suite == PROCESSES and _is_in(path, WITH_PROCESSES)
    if _is_in(path, WITHOUT_DATABASE):
        return suite == SQLITE
    if both or _is_in(path, ON_BOTH):
        return True
    return (suite == POSTGRES) == _is_in(path, POSTGRES_FIRST)


def _is_in(path: str, places: tuple[str, ...]) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in places)
