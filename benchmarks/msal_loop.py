"""Microsoft's own library in a loop: one cached application, one refresh after the other, each stored by itself."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

import msal  # type: ignore[import-untyped]
import requests

from benchmarks import grants, loop
from portal.sandbox import seed


class Msal:
    def __init__(self) -> None:
        self._database = grants.connect()
        self._fernet = grants.fernet()
        self._app = msal.ConfidentialClientApplication(
            seed.CONNECTIONS_APP,
            client_credential=seed.CONNECTIONS_SECRET,
            authority=f"{os.environ['MICROSOFT_SANDBOX_URL']}/{seed.CONTOSO}",
            validate_authority=False,
            instance_discovery=False,
            http_client=_session(),
        )

    def refresh(self, count: int) -> None:
        rows = self._database.execute("SELECT id, refresh_token FROM bench_grant ORDER BY id LIMIT %s", (count,))
        for pk, token in rows.fetchall():
            answer = self._app.acquire_token_by_refresh_token(
                self._fernet.decrypt(token).decode(), ["https://graph.microsoft.com/Mail.Read"]
            )
            now = datetime.now(UTC)
            tokens = (self._fernet.encrypt(answer[f"{name}_token"].encode()).decode() for name in ("refresh", "access"))
            self._database.execute(
                "UPDATE bench_grant SET refresh_token = %s, access_token = %s, expires_at = %s, refreshed_at = %s "
                "WHERE id = %s",
                (*tokens, now + timedelta(seconds=answer["expires_in"]), now, pk),
            )


def _session() -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # a bundle that the environment names would be used instead of this one
    session.verify = os.environ["MICROSOFT_CA_BUNDLE"]
    return session


if __name__ == "__main__":
    loop.serve(Msal().refresh)
