"""Declared restores. When a backup is restored, seals that had been published since the backup are missing.

A restore is declared by a signed seal (services.operations.restore), so it stays visible for as long as the chain does.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from connections.models import AuditSeal
from connections.services.audit import seal_format


@dataclass(frozen=True, slots=True)
class Restore:
    number: int  # number of the seal that declares the restore
    declared_at: datetime
    after: int  # the last seal that was published and is still here
    follows: int  # the newest seal here when the restore was declared
    published: int  # the highest number that was published
    published_hash: str
    by: str
    reason: str

    @classmethod
    def parse(cls, seal: AuditSeal) -> Self | None:
        """Return the restore that this seal declares, or None if there is none or the seal has no valid signature."""
        facts: Any = seal.restore
        numbers, texts = ("after", "follows", "published"), ("published_hash", "by", "reason")
        if (
            not isinstance(facts, dict)
            or seal_format.compute_hash(seal) != seal.hash
            or not seal_format.is_signed(seal)
        ):
            return None
        return cls(seal.number, seal.sealed_at, *(facts[name] for name in (*numbers, *texts)))

    def covers(self, number: int) -> bool:
        """Whether a published seal with this number may have been lost in this restore."""
        return self.after < number <= self.published

    def __str__(self) -> str:
        lost = f"seals {self.after + 1} to {self.published}"
        if self.after + 1 == self.published:
            lost = f"seal {self.published}"
        return (
            f"Restore declared by {self.by} on {self.declared_at:%Y-%m-%d %H:%M} UTC ({self.reason}): {lost} had been "
            f"published and are missing here. The trail continues with seal {self.number}."
        )


def declared() -> list[Restore]:
    """Return all declared restores, the oldest first."""
    seals = AuditSeal.objects.filter(restore__isnull=False).order_by("number")
    return [restore for seal in seals if (restore := Restore.parse(seal)) is not None]
