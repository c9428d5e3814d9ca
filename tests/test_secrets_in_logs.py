"""No secret gets into a log line, however it is logged."""

import json
import logging
from io import StringIO
from typing import Any

import pytest
import structlog
from django.conf import settings

from portal import access_log, logs

JWT = "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJncmFwaCIsInRpZCI6IjEifQ.c2lnbmF0dXJlLW9mLXRva2Vu"
REFRESH_TOKEN = "1.AXkAsbx_0123456789abcdefghijklmnopqrstuvwxyz-ABCDEFG.AgABAwEAAAAm-06blBE1TpVMil8KPQ41"
CODE = "1.Aabcdefghijklmnopqrstuvwxyz0123456789-_ABCDEFGHIJ"
CLIENT_SECRET = "sbx8Q~a-client-secret-of-nobody.42"


@pytest.fixture
def written() -> StringIO:
    return StringIO()


@pytest.fixture
def logger(written: StringIO) -> logging.Logger:
    """A logger with the filter and the formatter that the settings put on every handler."""
    handler = logging.StreamHandler(written)
    handler.addFilter(logs.HideSecrets())
    handler.setFormatter(logs.formatter())
    logger = logging.Logger("tests.secrets")  # noqa: LOG001 - not in the registry, so there is nothing to clean up
    logger.addHandler(handler)
    return logger


def line_of(written: StringIO) -> dict[str, object]:
    parsed: dict[str, object] = json.loads(written.getvalue())
    return parsed


def test_the_settings_put_the_filter_and_the_formatter_on_every_handler() -> None:
    logging_settings: Any = settings.LOGGING
    for handler in logging_settings["handlers"].values():
        assert (handler["filters"], handler["formatter"]) == (["secrets"], "line")
    assert logging_settings["filters"]["secrets"]["()"] == "portal.logs.HideSecrets"


@pytest.mark.parametrize("secret", [JWT, REFRESH_TOKEN, CODE])
def test_a_bare_token_is_hidden(logger: logging.Logger, written: StringIO, secret: str) -> None:
    logger.warning("Microsoft sent %s and more", secret)
    assert line_of(written)["event"] == "Microsoft sent [hidden] and more"


@pytest.mark.parametrize(
    "text",
    [
        f"POST /token client_id=1&client_secret={CLIENT_SECRET}&grant_type=x",
        f"{{'client_secret': '{CLIENT_SECRET}', 'client_id': '1'}}",
        f'{{"client_secret": "{CLIENT_SECRET}"}}',
        f"GET /auth/complete/microsoft-connect/?code={CLIENT_SECRET}&state={CLIENT_SECRET}",
        f"password={CLIENT_SECRET}",
        f'{{"keyId": "1", "secretText": "{CLIENT_SECRET}"}}',
        f"invalid dsn: postgresql://portal:{CLIENT_SECRET}@db.example.org/portal",
        f"Cannot connect to redis://:{CLIENT_SECRET}@10.0.0.1:6379/0",
        f"proxy http+tls://me:{CLIENT_SECRET}@proxy.example.org",
    ],
)
def test_a_named_secret_is_hidden_in_every_notation(logger: logging.Logger, written: StringIO, text: str) -> None:
    logger.error(text)
    assert CLIENT_SECRET not in written.getvalue()
    assert "[hidden]" in written.getvalue()


def test_what_is_no_secret_stays_readable(logger: logging.Logger, written: StringIO) -> None:
    logger.info("AADSTS700082: the refresh token has expired (error_codes=[700082], connection 17)")
    assert (
        line_of(written)["event"] == "AADSTS700082: the refresh token has expired (error_codes=[700082], connection 17)"
    )


def test_an_address_without_a_password_stays_readable(logger: logging.Logger, written: StringIO) -> None:
    logger.info("GET https://graph.microsoft.com:443/v1.0/users/ada@contoso.example")
    assert line_of(written)["event"] == "GET https://graph.microsoft.com:443/v1.0/users/ada@contoso.example"


def test_a_traceback_keeps_its_shape_and_loses_its_secrets(logger: logging.Logger, written: StringIO) -> None:
    try:
        try:
            raise ValueError(f"cannot use {REFRESH_TOKEN}")
        except ValueError as cause:
            raise RuntimeError(f"client_secret={CLIENT_SECRET}") from cause
    except RuntimeError:
        logger.exception("It failed with %r", {"access_token": JWT})
    line = line_of(written)
    assert "RuntimeError" in str(line["exception"])
    assert "ValueError" in str(line["exception"])
    for secret in (REFRESH_TOKEN, CLIENT_SECRET, JWT):
        assert secret not in written.getvalue()


def test_structlog_uses_the_same_filter(written: StringIO, logger: logging.Logger) -> None:
    handler = logger.handlers[0]
    named = logging.getLogger("tests.structured")
    named.addHandler(handler)
    named.setLevel(logging.INFO)
    try:
        structlog.get_logger("tests.structured").info("sweep", renewed=3, answer={"token": JWT}, note=REFRESH_TOKEN)
    finally:
        named.removeHandler(handler)
    line = line_of(written)
    assert (line["logger"], line["event"], line["renewed"]) == ("tests.structured", "sweep", 3)
    assert line["note"] == "[hidden]"
    assert JWT not in written.getvalue()


def test_no_exception_or_repr_of_ours_shows_a_secret() -> None:
    from connections.microsoft import http, token_endpoint
    from connections.services.registry.credentials import NewSecret

    request: http.Request[None] = http.Request(
        "POST", f"https://login.example/token?code={CODE}", CLIENT_SECRET.encode(), (("a", JWT),)
    )
    shown = [
        repr(request),
        repr(http.Response(request, 200, {"set-cookie": JWT}, REFRESH_TOKEN.encode())),
        repr(NewSecret(CLIENT_SECRET)),
        repr(token_endpoint.ClientSecret(CLIENT_SECRET)),
        repr(token_endpoint.ClientCertificate(CLIENT_SECRET, "AB12")),
    ]
    for text in shown:
        assert not any(secret in text for secret in (JWT, REFRESH_TOKEN, CODE, CLIENT_SECRET)), text


ATTACKS = [
    "/a\nfake",
    "/a\r\n{}",
    "/\x1b[2J\x1b[31mred",
    "/\u2028x",
    '/"}\n{"event": "sign_in.failed',
    "/\x9b31m",
    "/\u202eexe",
]


@pytest.mark.parametrize("path", ATTACKS)
def test_a_path_cannot_break_a_line_of_the_log(logger: logging.Logger, written: StringIO, path: str) -> None:
    logger.warning("Not Found: %s", path)
    structured = written.getvalue()
    access = access_log.line({"method": "GET", "path": path, "client": ("192.0.2.1", 1)}, 404, 0.1)
    for line in (structured, access):
        assert line.count("\n") == 1
        assert line.removesuffix("\n").isprintable()
        assert line.isascii()
        assert isinstance(json.loads(line), dict)
    assert json.loads(structured)["event"] == f"Not Found: {path}"


@pytest.mark.parametrize("path", ATTACKS)
def test_an_exception_cannot_break_a_line_of_the_log(logger: logging.Logger, written: StringIO, path: str) -> None:
    try:
        raise ValueError(path)
    except ValueError:
        logger.exception("Failed")
    assert written.getvalue().count("\n") == 1
    assert written.getvalue().isascii()
