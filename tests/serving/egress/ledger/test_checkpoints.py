"""Checkpoints, and the file that keeps them elsewhere."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from serving.egress.ledger.checkpoints import Checkpoint, append_to_file, read_file
from serving.egress.ledger.errors import LedgerFileInvalid
from serving.egress.ledger.merkle import Frontier
from serving.egress.ledger.notes import NoteSignature
from tests.serving.egress.ledgers import OTHER_SIGNER, SIGNER, chain, signed, signed_before

CHECKPOINT = signed(chain(3)[-1])
BEFORE = signed_before(chain(3)[-1])
KEYS = SIGNER.public_keys


@pytest.mark.parametrize("checkpoint", [CHECKPOINT, BEFORE], ids=["note", "version 1"])
def test_checkpoint_is_genuine_to_whoever_has_the_public_key(checkpoint: Checkpoint) -> None:
    assert checkpoint.is_genuine(KEYS)
    assert not checkpoint.is_genuine(OTHER_SIGNER.public_keys)


def test_checkpoint_of_version_1_is_genuine_as_it_was_signed() -> None:
    kept = (
        b'{"kind":"checkpoint","sequence":3,'
        b'"hash":"5318603d74393d508852802a805ea05c60e116e1c0775df449832f6234b4e4f8",'
        b'"at":"2026-03-01T12:00:00.000000+00:00",'
        b'"key_id":"1IG2tMH7J2wbJZnOf8LJzQitKf7LMvoAElsuDMVM54Y",'
        b'"signature":"00b392e553ea0294b7629948aba1956b7ce2300695ce81f6fc0a6b4daacee610'
        b"508cfba6a20ac2393bde2dfff7ab6fef734f72af5e902659a21d20fb78906d01"
        b'"}'
    )
    assert Checkpoint.from_json(orjson.loads(kept)) == BEFORE


@pytest.mark.parametrize(
    ("checkpoint", "name"),
    [(CHECKPOINT, name) for name in ("sequence", "key_id", "signature", "note_text")]
    + [(BEFORE, name) for name in ("sequence", "hash", "at", "key_id", "signature")],
)
@pytest.mark.parametrize("value", [4, "00", "nonsense", None], ids=repr)
def test_checkpoint_with_any_other_value_is_not_genuine(
    checkpoint: Checkpoint, name: str, value: object
) -> None:
    changed = replace(checkpoint, **{name: value})  # type: ignore[arg-type]
    assert not changed.is_genuine(KEYS)


def test_checkpoint_fits_its_own_chain_only() -> None:
    *_, last = entries = chain(3)
    tree = Frontier().with_leaves(bytes.fromhex(entry.hash) for entry in entries)
    other = Frontier().with_leaves(bytes.fromhex(entry.hash) for entry in reversed(entries))
    assert CHECKPOINT.fits(last, tree)
    assert not CHECKPOINT.fits(last, other)
    assert not CHECKPOINT.fits(entries[0], tree)
    assert BEFORE.fits(last, other)
    assert not BEFORE.fits(entries[0], tree)


def test_note_is_read_back_as_its_checkpoint_whoever_cosigned_it(tmp_path: Path) -> None:
    note = CHECKPOINT.note(KEYS)
    cosigned = replace(
        note, signatures=(NoteSignature("witness.example", b"abcd", b"x" * 72), *note.signatures)
    )
    path = tmp_path / "checkpoint.note"
    path.write_text(str(cosigned), "utf-8")
    (found,) = read_file(path, KEYS)
    assert found == replace(CHECKPOINT, hash="", at="", frontier=None)
    assert found.is_genuine(KEYS)


def test_note_that_others_signed_is_not_genuine(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.note"
    path.write_text(str(CHECKPOINT.note(KEYS)), "utf-8")
    (found,) = read_file(path, OTHER_SIGNER.public_keys)
    assert not found.is_genuine(OTHER_SIGNER.public_keys)


def test_checkpoint_of_version_1_has_no_note() -> None:
    with pytest.raises(LedgerFileInvalid, match="earlier version"):
        BEFORE.note(KEYS)


def test_key_of_another_cannot_be_passed_off_as_ours() -> None:
    forged = replace(signed(chain(3)[-1], OTHER_SIGNER), key_id=SIGNER.key_id)
    assert not forged.is_genuine(SIGNER.public_keys)


def test_file_is_private_and_has_every_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints.jsonl"
    made = [signed_before(chain(1)[0]), *map(signed, chain(3))]
    for checkpoint in made:
        append_to_file(path, checkpoint)
    assert read_file(path, KEYS) == [replace(one, frontier=None) for one in made]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b'{"kind":"checkpoint"}', b"7"])
def test_line_that_is_no_checkpoint_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "checkpoints.jsonl"
    path.write_bytes(orjson.dumps(CHECKPOINT.as_json()) + b"\n" + line + b"\n")
    with pytest.raises(LedgerFileInvalid, match="line 2"):
        read_file(path, KEYS)


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LedgerFileInvalid, match="No such file"):
        read_file(tmp_path / "missing", KEYS)
