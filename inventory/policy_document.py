"""Pure: a policy as it is signed, stored and sent in parts.

What an operator signs (`PolicyBody`) holds every deny rule in full and the allow rules as one Merkle root. So a host
can be sent just the allow rules that concern it, each with a proof against the signed root (C46), and whoever sends
them can only leave rules out. Leaving out an allow only narrows what is allowed; a deny cannot be left out, because
the denies are in the signed body itself, and no deny can be passed off as a leaf.

Each leaf carries a random salt, so that a host cannot test guesses about other hosts' rules against the hashes in a
proof. Leaves are kept and compared as the bytes they were made as, never encoded again.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable, Sequence

import msgspec

from inventory.authority.entries import PolicyBody
from inventory.errors import InputError
from inventory.merkle import MerkleTree, verify
from inventory.policy_rules import Rule
from inventory.strict_json import decode

SALT_BYTES = 16
LEAF_MAX_BYTES = 1024 * 1024
PROOF_MAX = 64


class _Leaf(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    salt: bytes
    rule: Rule


class PolicyDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole policy as the registry keeps it: what the operator wrote, and a leaf for each allow rule in order."""

    source: str
    leaves: tuple[bytes, ...]


class PolicyLeaf(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """One allow rule with its proof, as a host gets and keeps it."""

    leaf: bytes
    index: int
    proof: tuple[bytes, ...]
    """Sibling hashes, lowest first."""


PolicySlice = tuple[PolicyLeaf, ...]


def build(
    rules: Iterable[Rule], source: str, *, random_bytes: Callable[[int], bytes] = secrets.token_bytes
) -> tuple[PolicyBody, PolicyDocument]:
    """The body to sign and the document to store beside it.

    Args:
        rules: every rule, denies and allows.
        source: the TOML text they were read from.
        random_bytes: where salts come from; tests pass a fixed source.
    """
    every = tuple(rules)
    allows = [rule for rule in every if rule.effect == "allow"]
    leaves = tuple(msgspec.json.encode(_Leaf(random_bytes(SALT_BYTES), rule)) for rule in allows)
    body = PolicyBody(
        denies=tuple(rule for rule in every if rule.effect == "deny"),
        allow_root=MerkleTree(leaves).root.hex(),
        allow_count=len(leaves),
        source_hash=_source_hash(source),
    )
    return body, PolicyDocument(source, leaves)


def _source_hash(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()


def _allow_rule(leaf: bytes) -> Rule:
    rule = decode(leaf, _Leaf, max_bytes=LEAF_MAX_BYTES, what="policy rule").rule
    if rule.effect != "allow":
        raise InputError("the policy's allow rules hold one that is none", hint="apply the policy again")
    return rule


def verify_document(body: PolicyBody, document: PolicyDocument) -> tuple[Rule, ...]:
    """Every allow rule of the document, once the document is the one that was signed.

    Raises:
        InputError: its text, its number of rules or any rule is another than the signed one.
    """
    if _source_hash(document.source) != body.source_hash:
        raise InputError("the policy's text is not the one that was signed", hint="apply the policy again")
    if len(document.leaves) != body.allow_count or MerkleTree(document.leaves).root.hex() != body.allow_root:
        raise InputError("the policy's rules are not the ones that were signed", hint="apply the policy again")
    return tuple(_allow_rule(leaf) for leaf in document.leaves)


class PolicySlicer:
    """Cuts slices out of one document; hashes its leaves once."""

    def __init__(self, document: PolicyDocument) -> None:
        self._leaves = document.leaves
        self._tree = MerkleTree(document.leaves)
        self._cut: dict[int, PolicyLeaf] = {}
        """Most rules concern many hosts."""

    def slice(self, indices: Sequence[int]) -> PolicySlice:
        """The allow rules at these positions, with proofs. Raises IndexError when there is no such rule."""
        return tuple(self._cut.get(i) or self._leaf(i) for i in indices)

    def _leaf(self, index: int) -> PolicyLeaf:
        leaf = self._cut[index] = PolicyLeaf(self._leaves[index], index, self._tree.proof(index))
        return leaf


def verify_slice(body: PolicyBody, leaves: PolicySlice) -> tuple[Rule, ...]:
    """The allow rules of a slice, once each is proved to be part of the signed policy.

    Raises:
        InputError: a proof fails, a rule comes twice, or a leaf holds a rule that allows nothing.
    """
    root = bytes.fromhex(body.allow_root)
    seen: set[int] = set()
    for item in leaves:
        proved = len(item.proof) <= PROOF_MAX and verify(
            item.leaf, item.index, body.allow_count, proof=item.proof, root=root
        )
        if not proved:
            raise InputError(f"rule {item.index} is not part of the signed policy")
        if item.index in seen:
            raise InputError(f"rule {item.index} of the policy was sent twice")
        seen.add(item.index)
    return tuple(_allow_rule(item.leaf) for item in leaves)
