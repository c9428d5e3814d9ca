"""The chain of seals: each seal must be unchanged since it was signed, and must follow the previous one."""

from connections.models import AuditSeal
from connections.services.audit import restores, seal_format, seal_keys
from connections.services.audit.findings import Finding


class Chain:
    """Checks seals in ascending order, starting after seal ``since`` (0: with the first seal).

    ``number`` is the number of the last seal that was checked.
    """

    def __init__(self, *, since: int) -> None:
        self.number = since
        self._before = AuditSeal.objects.filter(number=since).first()
        self._is_signed = AuditSeal.objects.filter(number__lte=since).exclude(key_id="").exists()
        self._rotation = seal_format.rotation()
        self._key_ids = {key.id for key in seal_keys.configured()}
        self._reported_keys: set[str] = set()
        self._is_sound = True  # whether the last seal is unchanged since it was signed

    def begin(self) -> list[Finding]:
        """Check that seal ``since`` exists and is unchanged since it was signed. Returns the findings."""
        if not self.number:
            return []
        if self._before is None:
            return [Finding(self.number, "removed", f"Seal {self.number} does not exist.")]
        return self._check_alone(self._before)

    def check_next(self, seal: AuditSeal) -> list[Finding]:
        expected, before, findings, was_sound = self.number + 1, self._before, [], self._is_sound
        self.number, self._before = seal.number, seal
        restore = restores.Restore.parse(seal) if seal.restore is not None else None
        last_known = before.number if before else 0
        is_declared = restore is not None and (restore.follows, restore.published + 1) == (last_known, seal.number)
        if seal.number > expected and not is_declared:
            is_one = seal.number == expected + 1
            missing = f"Seal {expected} is" if is_one else f"Seals {expected} to {seal.number - 1} are"
            findings.append(Finding(expected, "removed", f"{missing} missing."))
        problems = self._check_alone(seal)
        self._is_sound = not problems
        if problems or not was_sound:
            return findings + problems
        previous, after = (before.hash, before.events_upto) if before else (seal_format.GENESIS_HASH, 0)
        is_next = seal.number == expected or is_declared
        if is_next and (seal.previous_hash != previous or seal.events_after != after):
            what = f"Seal {seal.number} was made after another seal than {last_known}."
            findings.append(Finding(max(last_known, 1), "seal", what))
        return findings

    def _check_alone(self, seal: AuditSeal) -> list[Finding]:
        if seal_format.compute_hash(seal) != seal.hash:
            return [Finding(seal.number, "seal", f"Seal {seal.number} itself was altered: its hash doesn't match.")]
        problem = self._problem_of_signature(seal)
        return [Finding(seal.number, "seal", f"Seal {seal.number} {problem}.")] if problem else []

    def _problem_of_signature(self, seal: AuditSeal) -> str:
        if not seal.key_id:
            # Seals from versions before 0.3 are unsigned. The first signed seal confirms them, and no unsigned seal may
            # follow it.
            return "has no signature, although earlier seals have one" if self._is_signed else ""
        self._is_signed = True
        if seal.key_id not in self._key_ids:
            if seal.key_id in self._reported_keys:
                return ""
            self._reported_keys.add(seal.key_id)
            return f"and perhaps others were signed with the key {seal.key_id}, which AUDIT_SEAL_KEYS does not contain"
        if not seal_format.is_signed(seal):
            return "was not signed by the portal"
        if not self._rotation.allows(seal.key_id, seal.sealed_at):
            return "was signed with a key that had been replaced by then"
        return ""
