"""Detects a pooler such as PgBouncer in front of PostgreSQL. Then nothing is used that outlives a transaction.

In transaction mode, every transaction may run in another session of the server, in which the cursors and prepared
statements of earlier transactions do not exist. Nothing has to be configured: behind a pooler, the process ID from
connecting differs from that of the process that runs the statements. In session mode, the portal takes the same
precautions, which cost little.
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
        """Return a cursor for large results. It is on the server or, behind a pooler, an ordinary cursor."""
        self.ensure_connection()
        return self.cursor() if self.is_pooled else super().chunked_cursor()
