"""One event can be proven to be part of the trail, without any other event and without the database."""

import copy
import hashlib
import io
import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from hypothesis import given
from hypothesis import strategies as st

from connections import audit
from connections.errors import InvalidInput
from connections.models import AuditEvent, AuditSeal, User
from connections.models.audit import AuditAction
from connections.services.api_keys import api_keys
from connections.services.audit import merkle, proofs, seal_format, sealing
from tests import factories
from tests.environment import ROOT
from tests.services.audit.test_sealing import tamper

NOW = datetime(2026, 11, 25, 12, 0, 30, tzinfo=UTC)


@pytest.fixture
def sealed(bob: User) -> AuditSeal:
    """A seal of five events and two token requests, in no particular order."""
    connection = factories.make_connection(owner=bob)
    key, _ = factories.make_key(bob)
    for number in range(5):
        audit.record(AuditAction.CONNECTION_CHANGED, connection, actor=bob, changes={"n": number, "text": "ünïcode"})
    for minute in range(2):
        api_keys.record_token_request(key, connection, address=None, now=NOW - timedelta(minutes=minute))
    assert sealing.seal_due(NOW + timedelta(minutes=10)) == 1
    return AuditSeal.objects.get()


def split_root(leaves: list[bytes]) -> bytes:
    """The definition in RFC 6962, section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + split_root(leaves[:k]) + split_root(leaves[k:])).digest()


@given(count=st.integers(min_value=0, max_value=70))
def test_the_tree_is_that_of_rfc_6962(count: int) -> None:
    leaves = [merkle.leaf_hash(str(number).encode()) for number in range(count)]
    root = merkle.root(leaves)
    assert root == split_root(leaves)
    for index in range(count):
        path = merkle.path(leaves, index)
        assert merkle.root_from_path(leaves[index], index, count, path) == root
        assert merkle.root_from_path(leaves[index], (index + 1) % count, count, path) != root or count == 1
        assert merkle.root_from_path(leaves[index], index, count, [*path, root]) is None
    assert merkle.leaf_hash(b"") == hashlib.sha256(b"\x00").digest()


@pytest.mark.django_db
def test_every_event_of_a_seal_can_be_proven(sealed: AuditSeal) -> None:
    for event in AuditEvent.objects.all():
        proof = proofs.prove(event)
        proven = proofs.check(json.loads(json.dumps(proof)))
        assert (proven.event["id"], proven.seal, proven.seal_hash) == (event.pk, 1, sealed.hash)
        others = AuditEvent.objects.exclude(pk=event.pk).values_list("pk", flat=True)
        assert not any(f'"id":{pk},' in json.dumps(proof) for pk in others)


@pytest.mark.django_db
def test_nothing_in_a_proof_can_be_altered(sealed: AuditSeal) -> None:
    proof = proofs.prove(AuditEvent.objects.earliest("pk"))
    alterations: list[tuple[str, Any]] = [
        ("line", proof["line"].replace("Bob", "Eve")),
        ("line", "{}"),
        ("index", 1),
        ("index", True),
        ("rows", 6),
        ("path", proof["path"][:-1]),
        ("path", [*proof["path"], "00" * 32]),
        ("path", ["x"]),
        ("seal", proof["seal"] | {"root": "00" * 32}),
        ("seal", proof["seal"] | {"sealed_at": "2020-01-01T00:00:00.000000+00:00"}),
        ("seal", {}),
        ("format", "another"),
    ]
    for name, value in alterations:
        with pytest.raises(proofs.InvalidProof):
            proofs.check(copy.deepcopy(proof) | {name: value})
    nonsensical: tuple[Any, ...] = (None, [], {}, "text", 7)
    for nonsense in nonsensical:
        with pytest.raises(proofs.InvalidProof):
            proofs.check(nonsense)


@pytest.mark.django_db
def test_an_altered_or_unsealed_event_cannot_be_proven(sealed: AuditSeal, bob: User) -> None:
    event = audit.record(AuditAction.ACCOUNT_CHANGED, bob, actor=bob)
    with pytest.raises(InvalidInput, match="not sealed yet"):
        proofs.prove(event)
    victim = AuditEvent.objects.earliest("pk")
    tamper("UPDATE connections_auditevent SET target_name = 'x' WHERE id = %s", victim.pk)
    with pytest.raises(InvalidInput, match="not what was sealed"):
        proofs.prove(victim)
    tamper("UPDATE connections_auditseal SET root = ''")
    with pytest.raises(InvalidInput, match="before version"):
        proofs.prove(victim)


@pytest.mark.django_db
def test_the_command_proves_and_checks(sealed: AuditSeal, tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        out = io.StringIO()
        call_command("audit_prove", *arguments, stdout=out)
        return out.getvalue()

    file, published = tmp_path / "proof.json", tmp_path / "seals.jsonl"
    published.write_text(f"{seal_format.published_line(sealed)}\n")
    file.write_text(run(str(AuditEvent.objects.earliest("pk").pk)))
    assert "Compare this seal" in run("--check", str(file))
    assert "PROVEN: that seal was published." in run("--check", str(file), "--published", str(published))
    assert "PROVEN" in run("--check", str(file), "--expect", f"1:{sealed.hash}")
    with pytest.raises(CommandError, match=r"NOT PROVEN\. Seal 1 was published with a different hash"):
        run("--check", str(file), "--expect", f"1:{'0' * 64}")
    file.write_text(file.read_text().replace("Bob", "Eve"))
    with pytest.raises(CommandError, match=r"NOT PROVEN\. The event does not belong"):
        run("--check", str(file))
    with pytest.raises(CommandError, match="There is no event"):
        run("987654321")
    for text in ("", "{"):
        file.write_text(text)
        with pytest.raises(CommandError, match="NOT PROVEN"):
            run("--check", str(file))


@pytest.mark.django_db
def test_a_proof_can_be_checked_with_the_few_lines_in_the_documentation(sealed: AuditSeal, tmp_path: Path) -> None:
    program = re.search(r"python3 -c '\n((?: {4}.*\n)*?.*proof\[\"line\"\]\))' proof\.json", document())
    assert program is not None
    source = re.sub("^ {4}", "", program[1], flags=re.MULTILINE)
    event = AuditEvent.objects.order_by("pk")[2]
    file = tmp_path / "proof.json"
    file.write_text(json.dumps(proofs.prove(event)))
    process = subprocess.run([sys.executable, "-c", source, file], capture_output=True, text=True, check=True)
    assert process.stdout.startswith(f"seal 1 {sealed.hash} contains")
    file.write_text(file.read_text().replace("Bob", "Eve"))
    assert subprocess.run([sys.executable, "-c", source, file], capture_output=True, check=False).returncode == 1


@pytest.mark.django_db
def test_published_seals_can_be_checked_with_the_few_lines_in_the_documentation(
    sealed: AuditSeal, bob: User, tmp_path: Path
) -> None:
    audit.record(AuditAction.ACCOUNT_CHANGED, bob, actor=bob)
    sealing.seal_due(NOW)
    program = re.search(r"python3 -c '\n((?: {4}.*\n)*?.*print\(\"up to\".*\))' seals\.jsonl", document())
    assert program is not None
    source = re.sub("^ {4}", "", program[1], flags=re.MULTILINE)
    file = tmp_path / "seals.jsonl"
    seals = AuditSeal.objects.order_by("number")
    file.write_text("".join(f"{seal_format.published_line(seal)}\n" for seal in seals))
    process = subprocess.run([sys.executable, "-c", source, file], capture_output=True, text=True, check=True)
    assert process.stdout.startswith("up to 2 ")


def document() -> str:
    return (ROOT / "docs" / "audit.md").read_text()
