"""What can go wrong with a backup on this side. tests/deploy/test_backup.py makes and restores real ones."""

import errno
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from connections.errors import InUse, InvalidInput
from connections.services.operations import backup

NOW = datetime(2026, 11, 30, 2, 30, tzinfo=UTC)


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "_run", lambda *arguments: None)
    monkeypatch.setattr(backup, "_connected_as", list)


@pytest.mark.usefixtures("programs")
def test_a_full_disk_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InvalidInput, match="No space left"):
        backup.write(tmp_path, now=NOW)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("programs")
def test_a_file_of_another_backup_stays(tmp_path: Path) -> None:
    (tmp_path / "portal-20261130T023000Z.partial").write_text("half")
    with pytest.raises(InUse):
        backup.write(tmp_path, now=NOW)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["half"]


@pytest.mark.usefixtures("programs")
def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    assert backup.write(tmp_path, now=NOW).stat().st_mode & 0o777 == 0o600
