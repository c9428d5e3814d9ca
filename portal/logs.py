"""Logging: one JSON object per line, with the request ID and without anything that looks like a secret."""

import logging
import logging.config
import re
import sys
import threading
from types import TracebackType
from typing import Any

import structlog

# JSON Web Tokens, and Entra's refresh tokens and authorization codes. The portal itself never logs these, but libraries
# might, or a bug.
_TOKENS = re.compile(r"eyJ[\w-]{8,}\.[\w-]+(?:\.[\w-]*)*|\b[01]\.A[\w-]{20,}(?:\.[\w-]+)*")
# OAuth parameters that contain secrets, in a query string, a form body, JSON or a Python dict.
_PARAMETERS = re.compile(
    r"(?P<name>\b(?:code|client_secret|refresh_token|access_token|id_token|client_assertion|code_verifier|state"
    r"|password|secretText)[\"']?\s*[=:]\s*[\"']?)[^\s&\"',}]+"
)
# The password in a URL, for example of a database, a broker or a proxy.
_PASSWORDS = re.compile(r"(?P<start>\b\w+(?:\+\w+)?://[^\s/:@]*:)[^\s/@]+@")
# The path of a sign-in link is a secret.
_LINKS = re.compile(r"(?P<path>/sign-in-link/)(?!done/)[^/\s\"'?]+")


def hide(text: str) -> str:
    """Return ``text``, with everything that looks like a token or secret replaced by ``[hidden]``."""
    text = _PASSWORDS.sub(r"\g<start>[hidden]@", text)
    return _PARAMETERS.sub(r"\g<name>[hidden]", hide_links(_TOKENS.sub("[hidden]", text)))


def hide_links(text: str) -> str:
    """Return ``text``, with the secrets in URLs replaced by ``[hidden]``."""
    return _LINKS.sub(r"\g<path>[hidden]", text)


class HideSecrets(logging.Filter):
    """A filter that hides secrets in a record, its arguments and its traceback, before the record is formatted."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not isinstance(record.msg, dict):
            record.msg, record.args = hide(record.getMessage()), None
        if record.exc_info and not record.exc_text:
            record.exc_text = hide(logging.Formatter().formatException(record.exc_info))
            record.exc_info = None
        return True


class QuietTicks(logging.Filter):
    """Lowers Celery's messages about ticks (sent, received, done) to DEBUG, because there are several a second."""

    _TICKS = ("Scheduler: Sending due task", "Task %(name)s[%(id)s] received", "Task %(name)s[%(id)s] succeeded")

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno != logging.INFO or not str(record.msg).startswith(self._TICKS):
            return True
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
        return logging.getLogger(record.name).isEnabledFor(logging.DEBUG)


def configuration(level: str) -> dict[str, Any]:
    """Return the configuration for logging.config.dictConfig. All logs go to standard error."""
    quiet = {"filters": ["ticks"]}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"secrets": {"()": "portal.logs.HideSecrets"}, "ticks": {"()": "portal.logs.QuietTicks"}},
        "formatters": {"line": {"()": "portal.logs.formatter"}},
        "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["secrets"]}},
        "root": {"handlers": ["console"], "level": level},
        "loggers": {
            "django": {"level": level},
            "urllib3": {"level": "WARNING"},
            "celery.beat": quiet,
            "celery.worker.strategy": quiet,
            "celery.app.trace": quiet,
        },
    }


def start() -> None:
    """Start logging before Django is set up, including Python's warnings and exceptions that end a process or thread.

    On a terminal, tracebacks remain plain text. Only for processes of the portal, because it changes the interpreter's
    hooks.
    """
    logging.config.dictConfig(configuration("INFO"))
    logging.captureWarnings(capture=True)
    if sys.stderr.isatty():
        return

    def log_exception(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        logger = logging.getLogger("portal")
        if issubclass(kind, KeyboardInterrupt):
            return
        logger.critical("%s: %s", kind.__name__, error, exc_info=(kind, error, traceback))

    def log_from_thread(arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_value is not None:
            log_exception(arguments.exc_type, arguments.exc_value, arguments.exc_traceback)

    sys.excepthook, threading.excepthook = log_exception, log_from_thread


def formatter() -> logging.Formatter:
    """Return the formatter for JSON lines. It adds the context that is bound to the request (request ID, user ID).

    The loggers of structlog use the same handlers, so there is only one format.
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
    """Hide any tokens in the finished line, no matter how they got there."""
    return hide_links(_TOKENS.sub("[hidden]", line))
