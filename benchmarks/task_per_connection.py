"""What tutorials show: one Celery task for each connection, which sends its request with ``requests.post``."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from threading import local

import requests
from celery import Celery

from benchmarks import grants
from portal import service_urls
from portal.sandbox import seed

app = Celery("benchmark", broker=service_urls.broker(os.environ["REDIS_URL"]), set_as_current=False)
app.conf.update(task_ignore_result=True, task_default_queue="benchmark", worker_prefetch_multiplier=1)
_thread = local()


@app.task  # type: ignore[untyped-decorator]
def refresh(pk: int) -> None:
    if not hasattr(_thread, "database"):
        _thread.database = grants.connect()
    fernet = grants.fernet()
    (token,) = _thread.database.execute("SELECT refresh_token FROM bench_grant WHERE id = %s", (pk,)).fetchone()
    response = requests.post(
        f"{os.environ['MICROSOFT_SANDBOX_URL']}/{seed.CONTOSO}/oauth2/v2.0/token",
        data={
            "grant_type": "refresh_token",
            "client_id": seed.CONNECTIONS_APP,
            "client_secret": seed.CONNECTIONS_SECRET,
            "scope": "https://graph.microsoft.com/Mail.Read",
            "refresh_token": fernet.decrypt(token).decode(),
        },
        verify=os.environ["MICROSOFT_CA_BUNDLE"],
        timeout=15,
    )
    answer = response.json()
    now = datetime.now(UTC)
    tokens = (fernet.encrypt(answer[f"{name}_token"].encode()).decode() for name in ("refresh", "access"))
    _thread.database.execute(
        "UPDATE bench_grant SET refresh_token = %s, access_token = %s, expires_at = %s, refreshed_at = %s WHERE id = %s",
        (*tokens, now + timedelta(seconds=answer["expires_in"]), now, pk),
    )
