"""Gunicorn's settings: threads, and an access log without query strings.

The callback of a sign-in carries an authorization code in its query string, so only the path is logged; in that of a
sign-in link the token is hidden.
"""

import contextlib
import os
import resource

bind = os.environ.get("BIND", "127.0.0.1:8000")
worker_class = "portal.worker.Worker"
workers = int(os.environ.get("WEB_WORKERS", "1"))
threads = int(os.environ.get("WEB_THREADS", "8"))
# Per process: those who are served, who keep their connection, and who wait for a token (portal/waiting.py).
worker_connections = 4000
timeout = 60
keepalive = 5
# Above the API's own limit, so that it is the API that answers, as a problem.
limit_request_line = 8190
accesslog = "-"
logger_class = "portal.access_log.AccessLog"
access_log_format = (
    '{"logger": "access", "at": "%(t)s", "from": "%(h)s", "request": "%(m)s %(U)s", "status": %(s)s, "ms": %(M)s}'
)

# Each connection is an open file.
_soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
_wanted = 2 * worker_connections if _hard == resource.RLIM_INFINITY else min(_hard, 2 * worker_connections)
if _soft != resource.RLIM_INFINITY and _soft < _wanted:
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (_wanted, _hard))
