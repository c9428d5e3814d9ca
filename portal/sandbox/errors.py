"""Entra's errors in Microsoft's format (identity-platform/reference-error-codes)."""

import tomllib
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Meaning:
    """The status, the value of ``error`` and the text for one AADSTS number."""

    error: str
    text: str
    status: int = 400
    suberror: str = ""


_TABLE = tomllib.loads((Path(__file__).parent / "data" / "aadsts.toml").read_text(encoding="utf-8"))
MEANINGS = {int(code): Meaning(**values) for code, values in _TABLE.items()}


@dataclass
class EntraError(Exception):
    """An error from Entra. The token endpoint sends it as JSON, and the authorize endpoint as a page or a redirect."""

    code: int
    text: str
    error: str
    status: int = 400
    suberror: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


def refusal(code: int, *, error: str = "", suberror: str = "", **words: object) -> EntraError:
    """Return the error with this AADSTS number.

    ``words`` are the values in its text. ``error`` and ``suberror`` replace the defaults.
    """
    meaning = MEANINGS[code]
    return EntraError(
        code=code,
        text=meaning.text.format(**words),
        error=error or meaning.error,
        status=meaning.status,
        suberror=suberror or meaning.suberror,
    )


def stamp(moment: float) -> str:
    """Return a time in the format of an error's fields: ``2016-01-09 02:02:12Z``."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def precise(moment: float) -> str:
    """Return a time in the format of Entra's texts, with seven decimals of a second."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "0Z"


@dataclass(frozen=True)
class Trace:
    """The IDs that Microsoft's support asks for."""

    trace_id: str
    correlation_id: str

    @classmethod
    def of(cls, client_request_id: str = "") -> "Trace":
        """Return new IDs. The correlation ID is the caller's ``client-request-id`` if that is a GUID."""
        try:
            correlation = str(uuid.UUID(client_request_id))
        except ValueError:
            correlation = str(uuid.uuid4())
        return cls(trace_id=str(uuid.uuid4()), correlation_id=correlation)


def description(problem: EntraError, trace: Trace, now: float) -> str:
    return (
        f"AADSTS{problem.code}: {problem.text} Trace ID: {trace.trace_id} "
        f"Correlation ID: {trace.correlation_id} Timestamp: {stamp(now)}"
    )


def body(problem: EntraError, trace: Trace, now: float, public_url: str) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "error": problem.error,
        "error_description": description(problem, trace, now),
        "error_codes": [problem.code],
        "timestamp": stamp(now),
        "trace_id": trace.trace_id,
        "correlation_id": trace.correlation_id,
        "error_uri": f"{public_url}/error?code={problem.code}",
    }
    if problem.suberror:
        answer["suberror"] = problem.suberror
    answer.update(problem.extra)
    return answer
