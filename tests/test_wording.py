"""Pages speak one plain English: none uses a word or phrase that has a better one."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.environment import ROOT

# What nobody reads in templates: tags and variables of Django, and markup.
_MARKUP = re.compile(
    r"{#.*?#}|<(?:style|script|pre)\b.*?</(?:style|script|pre)>|{%.*?%}|{{.*?}}|<!?/?[a-z][^>]*>",
    re.DOTALL | re.IGNORECASE,
)
# Texts inside of tags and markup: labels for screen readers, titles, texts of empty states.
_TEXT_IN_MARKUP = re.compile(
    r'\b(?:aria-label|data-label|placeholder|title|text|beginning|label|button|action_label)="([^"{]+)"'
)
_COMMENT = re.compile(r"{% comment %}.*?{% endcomment %}", re.DOTALL)

# Words and phrases that have a better one in the portal's style.
_DROPPED = """
all the same, anew, anybody, breaks policy, by hand, by itself, by themselves, comes to, e-mail, e-mails, for ever, foreseen, foretold, given up
goes on, hand over, hand-out, hand-outs, handed over, harmless, healed, in vain, just now, keep it, lately
leave it, look again, look at the, make a key, make a team, mend, mended, must act, not yours, put in, run out
runs out, shut out, somebody, stands, take out, thank you, told, what breaks, what counts, what expires
what waits, who could use, whoever
"""
_PHRASES = [phrase.strip() for line in _DROPPED.strip().splitlines() for phrase in line.split(",")]
_BANNED = re.compile(r"(?<![\w-])(?:" + "|".join(map(re.escape, _PHRASES)) + r")(?![\w-])", re.IGNORECASE)

FOLDERS = ("api", "forms", "management", "outbound", "services", "views")
DATA = sorted((ROOT / "connections").rglob("*.toml"))
DOCUMENTS = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
_CODE = re.compile(r"^(```|~~~).*?^\1|`[^`\n]*`", re.MULTILINE | re.DOTALL)
PAGES = sorted(path for path in (ROOT / "templates").rglob("*") if path.suffix in (".html", ".txt"))
MODULES = [
    *sorted(path for folder in FOLDERS for path in (ROOT / "connections" / folder).rglob("*.py")),
    ROOT / "connections/errors.py",
    ROOT / "connections/pipeline.py",
    ROOT / "connections/context_processors.py",
    ROOT / "connections/presentation.py",
    ROOT / "connections/templatetags/portal.py",
    ROOT / "connections/validators.py",
]


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def texts_of_template(source: str) -> Iterator[str]:
    source = _COMMENT.sub(" ", source)
    yield from _TEXT_IN_MARKUP.findall(source)
    yield " ".join(_MARKUP.sub(" ", source).split())


def texts_of_module(source: str) -> Iterator[str]:
    """Return the string constants with words in them, without docstrings and what only machines read."""
    tree = ast.parse(source)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            text = node.value
            if " " in text or text[:1].isupper():
                yield text


def texts_of_table(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from texts_of_table(item)


def banned_words(texts: Iterator[str]) -> list[str]:
    return [
        f"{match[0]!r} in “…{text[max(match.start() - 40, 0) : match.end() + 40]}…”"
        for text in texts
        for match in _BANNED.finditer(text)
    ]


@pytest.mark.parametrize("path", PAGES, ids=_name)
def test_no_template_uses_a_dropped_word(path: Path) -> None:
    assert banned_words(texts_of_template(path.read_text())) == []


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_no_module_shows_a_dropped_word(path: Path) -> None:
    assert banned_words(texts_of_module(path.read_text())) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_no_page_of_the_documentation_uses_a_dropped_word(path: Path) -> None:
    assert banned_words(iter([" ".join(_CODE.sub(" ", path.read_text()).split())])) == []


@pytest.mark.parametrize("path", DATA, ids=_name)
def test_no_text_in_a_table_uses_a_dropped_word(path: Path) -> None:
    assert banned_words(texts_of_table(tomllib.loads(path.read_text()))) == []


@pytest.mark.parametrize("path", PAGES, ids=_name)
def test_buttons_and_column_headings_are_no_sentences(path: Path) -> None:
    source = _COMMENT.sub(" ", path.read_text())
    buttons = re.findall(r"<button\b[^>]*>(.*?)</button>|<th\b[^>]*>(.*?)</th>", source, re.DOTALL)
    labels = [" ".join(_MARKUP.sub(" ", "".join(pair)).split()) for pair in buttons]
    assert [label for label in labels if label.endswith(".") and " " in label] == []


def test_the_check_finds_what_it_looks_for() -> None:
    assert banned_words(texts_of_template("<p>Ask {{ name }},\n or somebody else.</p>"))
    assert banned_words(texts_of_template('<a aria-label="Look at the request">View</a>'))
    assert banned_words(texts_of_module('"""Somebody."""\nmessage = f"{name} is told."'))
    assert not banned_words(texts_of_template("{% comment %}What somebody is told.{% endcomment %}{{ told }}"))
    assert not banned_words(texts_of_module('"""Whoever acts."""\nkey = "healed"'))
