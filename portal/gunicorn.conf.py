"""Gunicorn's settings: threads, and an access log without query strings.

The callback of a sign-in carries an authorization code in its query string, so only the path is logged.
"""

import os

bind = os.environ.get("BIND", "127.0.0.1:8000")
worker_class = "gthread"
workers = int(os.environ.get("WEB_WORKERS", "1"))
threads = int(os.environ.get("WEB_THREADS", "8"))
timeout = 60
keepalive = 5
accesslog = "-"
access_log_format = (
    '{"logger": "access", "at": "%(t)s", "from": "%(h)s", "request": "%(m)s %(U)s", "status": %(s)s, "ms": %(M)s}'
)
