"""The Merkle tree over the ledger's entries (RFC 6962, 2.1), for witnesses that know no hash chain.

A leaf is the 32 bytes of an entry's hash in the chain. Knows nothing of entries or databases.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Self


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of a node over its two children."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True, slots=True)
class Frontier:
    """What has to be kept of a tree for leaves to be added: its complete subtrees.

    Attributes:
        size: How many leaves there are.
        roots: Of the complete subtrees, the largest first; one for each bit set in `size`.
    """

    size: int = 0
    roots: tuple[bytes, ...] = ()

    def with_leaves(self, leaves: Iterable[bytes]) -> Self:
        """The same tree with these leaves, not yet hashed, at its end."""
        size, roots = self.size, list(self.roots)
        for leaf in leaves:
            root, height = leaf_hash(leaf), size
            while height & 1:
                root = node_hash(roots.pop(), root)
                height >>= 1
            roots.append(root)
            size += 1
        return type(self)(size, tuple(roots))

    @property
    def root(self) -> bytes:
        """The root of the whole tree."""
        if not self.roots:
            return hashlib.sha256().digest()
        return reduce(lambda right, left: node_hash(left, right), reversed(self.roots))

    def as_text(self) -> str:
        """The roots in base64, one after the other."""
        return base64.b64encode(b"".join(self.roots)).decode("ascii")

    @classmethod
    def from_text(cls, size: int, text: str) -> Self:
        """The frontier of a tree of that size.

        Raises:
            ValueError: The text is no frontier of such a tree.
        """
        try:
            joined = base64.b64decode(text, validate=True)
        except binascii.Error:
            joined = b"?"
        if len(joined) != 32 * size.bit_count():
            raise ValueError("it is no frontier of a tree of that size")
        return cls(size, tuple(joined[at : at + 32] for at in range(0, len(joined), 32)))


def consistency_proof(leaves: Sequence[bytes], old_size: int) -> list[bytes]:
    """Hashes that prove that the tree over `leaves` continues that over the first `old_size`.

    RFC 6962, 2.1.2.

    Raises:
        ValueError: There are fewer leaves than that.
    """
    if not 0 <= old_size <= len(leaves):
        raise ValueError(f"there is no proof from {old_size} to {len(leaves)} entries")
    return [] if old_size in (0, len(leaves)) else _subproof(leaves, old_size, whole=True)


def _subproof(leaves: Sequence[bytes], old_size: int, *, whole: bool) -> list[bytes]:
    if old_size == len(leaves):
        return [] if whole else [_root(leaves)]
    half = 1 << (len(leaves) - 1).bit_length() - 1
    left, right = leaves[:half], leaves[half:]
    if old_size <= half:
        return [*_subproof(left, old_size, whole=whole), _root(right)]
    return [*_subproof(right, old_size - half, whole=False), _root(left)]


def _root(leaves: Sequence[bytes]) -> bytes:
    return Frontier().with_leaves(leaves).root
