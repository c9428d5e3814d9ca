"""Merkle trees as in RFC 6962, section 2.1: leaves and nodes are hashed with different prefixes."""

import hashlib
from collections.abc import Sequence

_LEAF, _NODE = b"\x00", b"\x01"


def leaf_hash(line: bytes) -> bytes:
    return hashlib.sha256(_LEAF + line).digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """Return the root of the tree over these leaf hashes. Without leaves, it is the SHA-256 of an empty string."""
    level = list(leaves)
    while len(level) > 1:
        level = _above(level)
    return level[0] if level else hashlib.sha256().digest()


def path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Return the neighbours' hashes on the way from one leaf to the root (RFC 6962's audit path), nearest first."""
    hashes, level = [], list(leaves)
    while len(level) > 1:
        neighbour = index ^ 1
        if neighbour < len(level):
            hashes.append(level[neighbour])
        level, index = _above(level), index // 2
    return hashes


def root_from_path(leaf: bytes, index: int, count: int, hashes: Sequence[bytes]) -> bytes | None:
    """Compute the root from a leaf and its path. Returns None if the path does not fit leaf ``index`` of ``count``."""
    last, digest, rest = count - 1, leaf, list(hashes)
    if not 0 <= index <= last:
        return None
    while last > 0:
        if index % 2 or index < last:
            if not rest:
                return None
            neighbour = rest.pop(0)
            pair = neighbour + digest if index % 2 else digest + neighbour
            digest = hashlib.sha256(_NODE + pair).digest()
        index, last = index // 2, last // 2
    return None if rest else digest


def _above(level: list[bytes]) -> list[bytes]:
    """Return the next level up. Pairs are hashed, and a node without a partner moves up unchanged."""
    sha256 = hashlib.sha256
    pairs = [sha256(_NODE + left + right).digest() for left, right in zip(level[::2], level[1::2], strict=False)]
    return pairs + level[-1:] if len(level) % 2 else pairs
