"""The Merkle tree of RFC 6962: known roots, and proofs as a witness verifies them."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.egress.ledger.merkle import Frontier, consistency_proof

# The leaves and roots that certificate-transparency and golang.org/x/mod/sumdb/tlog test with.
LEAVES = [
    bytes.fromhex(leaf)
    for leaf in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657",
                 "606162636465666768696a6b6c6d6e6f")
]  # fmt: skip
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def tree(leaves: list[bytes]) -> Frontier:
    return Frontier().with_leaves(leaves)


@pytest.mark.parametrize("size", range(9))
def test_tree_has_the_known_root(size: int) -> None:
    assert tree(LEAVES[:size]).root.hex() == ROOTS[size]


@given(st.lists(st.binary(max_size=4), max_size=40), st.integers(0, 40))
def test_tree_goes_on_from_what_is_kept_of_it(leaves: list[bytes], first: int) -> None:
    half = tree(leaves[:first])
    kept = Frontier.from_text(half.size, half.as_text())
    assert kept.with_leaves(leaves[first:]) == tree(leaves)


@pytest.mark.parametrize(("size", "text"), [(1, ""), (2, "AAAA"), (1, "?"), (3, "A" * 44)])
def test_text_that_is_no_frontier_is_refused(size: int, text: str) -> None:
    with pytest.raises(ValueError, match="frontier"):
        Frontier.from_text(size, text)


def accepted(old: Frontier, new: Frontier, proof: list[bytes]) -> bool:
    """RFC 9162, 2.1.4.2, as a witness has it; nothing of ours is in it."""

    def node(left: bytes, right: bytes) -> bytes:
        return hashlib.sha256(b"\x01" + left + right).digest()

    path = [old.root, *proof] if old.size & (old.size - 1) == 0 else list(proof)
    at, last = old.size - 1, new.size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    first = second = path[0]
    for one in path[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            first, second = node(one, first), node(one, second)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            second = node(second, one)
        at, last = at >> 1, last >> 1
    return (first, second, last) == (old.root, new.root, 0)


@pytest.mark.parametrize("new", range(2, 20))
def test_tree_is_proved_to_continue_every_one_before(new: int) -> None:
    leaves = [bytes([number]) for number in range(new)]
    for old in range(1, new):
        proof = consistency_proof(leaves, old)
        assert accepted(tree(leaves[:old]), tree(leaves), proof)
        assert not accepted(tree([b"other", *leaves[1:old]]), tree(leaves), proof)


def test_no_proof_is_needed_from_nothing_or_to_itself() -> None:
    assert [consistency_proof(LEAVES, size) for size in (0, 8)] == [[], []]


def test_proof_from_more_than_there_is_is_refused() -> None:
    with pytest.raises(ValueError, match="from 9 to 8"):
        consistency_proof(LEAVES, 9)
