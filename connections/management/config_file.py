"""Writes configuration files, and reads them into validated entries. Format: docs/configuration-as-code.md.

Every value is validated by the same form field as on the portal's pages. Errors include the line number.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import yaml
from django import forms
from django.core.exceptions import ValidationError

from connections import validators
from connections.errors import InvalidInput
from connections.management.yaml_reader import YamlMapping, YamlValue, read
from connections.microsoft import capabilities
from connections.models import AlertChannel, AppCredential, AppRegistration
from connections.services.config import schema
from connections.services.config.people import ROLES
from connections.services.policy import rules as policy_rules

HEADER = """\
# The organisation's configuration in the connection portal, without secrets. See docs/configuration-as-code.md.
# Connections and shares aren't included, because they depend on people's consent. References name connections.
"""
ALLOWS = ("delegated", "app_only")
PURPOSE_LENGTH = 1000
MAX_SECRET_FILE = 10_000  # bytes

E = TypeVar("E", bound=schema.Entry)


def write(values: dict[str, Any], variables: Iterable[str] = ()) -> str:
    """Return the text of the file. ``variables`` are the environment variables to set before applying it."""
    body = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)
    needed = "".join(f"#   {name}\n" for name in variables)
    return HEADER + (f"# Before you apply it, set these environment variables:\n{needed}" if needed else "") + str(body)


def parse(text: str) -> schema.Configuration:
    """Return a file's content, including the secrets that it refers to. Raises WrongEntry with the line number."""
    fields = read(text).mapping()
    version = fields.need("version")
    if version.text() != str(schema.VERSION):
        raise version.wrong(
            f"This portal supports format version {schema.VERSION}, not {version.text()[:20]}.",
            action="Export the file again.",
        )
    problems = schema.Problems()

    def entries(
        section: str, what: str, read_entry: Callable[[YamlMapping], E], key: Callable[[E], object]
    ) -> tuple[E, ...] | None:
        return _entries(problems, fields.take(section), what, read_entry, key)

    policy = None
    with problems.noted():
        policy = _policy(fields.take("policy"))
    configuration = schema.Configuration(
        tenants=entries("tenants", "tenant", _tenant, lambda entry: entry.directory),
        app_registrations=entries(
            "app_registrations", "app registration", _app, lambda entry: (entry.tenant, entry.client_id)
        ),
        shared_mailboxes=entries(
            "shared_mailboxes", "shared mailbox", _mailbox, lambda entry: (entry.tenant, entry.address.lower())
        ),
        people=entries("people", "person", _person, lambda entry: entry.user_name.lower()),
        service_accounts=entries("service_accounts", "service account", _account, lambda entry: entry.name),
        teams=entries("teams", "team", _team, lambda entry: entry.name),
        references=entries("references", "reference", _reference, lambda entry: entry.name),
        alert_channels=entries("alert_channels", "alert channel", _channel, lambda entry: entry.name),
        policy=policy,
    )
    with problems.noted():
        fields.end()
    problems.raise_all()
    return configuration


def _entries(
    problems: schema.Problems,
    part: YamlValue | None,
    what: str,
    read_entry: Callable[[YamlMapping], E],
    key: Callable[[E], object],
) -> tuple[E, ...] | None:
    """Return the entries of a section, or None if the file has no such section. Collects errors in ``problems``."""
    if part is None:
        return None
    entries: list[E] = []
    keys: set[object] = set()
    names: set[str] = set()
    items: list[YamlValue] = []
    with problems.noted():
        items = part.items(f"This {what}")
    for item in items:
        with problems.noted():
            entry = _entry(item, read_entry)
            name = "" if isinstance(entry, schema.PersonEntry) else str(getattr(entry, "name", ""))
            if key(entry) in keys or (name and name in names):
                raise item.wrong(f"This {what} is in the file twice.")
            keys.add(key(entry))
            names.add(name)
            entries.append(entry)
    return tuple(entries)


def _entry(item: YamlValue, read_entry: Callable[[YamlMapping], E]) -> E:
    fields = item.mapping()
    entry = read_entry(fields)
    fields.end()
    return replace(entry, line=item.line)


def _cleaned(part: YamlValue, field: forms.Field) -> Any:
    """Return the value as cleaned by a form field. Raises WrongEntry if it is invalid."""
    try:
        return field.clean(part.text())
    except ValidationError as error:
        raise part.wrong(f"{part.what}: {' '.join(error.messages)}") from None


def _required(fields: YamlMapping, name: str, field: forms.Field) -> Any:
    return _cleaned(fields.need(name), field)


def _optional(fields: YamlMapping, name: str, field: forms.Field) -> Any:
    """Return the cleaned value, or None if the file does not contain the field."""
    part = fields.take(name)
    return None if part is None or part.is_null else _cleaned(part, field)


def _flag(fields: YamlMapping, name: str) -> bool | None:
    part = fields.take(name)
    return None if part is None or part.is_null else part.flag()


def _one_of(part: YamlValue, allowed: Iterable[str]) -> str:
    if part.text() not in list(allowed):
        raise part.wrong(f"{part.what} must be {' or '.join(allowed)}.")
    return part.text()


def _chosen(fields: YamlMapping, name: str, what: str, allowed: Iterable[str]) -> tuple[str, ...] | None:
    """Return the chosen values in the order of ``allowed``, or None if the file does not contain the field."""
    part = fields.take(name)
    if part is None:
        return None
    chosen = set()
    for item in part.items(what):
        if item.text() not in list(allowed):
            raise item.wrong(f"“{item.text()[:60]}” isn't a valid {what}.", action=f"Use one of: {', '.join(allowed)}.")
        chosen.add(item.text())
    return tuple(value for value in allowed if value in chosen)


def _secret(fields: YamlMapping, name: str, field: forms.Field) -> str:
    """Return the secret from NAME_file or NAME_env; "" if the file contains neither. Raises WrongEntry."""
    if (plain := fields.take(name)) is not None:
        raise plain.wrong(f"The file can't contain {name}.", action=f"Use {name}_file or {name}_env instead.")
    in_file, in_variable = fields.take(f"{name}_file"), fields.take(f"{name}_env")
    if in_file is not None and in_variable is not None:
        raise in_variable.wrong(f"Use either {name}_file or {name}_env, not both.")
    source = in_file or in_variable
    if source is None:
        return ""
    text = _from_file(source) if source is in_file else os.environ.get(source.text(), "")
    if not text and source is in_variable:
        raise source.wrong(f"The environment variable {source.text()[:60]} isn't set.")
    try:
        return str(field.clean(text))
    except ValidationError as error:
        raise source.wrong(f"The value from {source.what} isn't valid: {' '.join(error.messages)}") from None


def _from_file(source: YamlValue) -> str:
    try:
        with Path(source.text()).open("rb") as file:
            return file.read(MAX_SECRET_FILE).decode("utf-8-sig").strip("\r\n")
    except OSError as problem:
        raise source.wrong(f"{source.text()} can't be read: {problem.strerror}.") from None
    except UnicodeDecodeError:
        raise source.wrong(f"{source.text()} isn't a text file.") from None


def _tenant(fields: YamlMapping) -> schema.TenantEntry:
    return schema.TenantEntry(
        name=_required(fields, "name", validators.NameField()),
        environment=fields.need("environment").text(),
        directory_id=_required(fields, "directory_id", validators.DirectoryField()),
    )


def _app(fields: YamlMapping) -> schema.AppEntry:
    audience, part = fields.take("audience"), fields.take("credentials")
    allows = _chosen(fields, "allows", "connection type", ALLOWS)
    if allows == ():
        raise fields.part.wrong("allows must contain delegated, app_only, or both.")
    others = fields.take("other_tenants")
    items = part.items("This credential") if part is not None else []
    credentials = None if part is None else tuple(_entry(item, _credential) for item in items)
    return schema.AppEntry(
        name=_required(fields, "name", validators.NameField()),
        tenant=_required(fields, "tenant", validators.NameField()),
        client_id=_required(fields, "client_id", validators.GuidField(what="application (client) ID")),
        audience=None if audience is None else _one_of(audience, AppRegistration.Audience.values),
        allows_delegated=None if allows is None else "delegated" in allows,
        allows_app_only=None if allows is None else "app_only" in allows,
        default_capabilities=_chosen(fields, "default_capabilities", "capability", capabilities.CAPABILITIES),
        object_id=_optional(fields, "object_id", validators.GuidField(what="object ID", required=False)),
        renews_credentials=_flag(fields, "renews_credentials"),
        other_tenants=None
        if others is None
        else tuple(dict.fromkeys(item.text() for item in others.items("A tenant"))),
        credentials=credentials,
    )


def _credential(fields: YamlMapping) -> schema.CredentialEntry:
    kind = _one_of(fields.need("kind"), AppCredential.Kind.values)
    is_secret = kind == AppCredential.Kind.SECRET
    value = _secret(fields, "secret", validators.SecretValueField()) if is_secret else ""
    # The portal sends reminders about the expiry date of a new secret. For other entries, the date is only informative.
    expires_at = _optional(fields, "expires_at", validators.ExpiryField() if value else forms.CharField())
    label = _optional(fields, "label", validators.NameField(required=False)) or ""
    is_certificate = kind == AppCredential.Kind.CERTIFICATE
    thumbprint = (_optional(fields, "thumbprint", validators.PastedField()) or "").upper() if is_certificate else ""
    source = ""
    if kind == AppCredential.Kind.FEDERATED:
        given = fields.take("source")
        source = AppCredential.Source.PORTAL.value if given is None else _one_of(given, AppCredential.Source.values)
    return schema.CredentialEntry(kind, label, thumbprint, expires_at if value else None, value, source)


def _mailbox(fields: YamlMapping) -> schema.MailboxEntry:
    return schema.MailboxEntry(
        address=_required(fields, "address", validators.AddressField()),
        tenant=_required(fields, "tenant", validators.NameField()),
        display_name=_optional(fields, "display_name", validators.NameField(required=False)),
    )


def _person(fields: YamlMapping) -> schema.PersonEntry:
    directory = _optional(fields, "directory", validators.GuidField(what="directory ID", required=False)) or ""
    object_id = _optional(fields, "object_id", validators.GuidField(what="object ID", required=False)) or ""
    if bool(directory) != bool(object_id):
        raise fields.part.wrong("A Microsoft account needs both directory and object_id.")
    return schema.PersonEntry(
        user_name=_required(fields, "user_name", forms.CharField(max_length=150)),
        name=_optional(fields, "name", forms.CharField(required=False, max_length=300)) or "",
        email=_optional(fields, "email", forms.EmailField(required=False, max_length=254)) or "",
        directory=directory,
        object_id=object_id,
    )


def _account(fields: YamlMapping) -> schema.AccountEntry:
    return schema.AccountEntry(
        name=_required(fields, "name", validators.NameField()),
        purpose=_optional(fields, "purpose", forms.CharField(required=False, max_length=PURPOSE_LENGTH)),
        responsible=_optional(fields, "responsible", forms.CharField()),
        roles=_chosen(fields, "roles", "role", ROLES),
        enabled=_flag(fields, "enabled"),
    )


def _team(fields: YamlMapping) -> schema.TeamEntry:
    members = fields.take("members")
    return schema.TeamEntry(
        name=_required(fields, "name", validators.NameField()),
        entra_group=_optional(fields, "entra_group", validators.PastedField(required=False, max_length=120)),
        members=None if members is None else tuple(dict.fromkeys(item.text() for item in members.items("A member"))),
    )


def _reference(fields: YamlMapping) -> schema.ReferenceEntry:
    return schema.ReferenceEntry(
        name=_required(fields, "name", validators.PastedField(max_length=63)),
        connection=_required(fields, "connection", validators.NameField()),
        connection_owner=_required(fields, "connection_owner", forms.CharField()),
        team=_optional(fields, "team", validators.NameField(required=False)),
        description=_optional(fields, "description", forms.CharField(required=False, max_length=200)),
    )


def _channel(fields: YamlMapping) -> schema.ChannelEntry:
    fields.take("host")  # only for human readers
    return schema.ChannelEntry(
        name=_required(fields, "name", validators.NameField()),
        kind=_one_of(fields.need("kind"), AlertChannel.Kind.values),
        url=_secret(fields, "url", validators.TargetField()),
        enabled=_flag(fields, "enabled"),
    )


def _policy(part: YamlValue | None) -> tuple[schema.PolicyEntry, ...] | None:
    if part is None:
        return None
    fields = part.mapping()
    entries = []
    organisation, apps = fields.take("organisation"), fields.take("app_registrations")
    if organisation is not None:
        entries.append(schema.PolicyEntry("", _rules(organisation, of_app=False), line=organisation.line))
    if apps is not None and not apps.is_null:
        entries += [
            schema.PolicyEntry(name, _rules(rules, of_app=True), line=rules.line) for name, rules in apps.mapping()
        ]
    fields.end()
    return tuple(entries)


def _rules(part: YamlValue, *, of_app: bool) -> policy_rules.Rules:
    try:
        return policy_rules.from_dict(part.plain(), of_app=of_app)
    except InvalidInput as error:
        field = part.mapping().take(error.field) if error.field else None
        raise (field or part).wrong(error.cause, action=error.action) from None
