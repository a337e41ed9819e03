"""Checkpoints, and the file that keeps them elsewhere."""

from __future__ import annotations

import stat
from dataclasses import fields, replace
from pathlib import Path

import orjson
import pytest

from serving.egress.ledger.checkpoints import Checkpoint, append_to_file, read_file
from serving.egress.ledger.errors import LedgerFileInvalid
from tests.serving.egress.ledgers import OTHER_SIGNER, SIGNER, chain, signed

CHECKPOINT = signed(chain(3)[-1])


def test_checkpoint_is_genuine_to_whoever_has_the_public_key() -> None:
    assert CHECKPOINT.is_genuine(SIGNER.public_keys)
    assert not CHECKPOINT.is_genuine(OTHER_SIGNER.public_keys)


@pytest.mark.parametrize("name", [field.name for field in fields(Checkpoint)])
@pytest.mark.parametrize("value", [4, "00", "nonsense", None], ids=repr)
def test_checkpoint_with_any_other_value_is_not_genuine(name: str, value: object) -> None:
    changed = replace(CHECKPOINT, **{name: value})  # type: ignore[arg-type]
    assert not changed.is_genuine(SIGNER.public_keys)


def test_key_of_another_cannot_be_passed_off_as_ours() -> None:
    forged = replace(signed(chain(3)[-1], OTHER_SIGNER), key_id=SIGNER.key_id)
    assert not forged.is_genuine(SIGNER.public_keys)


def test_file_is_private_and_has_every_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints.jsonl"
    made = [signed(entry) for entry in chain(3)]
    for checkpoint in made:
        append_to_file(path, checkpoint)
    assert read_file(path) == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b'{"kind":"checkpoint"}', b"7"])
def test_line_that_is_no_checkpoint_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "checkpoints.jsonl"
    path.write_bytes(orjson.dumps(CHECKPOINT.as_json()) + b"\n" + line + b"\n")
    with pytest.raises(LedgerFileInvalid, match="line 2"):
        read_file(path)


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LedgerFileInvalid, match="No such file"):
        read_file(tmp_path / "missing")
