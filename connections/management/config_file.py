"""Configuration files: written from plain values, and read into checked entries. docs/configuration-as-code.md tells their form.

Every value goes through the same form field as on the pages, so a file may hold exactly what a person may type.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from django import forms
from django.core.exceptions import ValidationError

from connections.errors import InvalidInput
from connections.management.yaml_reader import YamlMapping, YamlValue, read
from connections.microsoft import capabilities
from connections.models import AlertChannel, AppCredential, AppRegistration
from connections.services.config.people import ROLES
from connections.services.config.schema import (
    VERSION,
    AccountEntry,
    AppEntry,
    ChannelEntry,
    Configuration,
    CredentialEntry,
    MailboxEntry,
    PolicyEntry,
    TeamEntry,
    TenantEntry,
)
from connections.services.policy import rules as policy_rules
from connections.validators import (
    AddressField,
    DirectoryField,
    ExpiryField,
    GuidField,
    NameField,
    PastedField,
    SecretValueField,
    TargetField,
)

HEADER = """\
# The organisation's set-up in the connection portal, without secrets. See docs/configuration-as-code.md.
# Connections and shares are not here: they are grants of persons, which no file can give back.
"""
ALLOWS = ("delegated", "app_only")
PURPOSE_LENGTH = 1000
LARGEST_SECRET_FILE = 10_000  # bytes

E = TypeVar("E")


def write(values: dict[str, Any]) -> str:
    """The text of a configuration file."""
    body = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)
    return HEADER + str(body)


def parse(text: str) -> Configuration:
    """What a file says. Raises WrongEntry with the line. Secrets are read from where the file says they are."""
    fields = read(text).mapping()
    version = fields.need("version")
    if version.text() != str(VERSION):
        raise version.wrong(
            f"This portal reads version {VERSION} of the form, not {version.text()[:20]}.", action="Export anew."
        )
    sections = {
        "tenants": _entries(fields, "tenants", "tenant", _tenant, lambda one: one.directory),
        "app_registrations": _entries(
            fields, "app_registrations", "app registration", _app, lambda one: (one.tenant, one.client_id)
        ),
        "shared_mailboxes": _entries(
            fields, "shared_mailboxes", "shared mailbox", _mailbox, lambda one: (one.tenant, one.address.lower())
        ),
        "service_accounts": _entries(fields, "service_accounts", "service account", _account, lambda one: one.name),
        "teams": _entries(fields, "teams", "team", _team, lambda one: one.name),
        "alert_channels": _entries(fields, "alert_channels", "alert channel", _channel, lambda one: one.name),
        "policy": _policy(fields.take("policy")),
    }
    fields.end()
    return Configuration(**sections)  # type: ignore[arg-type]


def _entries(
    fields: YamlMapping, section: str, what: str, entry: Callable[[YamlMapping], E], known_by: Callable[[E], object]
) -> tuple[E, ...] | None:
    """The entries of a section, None if the file does not have it. Raises WrongEntry if two mean the same."""
    part = fields.take(section)
    if part is None:
        return None
    entries: list[E] = []
    keys: set[object] = set()
    names: set[str] = set()
    for item in part.items(f"This {what}"):
        inside = item.mapping()
        made = entry(inside)
        inside.end()
        name = str(getattr(made, "name", ""))
        if known_by(made) in keys or (name and name in names):
            raise item.wrong(f"This {what} stands in the file twice.")
        keys.add(known_by(made))
        names.add(name)
        entries.append(made)
    return tuple(entries)


def _cleaned(part: YamlValue, field: forms.Field) -> Any:
    """The value as a form field of the pages cleans it. Raises WrongEntry."""
    try:
        return field.clean(part.text())
    except ValidationError as wrong:
        raise part.wrong(f"{part.what}: {' '.join(wrong.messages)}") from None


def _optional(fields: YamlMapping, name: str, field: forms.Field) -> Any:
    """The cleaned value, None if the file does not say it."""
    part = fields.take(name)
    return None if part is None or part.is_null else _cleaned(part, field)


def _flag(fields: YamlMapping, name: str) -> bool | None:
    part = fields.take(name)
    return None if part is None or part.is_null else part.flag()


def _one_of(part: YamlValue, allowed: Iterable[str]) -> str:
    allowed = list(allowed)
    if part.text() not in allowed:
        raise part.wrong(f"{part.what} must be {' or '.join(allowed)}.")
    return part.text()


def _chosen(fields: YamlMapping, name: str, what: str, allowed: Iterable[str]) -> tuple[str, ...] | None:
    """Some of what is allowed, in its order; None if the file does not say it."""
    part = fields.take(name)
    if part is None:
        return None
    allowed = list(allowed)
    chosen = set()
    for one in part.items(what):
        if one.text() not in allowed:
            raise one.wrong(f"“{one.text()[:60]}” is no {what}.", action=f"There are: {', '.join(allowed)}.")
        chosen.add(one.text())
    return tuple(one for one in allowed if one in chosen)


def _secret(fields: YamlMapping, name: str, field: forms.Field) -> str:
    """A secret that the file only names the place of: NAME_file or NAME_env; "" if it does not. Raises WrongEntry."""
    if (plain := fields.take(name)) is not None:
        raise plain.wrong(
            f"{name} must not stand in the file.", action=f"Name where it is found with {name}_file or {name}_env."
        )
    in_file, in_variable = fields.take(f"{name}_file"), fields.take(f"{name}_env")
    if in_file is not None and in_variable is not None:
        raise in_variable.wrong(f"{name}_file and {name}_env exclude each other.")
    place = in_file or in_variable
    if place is None:
        return ""
    text = _from_file(place) if place is in_file else _from_variable(place)
    try:
        return str(field.clean(text))
    except ValidationError as wrong:
        raise place.wrong(f"What {place.what} leads to cannot be used: {' '.join(wrong.messages)}") from None


def _from_file(place: YamlValue) -> str:
    try:
        with Path(place.text()).open("rb") as file:
            return file.read(LARGEST_SECRET_FILE).decode("utf-8-sig").strip("\r\n")
    except OSError as problem:
        raise place.wrong(f"{place.text()} cannot be read: {problem.strerror}.") from None
    except UnicodeDecodeError:
        raise place.wrong(f"{place.text()} is no text.") from None


def _from_variable(place: YamlValue) -> str:
    found = os.environ.get(place.text(), "")
    if not found:
        raise place.wrong(f"The environment variable {place.text()[:60]} is not set.")
    return found


def _tenant(fields: YamlMapping) -> TenantEntry:
    return TenantEntry(
        name=_cleaned(fields.need("name"), NameField()),
        environment=fields.need("environment").text(),
        directory_id=_cleaned(fields.need("directory_id"), DirectoryField()),
        line=fields.part.line,
    )


def _app(fields: YamlMapping) -> AppEntry:
    audience = fields.take("audience")
    allows = _chosen(fields, "allows", "kind of connections", ALLOWS)
    if allows == ():
        raise fields.part.wrong("allows must name delegated, app_only, or both.")
    held = fields.take("credentials")
    credentials = None
    if held is not None:
        credentials = tuple(_credential(one.mapping()) for one in held.items("This credential"))
    return AppEntry(
        name=_cleaned(fields.need("name"), NameField()),
        tenant=_cleaned(fields.need("tenant"), NameField()),
        client_id=_cleaned(fields.need("client_id"), GuidField(what="application (client) ID")),
        audience=None if audience is None else _one_of(audience, AppRegistration.Audience.values),
        allows_delegated=None if allows is None else "delegated" in allows,
        allows_app_only=None if allows is None else "app_only" in allows,
        default_capabilities=_chosen(fields, "default_capabilities", "capability", capabilities.CAPABILITIES),
        credentials=credentials,
        line=fields.part.line,
    )


def _credential(fields: YamlMapping) -> CredentialEntry:
    kind = _one_of(fields.need("kind"), AppCredential.Kind.values)
    is_secret = kind == AppCredential.Kind.SECRET
    value = _secret(fields, "secret", SecretValueField()) if is_secret else ""
    # What a reference says about its end is information; of a new secret it is what the portal reminds of.
    expires_at = _optional(fields, "expires_at", ExpiryField() if value else forms.CharField())
    entry = CredentialEntry(
        kind=kind,
        label=_optional(fields, "label", NameField(required=False)) or "",
        thumbprint="" if is_secret else (_optional(fields, "thumbprint", PastedField()) or "").upper(),
        expires_at=expires_at if value else None,
        value=value,
        line=fields.part.line,
    )
    if value and expires_at is None:
        raise fields.part.wrong("A new client secret needs expires_at: the day Entra shows, like 2027-03-31.")
    fields.end()
    return entry


def _mailbox(fields: YamlMapping) -> MailboxEntry:
    return MailboxEntry(
        address=_cleaned(fields.need("address"), AddressField()),
        tenant=_cleaned(fields.need("tenant"), NameField()),
        display_name=_optional(fields, "display_name", NameField(required=False)),
        line=fields.part.line,
    )


def _account(fields: YamlMapping) -> AccountEntry:
    return AccountEntry(
        name=_cleaned(fields.need("name"), NameField()),
        purpose=_optional(fields, "purpose", forms.CharField(required=False, max_length=PURPOSE_LENGTH)),
        responsible=_optional(fields, "responsible", forms.CharField()),
        roles=_chosen(fields, "roles", "role", ROLES),
        enabled=_flag(fields, "enabled"),
        line=fields.part.line,
    )


def _team(fields: YamlMapping) -> TeamEntry:
    members = fields.take("members")
    return TeamEntry(
        name=_cleaned(fields.need("name"), NameField()),
        entra_group=_optional(fields, "entra_group", PastedField(required=False, max_length=120)),
        members=None if members is None else tuple(dict.fromkeys(one.text() for one in members.items("A member"))),
        line=fields.part.line,
    )


def _channel(fields: YamlMapping) -> ChannelEntry:
    fields.take("host")  # tells readers where it leads
    return ChannelEntry(
        name=_cleaned(fields.need("name"), NameField()),
        kind=_one_of(fields.need("kind"), AlertChannel.Kind.values),
        url=_secret(fields, "url", TargetField()),
        enabled=_flag(fields, "enabled"),
        line=fields.part.line,
    )


def _policy(part: YamlValue | None) -> tuple[PolicyEntry, ...] | None:
    if part is None:
        return None
    fields = part.mapping()
    found = []
    organisation, own = fields.take("organisation"), fields.take("app_registrations")
    if organisation is not None:
        found.append(PolicyEntry("", _rules(organisation, of_app=False), organisation.line))
    if own is not None and not own.is_null:
        for name, rules in own.mapping():
            found.append(PolicyEntry(name, _rules(rules, of_app=True), rules.line))
    fields.end()
    return tuple(found)


def _rules(part: YamlValue, *, of_app: bool) -> policy_rules.Rules:
    try:
        return policy_rules.from_dict(part.plain(), of_app=of_app)
    except InvalidInput as wrong:
        named = part.mapping().take(wrong.field) if wrong.field else None
        raise (named or part).wrong(wrong.cause, action=wrong.action) from None
