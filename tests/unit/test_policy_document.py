import itertools
from dataclasses import dataclass

import msgspec
import pytest

from inventory.errors import InputError
from inventory.policy_document import PolicyDocument, PolicyLeaf, PolicySlicer, build, verify_document, verify_slice
from tests.support.estates import rule

ALLOWS = [rule(f"allow {n}", "allow", f"host:h{n}", f"s{n}") for n in range(5)]
DENIES = [rule("deny", "deny", "host:**", "cards")]


@dataclass
class Counting:
    """Salts that a test can tell apart."""

    made: int = 0

    def __call__(self, size: int) -> bytes:
        self.made += 1
        return bytes([self.made]) * size


BODY, DOCUMENT = build([*DENIES, *ALLOWS], "text", random_bytes=Counting())
SLICER = PolicySlicer(DOCUMENT)


def test_every_subset_of_the_allows_verifies():
    for size in range(6):
        for indices in itertools.combinations(range(5), size):
            rules = verify_slice(BODY, SLICER.slice(indices))
            assert rules == tuple(ALLOWS[i] for i in indices)


def test_the_whole_document_verifies():
    assert verify_document(BODY, DOCUMENT) == tuple(ALLOWS)
    assert BODY.denies == tuple(DENIES)


def test_an_empty_policy_is_a_policy():
    body, document = build([], "")
    assert verify_document(body, document) == ()
    assert verify_slice(body, ()) == ()


def test_c46_leaving_rules_out_only_narrows_and_no_deny_can_be_left_out():
    assert verify_slice(BODY, ()) == ()
    assert BODY.denies == tuple(DENIES)


def changed(original: PolicyLeaf, fields: dict[str, object]) -> PolicyLeaf:
    return msgspec.structs.replace(original, **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"leaf": DOCUMENT.leaves[2]},
        {"index": 2},
        {"index": -1},
        {"index": 5},
        {"proof": ()},
        {"proof": SLICER.slice([2])[0].proof},
        {"proof": (b"\0" * 32,) * 100},
        {"leaf": DOCUMENT.leaves[1].replace(b"host:h1", b"host:**")},
    ],
)
def test_a_leaf_that_was_not_signed_is_refused(fields):
    with pytest.raises(InputError, match="is not part of the signed policy"):
        verify_slice(BODY, (changed(SLICER.slice([1])[0], fields),))


def test_a_leaf_of_another_policy_is_refused():
    _, other = build([*DENIES, *ALLOWS], "text", random_bytes=lambda size: b"z" * size)
    with pytest.raises(InputError):
        verify_slice(BODY, PolicySlicer(other).slice([1]))
    with pytest.raises(InputError):
        verify_document(BODY, other)


def test_a_leaf_sent_twice_is_refused():
    with pytest.raises(InputError, match="twice"):
        verify_slice(BODY, SLICER.slice([1, 2, 1]))


def test_a_deny_among_the_leaves_is_refused():
    leaves = tuple(leaf.replace(b'"allow"', b'"deny"') for leaf in DOCUMENT.leaves)
    body, _ = build(ALLOWS, "text")
    forged = PolicyDocument("text", leaves)
    slicer = PolicySlicer(forged)
    body = msgspec.structs.replace(body, allow_root=slicer._tree.root.hex())
    with pytest.raises(InputError, match="one that is none"):
        verify_slice(body, slicer.slice([0]))


def test_h19_the_same_policy_with_other_content_is_refused():
    with pytest.raises(InputError, match="text"):
        verify_document(BODY, PolicyDocument("text ", DOCUMENT.leaves))
    for leaves in (DOCUMENT.leaves[:-1], DOCUMENT.leaves[::-1], (*DOCUMENT.leaves, DOCUMENT.leaves[0])):
        with pytest.raises(InputError, match="rules are not the ones"):
            verify_document(BODY, PolicyDocument("text", leaves))


def test_salts_differ_so_that_equal_rules_do_not_show():
    body, document = build([ALLOWS[0]] * 2, "text")
    assert document.leaves[0] != document.leaves[1]
    assert body.allow_count == 2


def test_documents_and_slices_survive_their_encoding():
    assert msgspec.json.decode(msgspec.json.encode(DOCUMENT), type=PolicyDocument) == DOCUMENT
    leaves = SLICER.slice([0, 3])
    again = msgspec.json.decode(msgspec.json.encode(leaves), type=tuple[PolicyLeaf, ...])
    assert verify_slice(BODY, again) == (ALLOWS[0], ALLOWS[3])
