"""Pure: a Merkle tree over the allow rules, so that a host can check single rules against a signed root.

Hashes and proofs are those of RFC 9162, section 2.1 (the same as RFC 6962): SHA-256, leaves hashed after a 0x00 byte
and inner nodes after a 0x01 byte, so that an inner node can never be passed off as a leaf.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def _leaf_hash(leaf: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + leaf).digest()


def _node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


class MerkleTree:
    """Every level of the tree, leaves first. A node without a sibling moves up unchanged (RFC 9162, 2.1.1)."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        level = [_leaf_hash(leaf) for leaf in leaves]
        self._levels = [level]
        while len(level) > 1:
            pairs = [_node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
            level = pairs + level[len(pairs) * 2 :]
            self._levels.append(level)

    @property
    def root(self) -> bytes:
        """32 bytes; of an empty tree, the hash of nothing."""
        top = self._levels[-1]
        return top[0] if top else hashlib.sha256(b"").digest()

    def proof(self, index: int) -> tuple[bytes, ...]:
        """The siblings on the way from a leaf to the root, lowest first.

        Raises:
            IndexError: there is no such leaf.
        """
        if not 0 <= index < len(self._levels[0]):
            raise IndexError(index)
        siblings = []
        for level in self._levels[:-1]:
            sibling = index ^ 1
            if sibling < len(level):
                siblings.append(level[sibling])
            index >>= 1
        return tuple(siblings)


def verify(leaf: bytes, index: int, count: int, *, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether `leaf` is number `index` of the `count` leaves under `root` (RFC 9162, 2.1.3.2). Never raises."""
    if not 0 <= index < count:
        return False
    node, last = index, count - 1
    current = _leaf_hash(leaf)
    for sibling in proof:
        if last == 0:
            return False
        if node & 1 or node == last:
            current = _node_hash(sibling, current)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            current = _node_hash(current, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and current == root
