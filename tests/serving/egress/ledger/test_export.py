"""An exported ledger is as good as the ledger: tampering is found with the public key alone."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from serving.egress.ledger.errors import LedgerFileInvalid
from serving.egress.ledger.export import export, verify_file
from serving.egress.ledger.ledger import ArrivalFacts, EgressLedger
from serving.egress.ledger.verification import Report
from serving.storage.database import Database
from tests.serving.egress.ledgers import (
    OTHER_SIGNER,
    SECRET,
    SIGNER,
    database,
    facts,
    lines,
    migrated_url,
    postgres_url,
    rules,
)

__all__ = ["database", "migrated_url", "postgres_url"]

KEYS = SIGNER.public_keys


@pytest.fixture
async def file(database: Database, tmp_path: Path) -> Path:
    """Six entries, of which the first and the last are signed."""
    ledger = EgressLedger(database, SECRET, rules())
    for _ in range(3):
        await ledger.arrive(await ledger.depart(facts(), b"body"), ArrivalFacts("ok"))
    await ledger.close()
    path = tmp_path / "export.jsonl"
    path.write_bytes(b"".join([line async for line in export(database)]))
    return path


def rewrite(file: Path, kept: list[bytes]) -> None:
    file.write_bytes(b"".join(kept))


async def test_export_has_every_row(file: Path) -> None:
    kinds = [orjson.loads(line)["kind"] for line in lines(file)]
    assert kinds == ["checkpoint"] * 2 + ["departure", "arrival"] * 3
    assert verify_file(file, KEYS) == Report(6, 6, None)


async def test_edited_line_is_located(file: Path) -> None:
    rewrite(file, [line.replace(b"somebody", b"nobody") for line in lines(file)])
    assert str(verify_file(file, KEYS).fault).startswith("entry 1: changed")


@pytest.mark.parametrize(
    ("line", "told"),
    [(2, "entry 1: missing"), (4, "entry 3: missing"), (7, "entry 6: missing at the end")],
)
async def test_line_that_was_taken_out_is_located(file: Path, line: int, told: str) -> None:
    kept = lines(file)
    del kept[line]
    rewrite(file, kept)
    assert str(verify_file(file, KEYS).fault).startswith(told)


async def test_file_that_was_cut_short_is_found(file: Path) -> None:
    kept = lines(file)
    for count in range(2, len(kept)):
        rewrite(file, kept[:count])
        assert "missing" in str(verify_file(file, KEYS).fault)


async def test_lines_in_another_order_are_located(file: Path) -> None:
    kept = lines(file)
    kept[3], kept[5] = kept[5], kept[3]
    rewrite(file, kept)
    assert str(verify_file(file, KEYS).fault).startswith("entries 2 to 3: missing; 4")


@pytest.mark.parametrize("text", [b"\n", b"{", b"[]", b"7", b"{}", b'{"kind":"checkpoint"}'])
async def test_line_of_another_form_is_named(file: Path, text: bytes) -> None:
    kept = lines(file)
    rewrite(file, [*kept[:4], text.rstrip(b"\n") + b"\n", *kept[4:]])
    with pytest.raises(LedgerFileInvalid, match="line 5"):
        verify_file(file, KEYS)


async def test_export_signed_by_another_is_refused(file: Path) -> None:
    told = str(verify_file(file, OTHER_SIGNER.public_keys).fault)
    assert told == "entry 1: the checkpoint there is of an unknown key"


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LedgerFileInvalid, match="No such file"):
        verify_file(tmp_path / "missing", KEYS)
