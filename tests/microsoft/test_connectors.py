"""Connectors: the catalogue's data, and what a mistake in it causes."""

from pathlib import Path

import pytest

from connections.microsoft import connectors, data_files
from connections.microsoft.capabilities import APP_ONLY, CAPABILITIES, DELEGATED
from connections.microsoft.connectors import CONNECTORS
from tests.environment import ROOT

ICONS = (ROOT / "connections/static/vendor/tabler/icons.svg").read_text()


def write(folder: Path, monkeypatch: pytest.MonkeyPatch, **values: object) -> None:
    lines = [f"{name} = {value!r}" for name, value in values.items()]
    (folder / "test.toml").write_text("\n".join(["[connectors.fax]", *lines]))
    monkeypatch.setattr(data_files, "DATA", folder)


COMPLETE = {
    "label": "Fax",
    "icon": "file",
    "description": "Send faxes.",
    "preparation": "A fax machine.",
    "example": "Orders",
}


def test_every_capability_belongs_to_a_connector_of_its_own_and_to_several() -> None:
    offered = {
        capability.key for key, connector in CONNECTORS.items() for capability in connector.offered if key != "several"
    }
    assert offered == CAPABILITIES.keys()
    assert {capability.key for capability in CONNECTORS["several"].offered} <= offered


def test_every_connector_has_an_icon_and_whole_sentences() -> None:
    for connector in CONNECTORS.values():
        assert f'id="{connector.icon}"' in ICONS, connector.key
        for sentence in (connector.description, connector.preparation):
            assert sentence.endswith(".")
            assert all(len(part.split()) <= 20 for part in sentence.split(". ")), sentence


def test_the_ticked_capabilities_can_be_used_with_every_type() -> None:
    for connector in CONNECTORS.values():
        for key in connector.least:
            assert not CAPABILITIES[key].no_delegated
            assert not CAPABILITIES[key].no_application
        assert connector.authentication_types == (DELEGATED, APP_ONLY)


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"capabilities": ["fax.send"]}, "there is no capability 'fax.send'"),
        ({"groups": ["Outlook"], "least": ["fax.send"]}, "there is no capability 'fax.send'"),
        ({"groups": ["Fax"]}, "there is no group 'Fax'"),
        ({"groups": ["Outlook"], "least": ["files.read"]}, "those in least must be among them"),
        ({}, "it must offer capabilities"),
    ],
)
def test_a_mistake_in_the_file_is_an_error_when_it_is_read(
    wrong: dict[str, object], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, monkeypatch, **COMPLETE, **wrong)
    with pytest.raises(data_files.InvalidDataFile, match=f"test.toml: connectors.fax: .*{problem}"):
        connectors.load("test.toml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", list(CONNECTORS)),
        ("  TEAMS  channel ", ["teams", "several"]),
        ("mail.send", ["outlook", "several"]),
        ("sharepoint", ["sharepoint", "sharepoint_rest", "several"]),
        ("fax machine", []),
    ],
)
def test_the_search_finds_words_in_labels_capabilities_and_permissions(text: str, expected: list[str]) -> None:
    assert [connector.key for connector in connectors.find(text)] == expected
