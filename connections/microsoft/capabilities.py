"""Translates the tasks of an automation into the minimum permissions, and back, based on data/capabilities.toml.

Scopes and roles have short names here (``Mail.Read``). Those of resources other than Microsoft Graph begin with the
resource's key (``exchange/SMTP.Send``). Unknown capability keys are ignored, so that old connections can still be
shown.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from connections.errors import InvalidInput
from connections.microsoft import data_files, resources
from connections.microsoft.permissions import CATALOGUE, ROLE, SCOPE, Permission, covered_by, spelling
from connections.microsoft.token_endpoint import OIDC_SCOPES


@dataclass(frozen=True, slots=True)
class Capability:
    """A task of an automation, with its minimum scopes and roles. ``no_…`` explains why there are none."""

    key: str
    group: str
    label: str
    description: str
    delegated: tuple[str, ...] = ()
    application: tuple[str, ...] = ()
    no_delegated: str = ""
    no_application: str = ""
    note: str = ""
    resource: str = resources.GRAPH


def _with_resource(capability: Capability) -> Capability:
    if capability.resource == resources.GRAPH:
        return capability
    return replace(
        capability,
        delegated=tuple(f"{capability.resource}/{name}" for name in capability.delegated),
        application=tuple(f"{capability.resource}/{name}" for name in capability.application),
    )


_ROWS = data_files.load("capabilities.toml").rows("capabilities", Capability, key_field="key")
CAPABILITIES = {key: _with_resource(capability) for key, capability in _ROWS.items()}
OUTLOOK = "Outlook"  # the group of capabilities that work on mailboxes

APP_ONLY = "client_credentials"
DELEGATED = "authorization_code"

# Every delegated connection needs these: openid identifies the account, offline_access yields a refresh token.
_DELEGATED_BASE = ("openid", "offline_access")

PROFILE_SENTENCE = "The sign-in also requests “profile”, so that Microsoft identifies the account and its directory."
DEFAULT_SENTENCE = (
    "App-only requests can't name single permissions. The portal requests everything that is granted (.default) and "
    "compares it with the permissions listed here."
)

MAX_SCOPES = 60
_SEPARATORS = re.compile("[\\s,;\u00a0\u200b\u200c\u200d\u2060\ufeff]+")
_QUOTES = "\"'“”‘’`"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)+", re.ASCII)
_NAME_ELSEWHERE = re.compile(r"[A-Za-z][A-Za-z0-9._-]*", re.ASCII)  # for example user_impersonation


def choices_by_group() -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the capabilities by group, in the order of the file, as ``choices`` for a form field."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for capability in CAPABILITIES.values():
        groups.setdefault(capability.group, []).append((capability.key, capability.label))
    return list(groups.items())


def delegated_scopes(keys: Iterable[str], extra: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the minimum scopes: first those of the sign-in, then the others in alphabetical order.

    A string of scopes is split at spaces.
    """
    needed = {scope for capability in _known(keys) for scope in capability.delegated}
    return _ordered({*_DELEGATED_BASE, *needed, *_words(extra)})


def sign_in_scopes(keys: Iterable[str], extra: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the delegated scopes and ``profile``, which adds ``tid`` and ``oid`` (access-token-claims-reference)."""
    return delegated_scopes(keys, (*_words(extra), "profile"))


def application_roles(keys: Iterable[str], extra: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the minimum application roles in alphabetical order.

    Outlook capabilities don't need ``User.Read.All``, because a mailbox is opened by its address. That role only serves
    to find people.
    """
    needed = {role for capability in _known(keys) for role in capability.application}
    return _ordered({*needed, *_words(extra)})


def permissions(keys: Iterable[str], authentication_types: Iterable[str]) -> list[Permission]:
    """Return the permissions that an app registration must declare for connections of these types, with Microsoft's
    IDs.
    """
    chosen, declared = list(keys), list[Permission]()
    for authentication_type in authentication_types:
        app_only = authentication_type == APP_ONLY
        for name in application_roles(chosen) if app_only else sign_in_scopes(chosen):
            if resources.short(name) == resources.DEFAULT:
                continue
            resource = resources.RESOURCES[resources.of(name)]
            guid = CATALOGUE[name].application_id if app_only else CATALOGUE[name].delegated_id
            app_id = resource.declared_under(app_only=app_only)
            declared.append(Permission(name, ROLE if app_only else SCOPE, guid, app_id))
    return declared


def can(
    keys: Iterable[str], granted: Iterable[str], authentication_type: str
) -> list[tuple[Capability, bool, tuple[str, ...]]]:
    """For each capability, return whether ``granted`` covers it, and the missing permissions.

    A capability that this authentication type cannot have is not covered, and nothing is missing.
    """
    allowed = covered_by(frozenset(_words(granted)))
    results = []
    for capability in _known(keys):
        needed = needs(capability, authentication_type)
        missing = tuple(name for name in needed if name not in allowed)
        results.append((capability, bool(needed) and not missing, missing))
    return results


def needs(capability: Capability, authentication_type: str) -> tuple[str, ...]:
    """Return the minimum permissions for one capability; () if this authentication type cannot have it."""
    return capability.application if authentication_type == APP_ONLY else capability.delegated


def missing(wanted: Iterable[str], granted: Iterable[str]) -> tuple[str, ...]:
    """Return the ``wanted`` permissions that are not granted, except OIDC scopes, which Microsoft lists unreliably."""
    allowed = covered_by(frozenset(_words(granted)))
    return tuple(name for name in _ordered(_words(wanted)) if name not in OIDC_SCOPES and name not in allowed)


def beyond(granted: Iterable[str], authentication_type: str) -> tuple[str, ...]:
    """Return the granted permissions that no capability needs. They have no label."""
    needed = {name for capability in CAPABILITIES.values() for name in needs(capability, authentication_type)}
    return tuple(name for name in _ordered(_words(granted)) if name not in needed and name not in OIDC_SCOPES)


def warnings(keys: Iterable[str], extra_scopes: Iterable[str], authentication_type: str) -> list[str]:
    """Return warnings about this choice, as sentences for the form."""
    build = _app_only_warnings if authentication_type == APP_ONLY else _delegated_warnings
    return build(_known(keys), _words(extra_scopes))


def _app_only_warnings(chosen: list[Capability], extra: list[str]) -> list[str]:
    sentences = [
        f"“{capability.label}”: {capability.no_application}" for capability in chosen if capability.no_application
    ]
    for name in extra:
        entry = CATALOGUE.get(name)
        if name in OIDC_SCOPES:
            sentences.append(f"{name} applies to a person's sign-in only and has no effect in an app-only connection.")
        elif name == "User.Read":
            sentences.append("User.Read needs a signed-in person. Use User.Read.All for app-only connections.")
        elif entry and not entry.application_id and entry.delegated_id:
            sentences.append(f"Microsoft offers {name} for delegated connections only.")
        elif name.endswith(".Shared"):
            sentences.append(
                f"{name} isn't available: permissions ending in .Shared are for delegated connections only."
            )
    if any(capability.group == OUTLOOK for capability in chosen):
        sentences.append(
            "App-only mail and calendar permissions cover every mailbox in the organisation, "
            "unless an Exchange administrator limits the application."
        )
    return [*sentences, DEFAULT_SENTENCE]


def _delegated_warnings(chosen: list[Capability], extra: list[str]) -> list[str]:
    sentences = [f"“{capability.label}”: {capability.no_delegated}" for capability in chosen if capability.no_delegated]
    sentences += [
        f"“{capability.label}”: {capability.note}"
        for capability in chosen
        if capability.key.startswith("shared_mailbox.")
    ]
    for name in extra:
        entry = CATALOGUE.get(name)
        if entry and entry.application_id and not entry.delegated_id:
            sentences.append(f"Microsoft offers {name} for app-only connections only.")
    requested = {*extra, *(scope for capability in chosen for scope in capability.delegated)}
    admin_only = sorted(name for name in requested if name in CATALOGUE and CATALOGUE[name].admin_only)
    if admin_only:
        *others, last = admin_only
        names = f"{', '.join(others)} and {last}" if others else last
        sentences.append(f"Only an administrator of the directory can grant {names}.")
    return [*sentences, PROFILE_SENTENCE]


def parse_scopes(text: str) -> tuple[str, ...]:
    """Return short names in Microsoft's spelling, without duplicates. Raises InvalidInput for an invalid scope."""
    names = list(dict.fromkeys(_short(word) for word in describe(text)))
    if len(names) > MAX_SCOPES:
        raise InvalidInput(f"You entered {len(names)} scopes.", action=f"Enter at most {MAX_SCOPES}.")
    return tuple(names)


def describe(text: str) -> list[str]:
    """Split pasted text into words, and drop quotes and separators."""
    return [word for word in (word.strip(_QUOTES) for word in _SEPARATORS.split(text)) if word]


def _short(word: str) -> str:
    shortened = word if len(word) <= 60 else f"{word[:60]}…"
    address, _, name = word.rpartition("/")
    resource = _resource_of(address, shortened) if address else resources.GRAPH
    if name == resources.DEFAULT:
        raise InvalidInput(
            f"“{shortened}” means all permissions of an app registration. The portal adds it where required.",
            action="Enter single permissions instead, for example Mail.Read.",
        )
    if name.lower() in OIDC_SCOPES:
        return name.lower()
    is_graph = resource == resources.GRAPH
    if len(name) > 100 or not (_NAME if is_graph else _NAME_ELSEWHERE).fullmatch(name):
        raise InvalidInput(
            f"“{shortened}” isn't a {'Microsoft Graph ' if is_graph else ''}permission.",
            action="Enter permissions such as Mail.Read or exchange/SMTP.Send, separated by spaces.",
        )
    return spelling(name if is_graph else f"{resource}/{name}")


def _resource_of(address: str, shown: str) -> str:
    try:
        return resources.key_of(address)
    except InvalidInput as error:
        action = f"{error.action} Permissions of Graph are entered by their names, for example Mail.Read."
        raise InvalidInput(f"“{shown}” doesn't belong to a known API. {error.cause}", action=action) from error


def _known(keys: Iterable[str]) -> list[Capability]:
    return [CAPABILITIES[key] for key in dict.fromkeys(keys) if key in CAPABILITIES]


def _words(scopes: Iterable[str]) -> list[str]:
    return [spelling(name) for name in (scopes.split() if isinstance(scopes, str) else scopes)]


def _ordered(names: Iterable[str]) -> tuple[str, ...]:
    sign_in = ("openid", "offline_access", "profile", "email")
    distinct = set(names)
    return (*(name for name in sign_in if name in distinct), *sorted(distinct.difference(sign_in)))
