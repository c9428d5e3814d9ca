"""Reads the TOML files in data/ at import. ``$name`` in a text inserts an entry of the file's ``[texts]`` table."""

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from enum import EnumType
from functools import cache
from pathlib import Path
from string import Template
from typing import Any, TypeVar, get_type_hints

DATA = Path(__file__).parent / "data"
Row = TypeVar("Row")


class InvalidDataFile(ValueError):
    """A data file is invalid; the message names the file and the entry."""


@dataclass(frozen=True, slots=True)
class DataFile:
    """A parsed data file. Its methods raise InvalidDataFile."""

    name: str
    content: dict[str, Any]

    def rows(self, section: str, row_type: type[Row], key_field: str = "") -> dict[str, Row]:
        """Build a dataclass from each entry of a section. The field ``key_field`` receives the entry's key."""
        table = self.content.get(section, {})
        return {
            key: self.build(row_type, f"{section}.{key}", {key_field: key, **values} if key_field else values)
            for key, values in table.items()
        }

    def build(self, row_type: type[Row], entry: str, values: Mapping[str, Any]) -> Row:
        """Build a dataclass. Fields without a default are required and must not be empty."""
        types, required = _fields(row_type)  # type: ignore[arg-type]  # a class is hashable
        arguments = {}
        for name, value in values.items():
            if name not in types:
                raise self.error(entry, f"{name} is not a field of {row_type.__name__}")
            try:
                arguments[name] = self._convert(value, types[name])
            except KeyError as error:
                raise self.error(entry, f"{name}: there is no text {error}") from error
            except ValueError as error:
                raise self.error(entry, f"{name}: {error}") from error
        if missing := next((name for name in required if not arguments.get(name)), ""):
            raise self.error(entry, f"{missing} is missing")
        return row_type(**arguments)

    def error(self, entry: str, problem: str) -> InvalidDataFile:
        return InvalidDataFile(f"{self.name}: {entry}: {problem}")

    def _convert(self, value: object, expected: Any) -> object:
        if isinstance(expected, EnumType):
            return expected(value)
        if expected is str and isinstance(value, str):
            return Template(value).substitute(self.content.get("texts", {})) if "$" in value else value
        if expected is bool and isinstance(value, bool):
            return value
        if expected == tuple[str, ...] and isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise ValueError(f"{value!r} has the wrong type")


def load(name: str) -> DataFile:
    """Parse a file in data/. Raises InvalidDataFile. TOML itself rejects duplicate keys."""
    try:
        return DataFile(name, tomllib.loads((DATA / name).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise InvalidDataFile(f"{name}: {error}") from error


@cache
def _fields(row_type: Any) -> tuple[dict[str, Any], list[str]]:
    return get_type_hints(row_type), [field.name for field in fields(row_type) if field.default is MISSING]
