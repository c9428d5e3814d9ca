"""Which tests belong to which suite of ``python -m tests``, so that three processes keep two cores busy equally long.

``sqlite`` has the tests that hardly depend on the database, and measures coverage. ``processes`` has those that start
servers and browsers and mostly wait for them, on PostgreSQL as in production. ``postgres`` has the rest of what needs
PostgreSQL's strictness. Everything else is in both ``sqlite`` and ``postgres``. Views are only in ``sqlite``: other
tests open every page on PostgreSQL (test_growth, test_bad_requests, test_csp), and the browser uses it, too.
"""

SQLITE, POSTGRES, PROCESSES = "sqlite", "postgres", "processes"

_ONLY_ON_SQLITE = (
    "tests/deploy/test_image.py",
    "tests/deploy/test_logs.py",
    "tests/deploy/test_monitoring.py",
    "tests/microsoft",
    "tests/test_contract.py",
    "tests/test_mail_addresses.py",
    "tests/test_permissions.py",
    "tests/test_presentation.py",
    "tests/test_secret_columns.py",
    "tests/test_release.py",
    "tests/test_security_document.py",
    "tests/test_templates.py",
    "tests/test_version.py",
    "tests/test_wording.py",
    "tests/views",
)
_ONLY_ON_POSTGRES = (
    "tests/test_growth.py",
    "tests/api/test_schemathesis.py",
    "tests/api/test_schemathesis_running.py",
    "tests/test_bad_requests.py",
    "tests/test_csp.py",
)
_PROCESSES = (
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
_LEFT_OUT = {SQLITE: (*_ONLY_ON_POSTGRES, *_PROCESSES), POSTGRES: (*_ONLY_ON_SQLITE, *_PROCESSES)}


def has(suite: str, path: str) -> bool:
    """Whether the suite runs the test file; ``path`` is relative to the project and has forward slashes."""
    if suite == PROCESSES:
        return _is_in(path, _PROCESSES)
    return not _is_in(path, _LEFT_OUT[suite])


def _is_in(path: str, places: tuple[str, ...]) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in places)
