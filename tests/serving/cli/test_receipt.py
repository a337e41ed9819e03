"""`ringfence receipt`: what a receipt says, checked without any server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serving.egress.ledger.receipts import Departed, Receipt, Receipts
from serving.egress.ledger.signing import Signer
from tests.serving.cli.conftest import Run
from tests.serving.egress.ledgers import OTHER_SIGNER, SIGNER

INSIDE = Receipt(iat=1_800_000_000, request_id="req_1", model="m", route="local", privacy="open")
OUTSIDE = Receipt(
    iat=1_800_000_000,
    request_id="req_2",
    model="m",
    route="overflow:somebody",
    privacy="scrubbed",
    departures=(
        Departed(
            provider="somebody",
            host="api.somebody.example",
            body_bytes=1234,
            body_hmac="ab" * 32,
            privacy="scrubbed",
            entities={"PERSON": 2},
            policy="p1",
            sequence=7,
            hash="cd" * 32,
        ),
    ),
)


@pytest.fixture
def public_key(tmp_path: Path) -> str:
    path = tmp_path / "public.pem"
    path.write_text(SIGNER.public_pem, "ascii")
    return str(path)


def test_receipt_of_a_local_answer_says_that_it_stayed_inside(run: Run, public_key: str) -> None:
    token = Receipts(SIGNER).issue(INSIDE)
    told = run("receipt", "verify", token, "--public-key", public_key).stdout
    assert told.startswith("stayed inside")
    assert "2027-01-15T08:00:00+00:00" in told


def test_receipt_of_overflow_says_what_left_and_to_whom(run: Run, public_key: str) -> None:
    token = Receipts(SIGNER).issue(OUTSIDE)
    told = run("receipt", "verify", token, "--public-key", public_key).stdout
    assert "stayed inside" not in told
    for fact in ("somebody (api.somebody.example): 1234 bytes", "PERSON 2", "ledger entry 7"):
        assert fact in told


def test_receipt_may_come_from_standard_input(run: Run, public_key: str) -> None:
    token = Receipts(SIGNER).issue(INSIDE) + "\n"
    for arguments in (["-"], []):
        told = run("receipt", "verify", *arguments, "--public-key", public_key, text=token).stdout
        assert told.startswith("stayed inside")


def test_receipt_is_told_as_json(run: Run, public_key: str) -> None:
    token = Receipts(SIGNER).issue(OUTSIDE)
    told = json.loads(run("receipt", "verify", token, "--public-key", public_key, "--json").stdout)
    assert told == OUTSIDE.model_dump(mode="json")


@pytest.mark.parametrize(
    "token",
    [
        Receipts(OTHER_SIGNER).issue(INSIDE),
        Receipts(SIGNER).issue(INSIDE)[:-2] + "AA",
        "nonsense",
        "ü",
        "",
    ],
)
def test_receipt_that_proves_nothing_ends_with_one(run: Run, public_key: str, token: str) -> None:
    result = run("receipt", "verify", token, "--public-key", public_key, code=1)
    assert (result.stdout, result.stderr.count("\n")) == ("", 1)
    assert result.stderr.startswith("ringfence: ")


def test_public_key_verifies_what_this_server_signs(run: Run, home: Path, tmp_path: Path) -> None:
    path = tmp_path / "printed.pem"
    path.write_text(run("receipt", "public-key").stdout, "ascii")
    token = Receipts(Signer.load(home / "signing-key.pem")).issue(INSIDE)
    for key in (["--public-key", str(path)], []):
        assert run("receipt", "verify", token, *key).stdout.startswith("stayed inside")
    assert run("receipt", "public-key").stdout == path.read_text("ascii")


@pytest.mark.usefixtures("home")
def test_verification_without_any_key_says_what_to_give(run: Run) -> None:
    token = Receipts(SIGNER).issue(INSIDE)
    assert "--public-key" in run("receipt", "verify", token, code=1).stderr


def test_unsafe_signing_key_is_refused(run: Run, home: Path) -> None:
    run("receipt", "public-key")
    (home / "signing-key.pem").chmod(0o644)
    assert "0644" in run("receipt", "public-key", code=1).stderr
