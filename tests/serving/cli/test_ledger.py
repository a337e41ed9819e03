"""`ringfence ledger` on a gateway's database, and on its export."""

from __future__ import annotations

import asyncio
import base64
import json
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from serving.egress.ledger.chain_store import CheckpointRules
from serving.egress.ledger.ledger import ArrivalFacts, DepartureFacts, EgressLedger
from serving.egress.ledger.signing import Signer
from serving.storage.database import Database
from serving.storage.migrate import upgrade
from tests.serving.cli.conftest import Run
from tests.serving.egress.ledgers import OTHER_SIGNER, facts

BODY = b"The canary sings."
OK = ArrivalFacts("ok", 12, 34, 56_000, 789, 1011)


def write(home: Path, *left: tuple[DepartureFacts, ArrivalFacts | None]) -> None:
    """Write entries of attempts like a gateway; one without arrival is of a crashed gateway."""

    async def crossing(ledger: EgressLedger) -> None:
        for departure, arrival in left:
            entry = await ledger.depart(departure, BODY)
            if arrival is not None:
                await ledger.arrive(entry, arrival)

    _as_gateway(home, crossing)


def _as_gateway(home: Path, action: Callable[[EgressLedger], Awaitable[None]]) -> None:
    url = f"sqlite:///{home}/ringfence.db"
    upgrade(url)
    signer = Signer.load_or_create(home / "signing-key.pem")

    async def run() -> None:
        database = Database.open(url)
        file = home / "checkpoints.jsonl"
        ledger = EgressLedger(database, b"s" * 32, CheckpointRules(signer, file=file))
        await action(ledger)
        await ledger.close()
        await database.close()

    asyncio.run(run())


def tamper(home: Path, *statements: str) -> None:
    with closing(sqlite3.connect(home / "ringfence.db")) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


@pytest.fixture
def written(home: Path) -> Path:
    """Three attempts: two ended, the last one did not."""
    write(
        home,
        (facts(), OK),
        (facts(attempt_id="a2"), ArrivalFacts("timeout")),
        (facts(request_id="req_2", attempt_id="a3", tenant="globex"), None),
    )
    return home


def shown(run: Run, *arguments: str) -> list[dict[str, str]]:
    head, *rest = run("ledger", "show", *arguments).stdout.splitlines()
    return [dict(zip(head.split("\t"), line.split("\t"), strict=True)) for line in rest]


@pytest.mark.usefixtures("written")
def test_whole_ledger_is_said_to_be_whole(run: Run) -> None:
    told = run("ledger", "verify").stdout
    assert told == "The ledger is whole: 5 entries, signed up to entry 5.\n"


@pytest.mark.usefixtures("written")
def test_verification_is_told_as_json(run: Run) -> None:
    told = json.loads(run("ledger", "verify", "--json").stdout)
    assert told == {"whole": True, "entries": 5, "signed_to": 5, "fault": None}


def test_broken_ledger_ends_with_one_and_one_line_that_says_where(run: Run, written: Path) -> None:
    tamper(written, "UPDATE egress_entries SET tenant = 'x' WHERE sequence = 3")
    result = run("ledger", "verify", code=1)
    where = "entry 3: changed: its hash is not that of its fields"
    assert (result.stdout, result.stderr) == ("", f"ringfence: the ledger is broken at {where}\n")
    told = json.loads(run("ledger", "verify", "--json", code=1).stdout)
    assert (told["whole"], told["fault"]["first"], told["fault"]["last"]) == (False, 3, 3)


CHANGES: list[tuple[str, str]] = [
    ("UPDATE egress_entries SET facts = 'no json' WHERE sequence = 2", "entry 2: changed"),
    ("UPDATE egress_entries SET hash = x'00' WHERE sequence = 2", "entry 2: changed"),
    ("UPDATE egress_entries SET sequence = 'two' WHERE sequence = 2", "entry 2: missing"),
    ("UPDATE egress_entries SET at = 5 WHERE sequence = 2", "entry 2: changed"),
    ("DELETE FROM egress_entries WHERE sequence = 2", "entry 2: missing"),
    ("DELETE FROM egress_entries WHERE sequence > 2", "entries 3 to 5: missing at the end"),
]


@pytest.mark.parametrize(("statement", "told"), CHANGES)
def test_any_change_of_the_database_is_located(
    run: Run, written: Path, statement: str, told: str
) -> None:
    tamper(written, statement)
    assert f"is broken at {told}" in run("ledger", "verify", code=1).stderr


def test_truncation_with_its_checkpoints_is_found_by_the_file_of_them(
    run: Run, written: Path
) -> None:
    tamper(
        written,
        "DELETE FROM egress_entries WHERE sequence > 2",
        "DELETE FROM egress_checkpoints WHERE sequence > 2",
    )
    run("ledger", "verify")
    kept = str(written / "checkpoints.jsonl")
    told = run("ledger", "verify", "--checkpoint", kept, code=1).stderr
    assert "broken at entries 3 to 5: missing at the end" in told


def test_note_that_a_witness_has_cosigned_finds_the_truncation(
    run: Run, written: Path, tmp_path: Path
) -> None:
    cosigned = tmp_path / "cosigned.note"
    line = "\u2014 witness.example/w1 CMp+6LWBU0anHGH5aNDTJkH/gj79\n"
    cosigned.write_text(run("ledger", "checkpoint").stdout + line, "utf-8")
    run("ledger", "verify", "--checkpoint", str(cosigned))
    tamper(
        written,
        "DELETE FROM egress_entries WHERE sequence > 2",
        "DELETE FROM egress_checkpoints WHERE sequence > 2",
    )
    told = run("ledger", "verify", "--checkpoint", str(cosigned), code=1).stderr
    assert "broken at entries 3 to 5: missing at the end: entry 5 was signed" in told


@pytest.mark.usefixtures("written")
def test_checkpoint_is_printed_as_a_witness_asks_for_it(run: Run) -> None:
    note = run("ledger", "checkpoint").stdout
    name, key_id, _ = run("ledger", "verifier-key").stdout.split("+", 2)
    assert note.startswith(f"{name}\n5\n")
    signature = note.rpartition(f"\n\u2014 {name} ")[2]
    assert base64.b64decode(signature)[:4].hex() == key_id
    asked = run("ledger", "checkpoint", "--since", "3").stdout
    assert asked.startswith("old 3\n")
    assert asked.endswith(f"\n\n{note}")
    assert "from 9 to 5" in run("ledger", "checkpoint", "--since", "9", code=1).stderr


def test_ledger_that_was_never_signed_has_no_checkpoint(run: Run, home: Path) -> None:
    Signer.load_or_create(home / "signing-key.pem")
    assert "nothing was signed yet" in run("ledger", "checkpoint", code=1).stderr


def test_ledger_that_was_never_written_is_empty(run: Run, home: Path) -> None:
    Signer.load_or_create(home / "signing-key.pem")
    assert run("ledger", "verify").stdout == "The ledger is empty.\n"
    assert json.loads(run("ledger", "show", "--json").stdout) == []


@pytest.mark.usefixtures("home")
def test_verification_needs_a_key(run: Run) -> None:
    assert "--public-key" in run("ledger", "verify", code=1).stderr


def test_ledger_that_another_signed_is_not_trusted(run: Run, written: Path, tmp_path: Path) -> None:
    assert written
    (tmp_path / "other.pem").write_text(OTHER_SIGNER.public_pem, "ascii")
    told = run("ledger", "verify", "--public-key", str(tmp_path / "other.pem"), code=1).stderr
    assert "of an unknown key" in told


def test_export_is_verified_offline_with_the_public_key_alone(
    run: Run, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export, key = tmp_path / "export.jsonl", tmp_path / "public.pem"
    export.write_bytes(run("ledger", "export").stdout_bytes)
    key.write_text(run("receipt", "public-key").stdout, "ascii")
    monkeypatch.setenv("RINGFENCE_HOME", str(tmp_path / "elsewhere"))
    offline = ("ledger", "verify", "--file", str(export), "--public-key", str(key))
    assert "5 entries" in run(*offline).stdout
    kept = export.read_bytes()
    export.write_bytes(kept.replace(b"globex", b"acme", 1))
    assert "broken at entry 5: changed" in run(*offline, code=1).stderr
    export.write_bytes(kept.rstrip(b"\n").rpartition(b"\n")[0] + b"\n")
    assert "broken at entry 5: missing" in run(*offline, code=1).stderr
    assert not (tmp_path / "elsewhere").exists()
    assert written.exists()


@pytest.mark.usefixtures("written")
def test_export_has_every_row_and_no_text(run: Run) -> None:
    text = run("ledger", "export").stdout
    kinds = [json.loads(line)["kind"] for line in text.splitlines()]
    assert sorted(set(kinds)) == ["arrival", "checkpoint", "departure"]
    assert (kinds.count("departure"), kinds.count("arrival")) == (3, 2)
    assert "canary" not in text


@pytest.mark.usefixtures("written")
def test_show_tells_what_left_and_how_it_ended(run: Run) -> None:
    first, second, third = shown(run)
    told = ("request_id", "tenant", "provider", "host", "privacy", "entities", "body_bytes")
    assert [first[name] for name in told] == [
        *("req_1", "acme", "somebody", "api.somebody.example", "scrubbed"),
        *("EMAIL:1,PERSON:2", str(len(BODY))),
    ]
    ends = ("outcome", "prompt_tokens", "completion_tokens", "cost", "duration_ms")
    assert [first[name] for name in ends] == ["ok", "12", "34", "0.000056", "1011"]
    assert second["outcome"] == "timeout"
    assert [third[name] for name in ends] == ["no end", "-", "-", "-", "-"]


@pytest.mark.usefixtures("written")
def test_show_is_of_one_request_or_of_the_last_ones(run: Run) -> None:
    def attempts(*arguments: str) -> list[str]:
        told: list[dict[str, Any]] = json.loads(run("ledger", "show", *arguments, "--json").stdout)
        return [one["attempt_id"] for one in told]

    assert attempts() == ["a1", "a2", "a3"]
    assert attempts("--limit", "2") == ["a2", "a3"]
    assert attempts("--request", "req_1") == ["a1", "a2"]
    assert attempts("--request", "nothing") == []
    run("ledger", "show", "--limit", "0", code=2)


@pytest.mark.usefixtures("written")
def test_show_as_json_has_everything_and_no_text(run: Run) -> None:
    text = run("ledger", "show", "--json").stdout
    first, _, third = json.loads(text)
    assert first["arrival"]["cost_nanos"] == 56_000
    assert (first["entities"], len(first["body_hmac"])) == ({"EMAIL": 1, "PERSON": 2}, 64)
    assert third["arrival"] is None
    assert "canary" not in text + run("ledger", "show").stdout


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    "arguments",
    [
        ("verify", "--config", "/nowhere/ringfence.yaml"),
        ("verify", "--public-key", "/nowhere/key.pem"),
        ("show", "--config", "/nowhere/ringfence.yaml"),
        ("export", "--config", "/nowhere/ringfence.yaml"),
    ],
)
def test_failure_is_one_line_on_standard_error(run: Run, arguments: tuple[str, ...]) -> None:
    result = run("ledger", *arguments, code=1)
    assert (result.stdout, result.stderr.count("\n")) == ("", 1)
    assert result.stderr.startswith("ringfence: ")


@pytest.mark.usefixtures("written")
@pytest.mark.parametrize("option", ["--file", "--checkpoint"])
def test_file_that_cannot_be_read_is_named(run: Run, tmp_path: Path, option: str) -> None:
    file = tmp_path / "file"
    assert "No such file" in run("ledger", "verify", option, str(file), code=1).stderr
    file.write_text("nonsense\n", "ascii")
    assert "line 1" in run("ledger", "verify", option, str(file), code=1).stderr
