"""Notices a pooler such as PgBouncer between portal and PostgreSQL, and then uses nothing that outlives a transaction.

In transaction mode every transaction may run in another session of the server, where a cursor or a prepared statement
of an earlier transaction does not exist. Nothing needs to be configured: a pooler answers in the name of another server
process than the one that runs the statements. In session mode the portal is equally careful; it costs little.
"""

from typing import Any

from django.db.backends.postgresql import base


class DatabaseWrapper(base.DatabaseWrapper):
    is_pooled = False

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        connection = super().get_new_connection(conn_params)
        # Compiling a query takes PostgreSQL longer than any query of a page needs. Kept by the session once committed.
        (backend, _) = connection.execute("SELECT pg_backend_pid(), set_config('jit', 'off', false)").fetchone()
        connection.commit()
        self.is_pooled = backend != connection.info.backend_pid
        return connection

    def chunked_cursor(self) -> Any:
        """Return a cursor for large results: on the server, or behind a pooler an ordinary one."""
        self.ensure_connection()
        return self.cursor() if self.is_pooled else super().chunked_cursor()
