"""portalctl: the portal on the command line, for people and for scripts.

Exit codes: 0 if all is well; 1 if a connection is not working or an incident is open; 2 for incorrect usage; 3 if the
portal rejects the key or the object does not exist; 4 if the portal or Microsoft is unavailable.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, Callable, NoReturn

from m365_portal import xoauth2
from m365_portal.errors import (
    AmbiguousName,
    ConfigurationError,
    ConnectionUnusable,
    InvalidInput,
    KeyRefused,
    NotAllowed,
    NotFound,
    PortalError,
    Unavailable,
    UnexpectedAnswer,
)
from m365_portal.key_files import key_from
from m365_portal.portal import AGENT, Portal
from m365_portal.things import Connection, SignInLink, Token

OK, NOT_WELL, USAGE, REFUSED, AWAY, STOPPED = 0, 1, 2, 3, 4, 130
_CODES: tuple[tuple[tuple[type[PortalError], ...], int], ...] = (
    ((ConnectionUnusable,), NOT_WELL),
    ((ConfigurationError, InvalidInput, AmbiguousName), USAGE),
    ((KeyRefused, NotAllowed, NotFound), REFUSED),
    ((Unavailable, UnexpectedAnswer), AWAY),
)
COLUMNS = ("id", "name", "status", "account", "owner")


def run() -> NoReturn:
    """Run portalctl with the arguments from the command line, and exit with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character must not crash the program.
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader closed the pipe; discard the rest of the output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = OK
    except KeyboardInterrupt:
        code = STOPPED
    sys.exit(code)


def main(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    as_json = getattr(options, "json", False)
    try:
        with _portal(options) as portal:
            return int(options.command(portal, options, as_json))
    except PortalError as error:
        _tell_error(error, as_json)
        return next(
            (code for kinds, code in _CODES if isinstance(error, kinds)), AWAY if error.status >= 500 else REFUSED
        )


def _portal(options: argparse.Namespace) -> Portal:
    key_file = getattr(options, "key_file", None)
    return Portal(
        getattr(options, "url", None),
        key_from(key_file) if key_file else None,
        timeout=getattr(options, "timeout", 30.0),
        patience=getattr(options, "wait", 30.0),
        ca_file=getattr(options, "ca_file", None),
        agent=f"portalctl ({AGENT})",
    )


def _parser() -> argparse.ArgumentParser:
    # These are accepted before and after the command. They have no defaults, so that the later one does not reset the
    # earlier one.
    shared = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    shared.add_argument("--url", help="the portal's URL (or PORTAL_URL)")
    shared.add_argument("--key-file", help="file with the API key (or PORTAL_API_KEY_FILE, or PORTAL_API_KEY)")
    shared.add_argument("--ca-file", help="certificates (PEM) to trust instead of the system's")
    shared.add_argument("--timeout", type=_seconds, help="timeout of one call, in seconds (30)")
    shared.add_argument(
        "--wait", type=_seconds, help="how long to retry while the portal is unavailable, in seconds (30)"
    )
    shared.add_argument("--json", action="store_true", help="print JSON")
    parser = argparse.ArgumentParser(
        prog="portalctl",
        parents=[shared],
        # --key must not be taken as an abbreviation of --key-file.
        allow_abbrev=False,
        description="Manage the portal's connections to Microsoft 365 and request their access tokens.",
        epilog="Exit codes: 0 success, 1 connection not active, 2 invalid input, 3 denied or not found, 4 unavailable.",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(
        name: str, act: Callable[[Portal, argparse.Namespace, bool], int], help: str
    ) -> argparse.ArgumentParser:
        parser = commands.add_parser(name, parents=[shared], allow_abbrev=False, help=help, description=help)
        parser.set_defaults(command=act)
        return parser

    list_parser = command("list", _list, "list the connections that the key has access to")
    for name in ("name", "capability", "mailbox", "status", "owner"):
        list_parser.add_argument(f"--{name}", help=f"only those with this {name}")
    command("show", _show, "show one connection").add_argument("connection", help="ID or name")
    token = command("token", _token, "print only an access token, by default for Microsoft Graph")
    token.add_argument("connection", help="ID or name, or a reference")
    token.add_argument(
        "--min-valid", type=_seconds, default=300.0, help="minimum validity of the token, in seconds (300)"
    )
    token.add_argument("--resource", default="", help="what it is for: exchange, azure, … or an https:// address")
    token.add_argument("--xoauth2", metavar="MAILBOX", help="print the XOAUTH2 string for this mailbox instead")
    check = command("check", _check, "check connections with Microsoft now")
    check.add_argument("connection", nargs="+", help="ID or name")
    link = command("link", _link, "create a sign-in link for the mailbox's owner")
    link.add_argument("connection", help="ID or name")
    _connect_arguments(command("connect", _connect, "create a connection (prints a sign-in link if it is delegated)"))
    command("references", _references, "list references, the stable names of connections")
    point = command("point", _point, "point a reference at another connection")
    point.add_argument("reference", help="name of the reference")
    point.add_argument("connection", help="ID or name")
    incidents = command("incidents", _incidents, "list open incidents and who can fix them")
    incidents.add_argument("--all", action="store_true", help="include resolved incidents")
    command("me", _me, "show the API key's owner, scopes and limits")
    return parser


def _connect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="name of the connection")
    parser.add_argument("--app", required=True, help="app registration ID, or its name (requires admin:read)")
    parser.add_argument("--app-only", action="store_true", help="create an app-only connection")
    parser.add_argument(
        "--capability", action="append", default=[], help="capability, for example mail.read (can be repeated)"
    )
    parser.add_argument("--scope", action="append", default=[], help="additional permission (can be repeated)")
    parser.add_argument("--reason", default="", help="justification for the approver")
    parser.add_argument("--mailbox", action="append", default=[], help="address of a shared mailbox (can be repeated)")
    parser.add_argument(
        "--host", action="append", default=[], help="SharePoint or Dataverse address, like contoso.sharepoint.com"
    )


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 86400:
        raise argparse.ArgumentTypeError("must be between 0 and 86400 seconds")
    return number


def _list(portal: Portal, options: argparse.Namespace, as_json: bool) -> int:
    names = ("name", "capability", "mailbox", "status", "owner")
    connections = list(portal.connections(**{name: value for name in names if (value := getattr(options, name))}))
    if as_json:
        _json([connection.raw for connection in connections])
    elif not connections:
        _say("No connections found.")
    else:
        _table(
            COLUMNS,
            [
                [str(connection.id), connection.name, _state(connection), connection.account or "-", connection.owner]
                for connection in connections
            ],
        )
    return OK


def _show(portal: Portal, options: argparse.Namespace, as_json: bool) -> int:
    connection = portal.connection(options.connection)
    return _told(connection, as_json)


def _token(portal: Portal, options: argparse.Namespace, as_json: bool) -> int:
    if options.min_valid > 3600:
        raise ConfigurationError("--min-valid can't be more than 3600.")
    if options.xoauth2 and options.resource not in ("", "exchange"):
        raise ConfigurationError("--xoauth2 is only for the resource exchange.")
    resource = "exchange" if options.xoauth2 else options.resource
    token = portal.token(options.connection, resource=resource, min_valid=options.min_valid)
    if options.xoauth2:
        _xoauth2(options.xoauth2, token, as_json)
    elif as_json:
        _json({**asdict(token), "expires_at": token.expires_at.isoformat()})
    else:
        print(token.access_token)
    if token.trouble:
        print(f"portalctl: this token expires soon and can't be renewed: {token.trouble}", file=sys.stderr)
    return OK


def _xoauth2(mailbox: str, token: Token, as_json: bool) -> None:
    try:
        text = xoauth2.encoded(mailbox, token.access_token)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    if as_json:
        _json({"xoauth2": text, "expires_at": token.expires_at.isoformat()})
    else:
        print(text)


def _check(portal: Portal, options: argparse.Namespace, as_json: bool) -> int:
    connections = [portal.check(reference) for reference in options.connection]
    if as_json:
        _json([connection.raw for connection in connections])
    else:
        for connection in connections:
            _say(f"{connection.name}: {_state(connection)}")
            if not connection.is_well:
                _say(*(f"  {line}" for line in _mending(connection)))
    return OK if all(connection.is_well for connection in connections) else NOT_WELL


def _link(portal: Portal, options: argparse.Namespace, as_json: bool) -> int:
    link = portal.sign_in_link(options.connection)
    if as_json:
        _json(_link_as_json(link))
    else:
        _say(*_link_in_words(link))
    return OK


def _connect(portal: Portal, options: argparse.Namespace, as_json: bool) -> int:
    connection, link = portal.connect(
        options.name,
        app_registration=_app_number(portal, options.app),
        authentication_type="client_credentials" if options.app_only else "authorization_code",
        capabilities=options.capability,
        extra_scopes=options.scope,
        shared_mailboxes=options.mailbox,
        hosts=options.host,
        reason=options.reason,
    )
    if as_json:
        _json({**connection.raw, "sign_in_link": _link_as_json(link) if link else None})
        return OK
    _say(f"Created connection {connection.id}, {connection.name}: {_state(connection)}.")
    if link is not None:
        _say(*_link_in_words(link))
    elif not connection.is_well:
        _say(*_mending(connection))
        return NOT_WELL
    return OK


def _references(portal: Portal, options: argparse.Namespace, as_json: bool) -> int:
    references = list(portal.references())
    if as_json:
        _json([reference.raw for reference in references])
    elif not references:
        _say("No references found.")
    else:
        rows = [[row.name, str(row.connection_id or "-"), row.owner, row.description or "-"] for row in references]
        _table(("name", "connection", "owner", "description"), rows)
    return OK


def _point(portal: Portal, options: argparse.Namespace, as_json: bool) -> int:
    reference = portal.point(options.reference, options.connection)
    if as_json:
        _json(reference.raw)
    else:
        _say(f"{reference.name} now points at connection {reference.connection_id}.")
    return OK


def _app_number(portal: Portal, app: str) -> int:
    if app.isascii() and app.isdigit():
        return int(app)
    registrations = [
        registration for registration in portal.items("/app-registrations") if registration.get("name") == app
    ]
    if not registrations:
        raise NotFound(f"The app registration “{app}” doesn't exist.", action="Use its ID.", status=404)
    return int(registrations[0]["id"])


def _incidents(portal: Portal, options: argparse.Namespace, as_json: bool) -> int:
    incidents = list(portal.incidents(state="" if options.all else "open"))
    if as_json:
        _json(incidents)
    elif not incidents:
        _say("No open incidents." if not options.all else "No incidents.")
    for incident in incidents if not as_json else []:
        state = "open" if incident.get("is_open") else f"resolved {incident.get('closed_at')}"
        _say(f"{incident.get('id')}  {incident.get('title')} ({state})", f"  {incident.get('cause')}")
        _say(f"  {incident.get('action')} (assigned to: {incident.get('who')})", f"  {incident.get('link')}")
    return NOT_WELL if any(incident.get("is_open") for incident in incidents) else OK


def _me(portal: Portal, options: argparse.Namespace, as_json: bool) -> int:
    key = portal.me()
    if as_json:
        _json(key)
    else:
        _pairs((name, _plain(value)) for name, value in key.items())
    return OK


def _told(connection: Connection, as_json: bool) -> int:
    if as_json:
        _json(connection.raw)
    else:
        _pairs((name, _plain(value)) for name, value in connection.raw.items() if value not in (None, "", []))
    return OK if connection.is_well else NOT_WELL


def _state(connection: Connection) -> str:
    return "app credential rejected" if connection.waits_for_app_registration else connection.status


def _mending(connection: Connection) -> list[str]:
    who = [f"Assigned to: {connection.who}"] if connection.who else []
    return [line for line in (connection.cause, connection.action, *who, connection.link) if line]


def _link_in_words(link: SignInLink) -> list[str]:
    return [
        "Send this link to the mailbox's owner. It can be used once and expires on",
        f"{link.expires_at:%Y-%m-%d %H:%M} UTC:",
        link.url,
    ]


def _link_as_json(link: SignInLink) -> dict[str, str]:
    return {"url": link.url, "expires_at": link.expires_at.isoformat()}


def _tell_error(error: PortalError, as_json: bool) -> None:
    if as_json:
        names = ("code", "title", "detail", "action", "who", "link", "incident", "status", "retry_after")
        print(json.dumps({name: getattr(error, name) for name in names}), file=sys.stderr)
    else:
        print(f"portalctl: {_clean(str(error))}", file=sys.stderr)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value)) or "-"
    if isinstance(value, dict):
        return str(value.get("name", value))
    return "-" if value is None or value == "" else str(value)


def _table(columns: Sequence[str], rows: list[list[str]]) -> None:
    lines = [[_clean(cell) for cell in row] for row in [[name.upper() for name in columns], *rows]]
    widths = [max(len(line[number]) for line in lines) for number in range(len(columns))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())


def _pairs(pairs: Iterable[tuple[str, str]]) -> None:
    rows = list(pairs)
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        _say(f"{name.replace('_', ' ').ljust(width)}  {value}")


def _say(*lines: str) -> None:
    for line in lines:
        print(_clean(line))


def _json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def _clean(text: str) -> str:
    """Remove terminal control characters, because names are chosen by other people."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
