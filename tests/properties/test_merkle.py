"""Every leaf's proof verifies, and nothing else does."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inventory.merkle import MerkleTree, verify

LEAVES = st.lists(st.binary(max_size=20), min_size=1, max_size=40)


def flipped(data: bytes, position: int) -> bytes:
    return bytes(byte ^ (0x40 if i == position else 0) for i, byte in enumerate(data))


@pytest.mark.parametrize("count", range(1, 70))
def test_every_leaf_verifies_in_trees_of_every_shape(count: int) -> None:
    leaves = [bytes([n]) for n in range(count)]
    tree = MerkleTree(leaves)
    for index, leaf in enumerate(leaves):
        proof = tree.proof(index)
        assert verify(leaf, index, count, proof=proof, root=tree.root)
        assert not verify(leaf, (index + 1) % (count + 1), count, proof=proof, root=tree.root)
        assert not verify(leaf, index, count, proof=[*proof, b"\0" * 32], root=tree.root)
        if proof:
            assert not verify(leaf, index, count, proof=proof[:-1], root=tree.root)


@settings(max_examples=60)
@given(LEAVES, st.data())
def test_any_flipped_byte_fails(leaves: list[bytes], data: st.DataObject) -> None:
    tree = MerkleTree(leaves)
    index = data.draw(st.integers(0, len(leaves) - 1))
    proof = tree.proof(index)
    count = len(leaves)
    assert verify(leaves[index], index, count, proof=proof, root=tree.root)
    assert not verify(leaves[index] + b"x", index, count, proof=proof, root=tree.root)
    for position in range(len(leaves[index])):
        assert not verify(flipped(leaves[index], position), index, count, proof=proof, root=tree.root)
    for step, sibling in enumerate(proof):
        for position in (0, 15, 31):
            wrong = [*proof[:step], flipped(sibling, position), *proof[step + 1 :]]
            assert not verify(leaves[index], index, count, proof=wrong, root=tree.root)
    for position in range(32):
        assert not verify(leaves[index], index, count, proof=proof, root=flipped(tree.root, position))


@settings(max_examples=60)
@given(st.binary(max_size=40), st.integers(-2, 9), st.integers(-2, 9), st.lists(st.binary(max_size=33), max_size=6))
def test_nonsense_is_refused_and_never_raises(leaf: bytes, index: int, count: int, proof: list[bytes]) -> None:
    assert not verify(leaf, index, count, proof=proof, root=b"\0" * 32)


def test_a_node_cannot_be_passed_off_as_a_leaf() -> None:
    tree = MerkleTree([b"a", b"b", b"c", b"d"])
    left = hashlib.sha256(b"\0a").digest() + hashlib.sha256(b"\0b").digest()
    assert not verify(left, 0, 2, proof=tree.proof(0)[1:], root=tree.root)


def test_roots_are_those_of_rfc_6962() -> None:
    """Computed once by the definition in section 2.1, written out."""

    def by_definition(leaves: list[bytes]) -> bytes:
        if len(leaves) < 2:
            return hashlib.sha256(b"".join(b"\0" + leaf for leaf in leaves)).digest()
        split = 1 << (len(leaves) - 1).bit_length() - 1
        return hashlib.sha256(b"\1" + by_definition(leaves[:split]) + by_definition(leaves[split:])).digest()

    for count in range(20):
        leaves = [bytes([n]) * n for n in range(count)]
        assert MerkleTree(leaves).root == by_definition(leaves)


def test_there_is_no_proof_for_a_leaf_that_is_not_there() -> None:
    for index in (-1, 2):
        with pytest.raises(IndexError):
            MerkleTree([b"a", b"b"]).proof(index)
