"""Whether the event stream (AUDIT_STREAM_URL) keeps up."""

from datetime import timedelta

from django.utils import timezone

from connections.services.audit import streaming
from connections.services.operations.checks import Result, ok, problem, warning

LIMIT = timedelta(minutes=15)  # also in the rule PortalAuditStreamLags
_ACTION = "Check AUDIT_STREAM_URL and its receiver; docs/audit.md describes the stream. Nothing is lost meanwhile."


def check() -> Result:
    states = streaming.states()
    if not states:
        return ok("events aren't streamed, because AUDIT_STREAM_URL isn't set")
    waiting = streaming.lag(timezone.now())
    error = states[0].last_error
    if waiting > LIMIT:
        minutes = waiting // timedelta(minutes=1)
        return problem(f"events have been waiting for {minutes} minutes. {error}".rstrip(), _ACTION)
    if error:
        return warning(f"the last attempt failed: {error}", _ACTION)
    return ok(f"the receiver has everything up to seal {states[0].upto}")
