"""Logging: one JSON object per line, with the request id and without anything that looks like a secret."""

import logging
import re
from typing import Any

import structlog

# JSON Web Tokens, and Entra's refresh tokens and authorization codes. Our code never logs one; this is for libraries
# and mistakes.
_TOKENS = re.compile(r"eyJ[\w-]{8,}\.[\w-]+(?:\.[\w-]*)*|\b[01]\.A[\w-]{20,}(?:\.[\w-]+)*")
# OAuth parameters that carry secrets, in a query string, a form body, JSON or a Python dict.
_PARAMETERS = re.compile(
    r"(?P<name>\b(?:code|client_secret|refresh_token|access_token|id_token|client_assertion|code_verifier|state"
    r"|password)[\"']?\s*[=:]\s*[\"']?)[^\s&\"',}]+"
)


# The path of a sign-in link is a secret.
_LINKS = re.compile(r"(?P<path>/sign-in-link/)(?!done/)[^/\s\"'?]+")


def hide(text: str) -> str:
    """Return ``text`` with everything that looks like a token or secret replaced by ``[hidden]``."""
    return _PARAMETERS.sub(r"\g<name>[hidden]", hide_links(_TOKENS.sub("[hidden]", text)))


def hide_links(text: str) -> str:
    """Return ``text`` with the secrets in URLs replaced by ``[hidden]``."""
    return _LINKS.sub(r"\g<path>[hidden]", text)


class HideSecrets(logging.Filter):
    """A filter that hides the secrets in a record, its arguments and its traceback before anything formats it."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not isinstance(record.msg, dict):
            record.msg, record.args = hide(record.getMessage()), None
        if record.exc_info and not record.exc_text:
            record.exc_text = hide(logging.Formatter().formatException(record.exc_info))
            record.exc_info = None
        return True


def formatter() -> logging.Formatter:
    """Return the formatter for JSON lines, which adds the context bound per request (request id, user id).

    structlog's loggers use the same handlers, so there is only one format.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            *shared,
            structlog.processors.format_exc_info,
            _hide_exception,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, _exception_text],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(default=str),
            _hide_tokens,
        ],
    )


def _exception_text(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    record = event.get("_record")
    if record is not None and record.exc_text:
        event["exception"] = record.exc_text
    return event


def _hide_exception(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    if "exception" in event:
        event["exception"] = hide(event["exception"])
    return event


def _hide_tokens(_: Any, __: str, line: Any) -> str:
    """Hide tokens in the finished line, however they got into it."""
    return hide_links(_TOKENS.sub("[hidden]", line))
