"""The meaning of each Microsoft error, read from data/aadsts.toml and data/errors.toml.

A ``[[group]]`` contains sections of codes, and the fields that all of these codes share. A section is either a list of
codes, or a table. The table gives each code its own cause, or ``[Microsoft's name, cause]``. Groups used in Python code
have an ``id``. ``families`` lists the codes whose meaning also applies to unknown codes that begin with them.
"""

from collections.abc import Iterator
from typing import Any

from connections.microsoft import data_files
from connections.microsoft.data_files import DataFile
from connections.microsoft.error_types import ErrorMeaning

SECTIONS = ("aadsts", "errors", "suberrors", "transport", "graph", "statuses")
NUMBERED = ("aadsts", "statuses")
Tables = dict[str, dict[str, ErrorMeaning]]


def load(*names: str) -> Tables:
    """Return one table per section, and a table "id" for groups.

    Raises InvalidDataFile if a code occurs twice (ignoring case).
    """
    tables: Tables = {section: {} for section in (*SECTIONS, "id")}
    seen: set[tuple[str, str]] = set()
    for name in names:
        file = data_files.load(name)
        if unknown := file.content.keys() - {"texts", "group", "families"}:
            raise file.error(", ".join(sorted(unknown)), "is neither texts nor group nor families")
        for number, group in enumerate(file.content.get("group", ()), start=1):
            first_code = next((code for section in SECTIONS for code in group.get(section, ())), group.get("id"))
            entry = f"group {number} ({first_code})"
            for section, code, meaning in _meanings(file, entry, group):
                if (section, code.lower()) in seen:
                    raise file.error(entry, f"{section} {code} is there twice")
                if section in NUMBERED and not code.isdecimal():
                    raise file.error(entry, f"{section} {code} is not a number")
                seen.add((section, code.lower()))
                tables[section][code] = meaning
    return tables


def _meanings(file: DataFile, entry: str, group: dict[str, Any]) -> Iterator[tuple[str, str, ErrorMeaning]]:
    values = {name: value for name, value in group.items() if name not in SECTIONS}
    group_id = values.pop("id", "")
    shared = file.build(ErrorMeaning, entry, values) if "cause" in values else None
    if group_id:
        yield "id", group_id, shared or file.build(ErrorMeaning, entry, values)
    for section in SECTIONS:
        codes = group.get(section, ())
        for code in codes:
            where = f"{entry}, {section} {code}"
            if isinstance(codes, list):
                yield section, str(code), shared or file.build(ErrorMeaning, where, values)
                continue
            match codes[code]:
                case [name, cause]:
                    own = {"name": name, "cause": cause}
                case cause:
                    own = {"cause": cause}
            yield section, code, file.build(ErrorMeaning, where, values | own)


def load_families(name: str, aadsts: dict[str, ErrorMeaning]) -> dict[str, ErrorMeaning]:
    """Return the families' meanings by their code. They are guesses, so none is certain or affects a whole app."""
    file = data_files.load(name)
    families: dict[str, ErrorMeaning] = {}
    for code in map(str, file.content.get("families", ())):
        meaning = aadsts.get(code)
        if meaning is None or meaning.vague or len(code) != 5:
            raise file.error(f"families {code}", "is not a clear five-digit code of the table")
        families[code] = ErrorMeaning(meaning.kind, meaning.who, meaning.cause, meaning.action)
    return families


_TABLES = load("aadsts.toml", "errors.toml")


def _by_number(section: str) -> dict[int, ErrorMeaning]:
    return dict(sorted((int(number), meaning) for number, meaning in _TABLES[section].items()))


AADSTS = _by_number("aadsts")
# Codes that affect the Microsoft account, and so all of its connections.
ACCOUNT_WIDE = frozenset(f"AADSTS{number}" for number, meaning in AADSTS.items() if meaning.account_wide)
FAMILIES = load_families("aadsts.toml", _TABLES["aadsts"])
ERRORS = _TABLES["errors"]  # the `error` parameter of a sign-in, in lower case
SUBERRORS = _TABLES["suberrors"]
TRANSPORT = _TABLES["transport"]  # no response arrived
GRAPH = _TABLES["graph"]
STATUSES = _by_number("statuses")  # HTTP statuses from Graph without a known code
BY_ID = _TABLES["id"]

OUTAGE = BY_ID["outage"]
THROTTLED = BY_ID["throttled"]
UNREADABLE = BY_ID["unreadable"]
UNKNOWN = BY_ID["unknown"]
NO_TOKEN = BY_ID["no_token"]
NO_ANSWER = BY_ID["no_answer"]
NOT_MICROSOFT = BY_ID["not_microsoft"]
EMPTY_CALLBACK = BY_ID["empty_callback"]
CLIENT_REJECTED = BY_ID["client_rejected"]
CLIENT_NOT_ALLOWED = BY_ID["client_not_allowed"]
BLOCKED = BY_ID["blocked"]
