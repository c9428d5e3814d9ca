"""Behind PgBouncer in transaction mode, where every transaction may run in another session, everything works."""

import os
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from django.db import connection as database
from django.utils import timezone

from connections.models import AuditEvent, User
from portal.dev_servers import NOBODY
from portal.processes import Process
from portal.sandbox.process import free_port
from tests import factories
from tests.conftest import database_url
from tests.faults.test_token_calls import answers
from tests.load_client import call

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
pytestmark = [
    pytest.mark.only_on("postgres"),
    pytest.mark.slow,
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(not PGBOUNCER, reason="PgBouncer is not installed; .ci/run installs it"),
]


@pytest.fixture
def pooled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A DATABASE_URL of the test's database through PgBouncer, which has two sessions for everybody."""
    port, name, server = free_port(), str(database.settings_dict["NAME"]), database.settings_dict
    directory = Path("/tmp") / f"pgbouncer-{os.getpid()}"
    directory.mkdir(mode=0o755)
    configuration = directory / "pgbouncer.ini"
    where = f"host={server['HOST']}" + (f" port={server['PORT']}" if server["PORT"] else "")
    configuration.write_text(
        f"[databases]\n{name} = {where} dbname={name} user={server['USER']}\n[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        "pool_mode = transaction\ndefault_pool_size = 2\nmax_client_conn = 200\n"
    )
    user = NOBODY if os.geteuid() == 0 else 0
    process = Process("pgbouncer", [str(PGBOUNCER), configuration], log=directory / "log", user=user)
    try:
        process.wait_until(lambda: _answers(port, name), seconds=20)
        yield f"postgres://portal@127.0.0.1:{port}/{name}"
    finally:
        process.stop()
        shutil.rmtree(directory, ignore_errors=True)


def _answers(port: int, name: str) -> bool:
    try:
        with psycopg.connect(host="127.0.0.1", port=port, user="portal", dbname=name, connect_timeout=2):
            return True
    except psycopg.OperationalError:
        return False


def test_token_calls_pages_and_exports_work_behind_it(
    bob: User, pooled: str, start_process: Callable[..., Process]
) -> None:
    assert urlsplit(pooled).port != urlsplit(database_url()).port
    later = timezone.now() + timedelta(hours=1)
    connection = factories.make_connection(owner=bob, access_token="token", expires_at=later)
    _, key = factories.make_key(bob)
    port = free_port()
    web = start_process("web", ["portal.server"], BIND=f"127.0.0.1:{port}", DATABASE_URL=pooled, API_RATE_LIMIT="0")
    web.wait_until(lambda: answers(port), seconds=60)
    import asyncio

    async def many() -> list[Any]:
        return await asyncio.gather(*(call(port, f"connections/{connection.pk}/token", key) for _ in range(200)))

    for _ in range(3):
        assert {answer.status for answer in asyncio.run(many())} == {200}
    assert AuditEvent.objects.filter(action="key.used").count() >= 0
    assert "prepared statement" not in web.log.read_text()


def test_large_results_are_read_behind_it(pooled: str) -> None:
    from portal import service_urls
    from portal.postgresql.base import DatabaseWrapper

    settings = {**database.settings_dict, **service_urls.database(pooled)}
    wrapper = DatabaseWrapper(settings)
    try:
        cursor = wrapper.chunked_cursor()
        cursor.execute("SELECT generate_series(1, 5000)")
        assert cursor.fetchmany(10) == [(number,) for number in range(1, 11)]
        with wrapper.cursor() as other:
            other.execute("SELECT 1")
        assert len(cursor.fetchall()) == 4990
        assert wrapper.is_pooled
        database.ensure_connection()
        assert not database.is_pooled  # type: ignore[attr-defined]
    finally:
        wrapper.close()
