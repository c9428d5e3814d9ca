"""Logs: one JSON object a line, carrying the request id, with anything that looks like a secret cut out."""

import logging
import re

import structlog

# JSON Web Tokens, Entra refresh tokens and the OAuth parameters that carry secrets. Our code never logs one;
# this filter is for libraries and for the day somebody forgets.
_SECRETS = re.compile(
    r"eyJ[\w-]{8,}\.[\w-]+(?:\.[\w-]*)?"
    r"|\b[01]\.A[\w-]{20,}"
    r"|(?P<name>\b(?:code|client_secret|refresh_token|access_token|id_token|client_assertion|code_verifier|state)"
    r"[\"']?\s*[=:]\s*[\"']?)[^\s&\"',}]+"
)


def hide(text: str) -> str:
    """Return ``text`` with everything that looks like a token or secret replaced by ``[hidden]``."""
    return _SECRETS.sub(lambda match: f"{match['name'] or ''}[hidden]", text)


class HideSecrets(logging.Filter):
    """Cut secrets out of a record, its arguments and its traceback before anything formats it."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not isinstance(record.msg, dict):
            record.msg, record.args = hide(record.getMessage()), None
        if record.exc_info and not record.exc_text:
            record.exc_text = hide(logging.Formatter().formatException(record.exc_info))
            record.exc_info = None
        return True


def formatter() -> logging.Formatter:
    """The JSON line formatter; context bound per request (request id, user id) is merged in."""

    def exception_text(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        record = event.get("_record")
        if record is not None and record.exc_text:
            event["exception"] = record.exc_text
        return event

    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
        ],
        processors=[
            exception_text,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(),
        ],
    )
