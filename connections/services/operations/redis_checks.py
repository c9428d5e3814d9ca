"""Checks of the Redis or Valkey server: version, password, and settings that would make it lose or refuse ticks."""

import ipaddress
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings

from connections.services.api_keys import rate_limit
from connections.services.operations.checks import Result, combine, ok, problem, warning

OLDEST = (6, 2)
MANY_WAITING = 100  # ticks; at this number, beat stops sending them (portal/beat.py)
_NEARLY_FULL = 0.9


def version() -> Result:
    info = _info("server")
    name = "Valkey" if "valkey_version" in info else "Redis"
    number = str(info.get("valkey_version") or info.get("redis_version", "0"))
    parts = tuple(int(part) for part in number.split(".")[:2] if part.isdigit())
    if name == "Redis" and parts < OLDEST:
        return warning(f"Redis {number}", "Upgrade it to Redis 6.2 or newer, or to Valkey.")
    return ok(f"{name} {number}")


def access() -> Result:
    """Check that the server is protected from strangers, and that the connection to it is encrypted."""
    parts = urlsplit(settings.REDIS_URL)
    if parts.scheme == "unix":
        return ok("reached by a unix socket")
    is_local = _is_loopback(parts.hostname or "")
    if not parts.password:
        action = "Set a password (requirepass, or an ACL) and add it to REDIS_URL."
        where = "on this machine" if is_local else "on the network"
        return (warning if is_local else problem)(f"no password protects the server {where}", action)
    if parts.scheme == "redis" and not is_local:
        return warning("the password is sent over the network without TLS", "Use rediss:// in REDIS_URL.")
    return ok("protected by a password")


def memory() -> Result:
    """Check that the server doesn't delete or refuse what the portal writes."""
    memory, persistence = _info("memory"), _info("persistence")
    results = [_eviction(memory)]
    if persistence.get("rdb_last_bgsave_status", "ok") != "ok":
        action = 'Free up disk space, or turn off snapshots (save ""). The portal needs none.'
        results.append(problem("the last snapshot failed, so the server may refuse writes", action))
    if _info("replication").get("role") != "master":
        action = "Set REDIS_URL to the primary server."
        results.append(problem("this server is a replica, which accepts no writes", action))
    return combine(results)


def waiting_ticks() -> int:
    """Return the length of Celery's queue. Raises RedisError."""
    name = f"{settings.REDIS_PREFIX}:{settings.CELERY_TASK_DEFAULT_QUEUE}"
    return int(rate_limit.client().llen(name))


def queue() -> Result:
    """Check that workers handle the ticks."""
    if (waiting := waiting_ticks()) >= MANY_WAITING:
        action = "Start a worker, and look for errors in its log. Web, worker and beat need the same REDIS_PREFIX."
        return problem(f"{waiting} ticks wait for a worker", action)
    return ok(f"{waiting} ticks wait for a worker")


def _eviction(memory: dict[str, Any]) -> Result:
    policy, most = str(memory.get("maxmemory_policy", "noeviction")), int(memory.get("maxmemory", 0))
    if policy.startswith("allkeys"):
        return problem(
            f"maxmemory-policy is {policy}: the server drops waiting ticks, locks and limits when it is full",
            "Set maxmemory-policy noeviction.",
        )
    if policy != "noeviction":
        return warning(
            f"maxmemory-policy is {policy}: the server drops locks and limits when it is full",
            "Set maxmemory-policy noeviction.",
        )
    if most and int(memory.get("used_memory", 0)) > _NEARLY_FULL * most:
        return problem("its memory is nearly full", "Raise maxmemory, or find out what fills the server.")
    return ok("drops nothing when it is full")


def _info(section: str) -> dict[str, Any]:
    return rate_limit.client().info(section)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
