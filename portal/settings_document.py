"""Generates docs/settings.md and .env.example from the settings model, with ``python -m portal.settings_document``."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from portal.settings_model import BASE_DIR, SINCE, PortalSettings

PAGE, EXAMPLE = BASE_DIR / "docs" / "settings.md", BASE_DIR / ".env.example"
# The title of each group, by the group's first setting.
_GROUPS = {
    "SECRET_KEY": "Required",
    "PORTAL_URL": "Addresses",
    "DATABASE_URL": "Database and broker",
    "LOGIN_MICROSOFT_TENANT": "Sign-in",
    "EMAIL_URL": "Email",
    "ALERT_INTERVAL": "Alerts",
    "API_RATE_LIMIT": "API",
    "AUDIT_INTERVAL": "Audit trail",
    "MICROSOFT_TIMEOUT": "Microsoft",
    "SWEEP_INTERVAL": "Refreshing connections",
    "BIND": "Processes",
}
_PAGE = """# Settings

For operators. Made from `portal/settings_model.py` by `python -m portal.settings_document`.

Set them as environment variables or in `.env` (environment variables win). A value can also be in a file: `NAME_FILE=/run/secrets/name` instead of
`NAME=value`. Values aren't expanded: `$` is a normal character. An empty value is the default, except for a list. If a setting is missing or invalid, the
portal doesn't start and lists all problems. `manage.py check` warns about misspelt names.
"""
_EXAMPLE = """# Every setting of the portal, made from portal/settings_model.py. Copy to .env, or set them as environment variables
# (which win over .env). A value can also be in a file: NAME_FILE=/run/secrets/name instead of NAME=value. Lines that are
# commented out show the default. Values aren't expanded: "$" is a normal character. More: docs/settings.md
"""


@dataclass(frozen=True, slots=True)
class Setting:
    name: str
    group: str
    text: str
    kind: str
    default: str  # as it is written in the environment; "" if there is none
    example: str
    since: str
    is_required: bool


def settings() -> Iterator[Setting]:
    """Yield the settings in the order of the model."""
    texts, group = _texts(), ""
    versions = {name: version for version, names in SINCE.items() for name in names}
    for name, field in PortalSettings.model_fields.items():
        group = _GROUPS.get(name, group)
        default = "" if field.is_required() else _written(field.default)
        yield Setting(
            name=name, group=group, text=texts[name], kind=field.description or "", default=default,
            example=(field.examples or [""])[0], since=versions.get(name, "0.1.0"), is_required=field.is_required(),
        )  # fmt: skip


def _texts() -> dict[str, str]:
    """Return the text below each setting. Python doesn't keep it, so it is taken from the source."""
    (model,) = ast.parse(inspect.getsource(PortalSettings)).body
    texts, name = {}, ""
    for statement in getattr(model, "body", []):
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name)):
                pass
            case ast.Expr(value=ast.Constant(value=str(text))) if name:
                texts[name] = " ".join(text.split())
    return texts


def _written(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "on" if value else "off"
        case list():
            return ",".join(value)
        case float():
            return f"{value:g}"
    return str(value).replace(f"{BASE_DIR}/", "")


def render_page() -> str:
    parts = [_PAGE]
    for group, members in groupby(settings(), key=lambda setting: setting.group):
        parts.append(f"\n## {group}\n")
        for setting in members:
            default = "required" if setting.is_required else f"`{setting.default}`" if setting.default else "none"
            example = setting.example if setting.example.startswith("the output") else f"`{setting.example}`"
            text = textwrap.fill(setting.text.replace("*", r"\*"), 150, break_long_words=False, break_on_hyphens=False)
            parts.append(f"\n### {setting.name}\n\n{text}\n\n")
            parts.append("| Kind | Default | Example | Since |\n|---|---|---|---|\n")
            kind = setting.kind.replace("|", r"\|")
            parts.append(f"| {kind} | {default} | {example.replace('|', chr(92) + '|')} | {setting.since} |\n")
    return "".join(parts)


def render_example() -> str:
    parts = [_EXAMPLE]
    for group, members in groupby(settings(), key=lambda setting: setting.group):
        parts.append(f"\n# --- {group} {'-' * (100 - len(group))}\n")
        for setting in members:
            text = textwrap.fill(setting.text, 118, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
            mark = "" if setting.is_required else "#"
            parts.append(f"\n{text}\n{mark}{setting.name}={setting.default}\n")
    return "".join(parts)


def write(page: Path = PAGE, example: Path = EXAMPLE) -> None:
    page.write_text(render_page(), encoding="utf-8")
    example.write_text(render_example(), encoding="utf-8")


if __name__ == "__main__":
    write()
