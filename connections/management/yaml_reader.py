"""Reads YAML and keeps the line numbers. Only plain data is allowed, without aliases or duplicate keys.

Values remain text until the caller asks for a type, so the value in ``name: no`` is text. Only flags become true or
false.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

import yaml

from connections.services.config.schema import WrongEntry

MAX_LENGTH = 2_000_000  # characters
MAX_DEPTH = 12
_CORE = "tag:yaml.org,2002:"
_SCALARS = {_CORE + name for name in ("str", "int", "float", "bool", "null", "timestamp")}


class _Loader(yaml.SafeLoader):
    """Rejects anything that could run code, or expand a small file into a large one."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise WrongEntry(
                "Anchors (&) and aliases (*) aren't supported.", action="Repeat the value instead.", line=line
            )
        tag = getattr(event, "tag", None)
        if tag is not None and tag != "!":
            raise WrongEntry(f"The tag {tag[:60]} isn't supported.", action="Remove it.", line=line)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise WrongEntry("This is nested too deeply.", line=line)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def read(text: str) -> YamlValue:
    """Return the file's only document. Raises WrongEntry."""
    if len(text) > MAX_LENGTH:
        raise WrongEntry("The file is too large.")
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        words = (problem.problem or "it can't be read").rstrip(".")
        raise WrongEntry(f"This isn't valid YAML: {words}.", line=mark.line + 1 if mark else 0) from None
    except yaml.YAMLError as problem:
        raise WrongEntry(f"This isn't valid YAML: {str(problem).splitlines()[0]}.") from None
    finally:
        loader.dispose()
    if node is None:
        raise WrongEntry("The file is empty.", line=1)
    return YamlValue(node, "The file")


class YamlValue:
    """A value in the file, with its line number and its name for error messages."""

    def __init__(self, node: yaml.Node, what: str) -> None:
        self.node, self.what = node, what
        self.line: int = node.start_mark.line + 1

    def wrong(self, sentence: str, *, action: str = "") -> WrongEntry:
        return WrongEntry(sentence, action=action, line=self.line)

    @property
    def is_null(self) -> bool:
        return isinstance(self.node, yaml.ScalarNode) and self.node.tag == _CORE + "null"

    def text(self) -> str:
        """Return the text as written, without quotes. Raises WrongEntry for a list or mapping."""
        if not isinstance(self.node, yaml.ScalarNode) or self.node.tag not in _SCALARS:
            raise self.wrong(f"{self.what} must be text.")
        if "\x00" in self.node.value:
            raise self.wrong(f"{self.what} contains a NUL character.")
        return str(self.node.value)

    def flag(self) -> bool:
        if isinstance(self.node, yaml.ScalarNode) and self.node.value.lower() in ("true", "false"):
            return bool(self.node.value.lower() == "true")
        raise self.wrong(f"{self.what} must be true or false.")

    def items(self, what: str) -> list[YamlValue]:
        """Return the values of a list, each named ``what``. Raises WrongEntry if this is not a list."""
        if self.is_null:
            raise self.wrong(f"{self.what} is empty.", action="Use [] for an empty list, or remove it.")
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.wrong(f"{self.what} must be a list.", action="Start each of its lines with a dash.")
        return [YamlValue(node, what) for node in self.node.value]

    def mapping(self) -> YamlMapping:
        """Return the fields of a mapping. Raises WrongEntry if this is not a mapping, or if a key occurs twice."""
        if not isinstance(self.node, yaml.MappingNode):
            raise self.wrong(f"{self.what} must be a mapping of names to values, for example “name: Contoso”.")
        fields: dict[str, YamlValue] = {}
        for key, value in self.node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise YamlValue(key, self.what).wrong("A name must be plain text.")
            if key.value in fields:
                raise YamlValue(key, self.what).wrong(f"{self.what} contains {key.value} twice.")
            fields[key.value] = YamlValue(value, key.value)
            fields[key.value].line = key.start_mark.line + 1
        return YamlMapping(self, fields)

    def plain(self) -> Any:
        """Return the value as plain Python data, without line numbers."""
        if isinstance(self.node, yaml.MappingNode):
            return {name: part.plain() for name, part in self.mapping()}
        if isinstance(self.node, yaml.SequenceNode):
            return [YamlValue(node, self.what).plain() for node in self.node.value]
        kind, value = self.node.tag, self.node.value
        if kind == _CORE + "null":
            return None
        if kind == _CORE + "bool" and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if kind == _CORE + "int" and value.lstrip("-").isdigit() and len(value) < 12:
            return int(value)
        return self.text()


class YamlMapping:
    """The fields of a mapping. end() reports fields that were never taken as unknown."""

    def __init__(self, part: YamlValue, fields: dict[str, YamlValue]) -> None:
        self.part, self._fields = part, fields
        self._known: list[str] = []

    def __iter__(self) -> Iterator[tuple[str, YamlValue]]:
        return iter(self._fields.items())

    def take(self, name: str) -> YamlValue | None:
        """Return a field's value, or None if it is missing."""
        self._known.append(name)
        return self._fields.get(name)

    def need(self, name: str) -> YamlValue:
        """Return a field's value. Raises WrongEntry if it is missing or empty."""
        value = self.take(name)
        if value is None or value.is_null:
            raise self.part.wrong(f"{self.part.what} is missing {name}.")
        return value

    def end(self) -> None:
        """Raise WrongEntry if any field was never taken."""
        for name, value in self._fields.items():
            if name not in self._known:
                near = get_close_matches(name, self._known, 1)
                action = f"Did you mean {near[0]}?" if near else f"Available fields: {', '.join(self._known)}."
                raise value.wrong(f"{self.part.what} has no field “{name[:60]}”.", action=action)
