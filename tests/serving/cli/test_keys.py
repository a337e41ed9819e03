import asyncio
import json
import os
import pty
import re
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner, Result

from serving.access import audit
from serving.access.authenticator import Authenticator
from serving.access.keys import KeyStore
from serving.access.secret import load_or_create_secret
from serving.cli.commands.keys import keys_app
from serving.domain.errors import InvalidKey
from serving.domain.principal import Principal
from serving.storage.database import Database

ROOT = Path(__file__).parents[3]
KEY = re.compile(r"sk-rf(admin)?-[0-9A-Za-z]{12}-[0-9A-Za-z]{43}")


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(keys_app, list(arguments))
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def run_json(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json").stdout)


def create(*arguments: str) -> Any:
    return run_json("create", "--tenant", "acme", "--name", "ci", *arguments)


def authenticate(home: Path, key: str) -> Principal:
    async def check() -> Principal:
        database = Database.open(f"sqlite:///{home}/ringfence.db")
        secret = load_or_create_secret(home / "secret")
        try:
            checking = Authenticator(KeyStore(database, secret), secret, fixed_key=None)
            return await checking.authenticate_key(key)
        finally:
            await database.close()

    return asyncio.run(check())


@pytest.mark.usefixtures("home")
def test_create_prints_the_key_alone_and_says_it_is_shown_once() -> None:
    result = run("create", "--tenant", "acme", "--name", "ci")
    assert KEY.fullmatch(result.stdout.removesuffix("\n"))
    assert "'ci'" in result.stderr
    assert "shown only once" in result.stderr


def test_created_key_is_accepted_with_its_rights(home: Path) -> None:
    made = create("--model", "m1", "--model", "org/m2", "--group", "hr", "--user", "ann")
    principal = authenticate(home, made["key"])
    assert principal == Principal(
        tenant="acme",
        key_id=made["id"],
        key_name="ci",
        role="inference",
        allowed_models=frozenset({"m1", "org/m2"}),
        groups=frozenset({"hr"}),
        user="ann",
    )


def test_admin_key_is_made_on_request(home: Path) -> None:
    assert authenticate(home, create("--admin")["key"]).role == "admin"


def test_state_is_made_private(home: Path) -> None:
    create()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (home, *home.iterdir())}
    assert modes == {"home": 0o700, "ringfence.db": 0o600, "secret": 0o600}


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("text", "away"),
    [
        ("90s", timedelta(seconds=90)),
        ("15m", timedelta(minutes=15)),
        ("12h", timedelta(hours=12)),
        ("30d", timedelta(days=30)),
        ("2w", timedelta(weeks=2)),
    ],
)
def test_expiry_may_be_a_duration(text: str, away: timedelta) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    expires = datetime.fromisoformat(create("--expires", text)["expires_at"])
    assert before + away <= expires <= datetime.now(UTC) + away


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("text", "expires_at"),
    [
        ("2099-01-31", "2099-01-31T00:00:00+00:00"),
        ("2099-01-31T12:00:00+02:00", "2099-01-31T10:00:00+00:00"),
    ],
)
def test_expiry_may_be_a_date(text: str, expires_at: str) -> None:
    create("--expires", text)
    assert [row["expires_at"] for row in run_json("list")] == [expires_at]


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("text", ["", "soon", "30", "30y", "-1d", "2027-02-30", "1999-01-01"])
def test_expiry_that_makes_no_sense_is_a_usage_error(text: str) -> None:
    run("create", "--tenant", "acme", "--name", "ci", "--expires", text, code=2)
    assert run_json("list") == []


@pytest.mark.usefixtures("home")
def test_wrong_usage_ends_with_two() -> None:
    run("create", "--tenant", "acme", code=2)
    run("create", "--tenant", "a b", "--name", "ci", code=2)
    run("rotate", "ci", "--grace", "long", code=2)
    run("rotate", "ci", "--grace", "99w", code=2)
    run("nonsense", code=2)


@pytest.mark.usefixtures("home")
def test_failure_is_one_line_on_standard_error() -> None:
    create()
    for arguments in [
        ("create", "--tenant", "acme", "--name", "ci"),
        ("revoke", "nothing"),
        ("rotate", "nothing", "--json"),
        ("list", "--config", "/nowhere/ringfence.yaml"),
    ]:
        result = run(*arguments, code=1)
        assert (result.stdout, result.stderr.count("\n")) == ("", 1)
        assert result.stderr.startswith("ringfence: ")


@pytest.mark.usefixtures("home")
def test_list_shows_every_key_and_the_text_of_none() -> None:
    made = create()
    run("create", "--tenant", "umbrella", "--name", "ops")
    run("revoke", "ops")
    plain, as_json = run("list").stdout, run("list", "--json").stdout
    rows = [line.split("\t") for line in plain.splitlines()]
    assert [row[1:5] for row in rows] == [
        ["tenant", "name", "role", "status"],
        ["acme", "ci", "inference", "active"],
        ["umbrella", "ops", "inference", "revoked"],
    ]
    assert made["key"][-43:-4] not in plain + as_json
    assert "digest" not in plain + as_json


@pytest.mark.usefixtures("home")
def test_list_of_one_tenant_leaves_out_the_others() -> None:
    create()
    run("create", "--tenant", "umbrella", "--name", "ops")
    assert [row["name"] for row in run_json("list", "--tenant", "umbrella")] == ["ops"]


@pytest.mark.usefixtures("home")
def test_output_without_a_terminal_is_plain() -> None:
    create()
    assert run("list").stdout.isascii()
    assert "\x1b" not in run("list").output + run("revoke", "ci").output


@pytest.mark.usefixtures("home")
def test_list_on_a_terminal_is_a_table_with_whole_ids() -> None:
    made = create()
    ours, theirs = pty.openpty()
    code = "from serving.cli.commands.keys import keys_app; keys_app()"
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
    subprocess.run(
        [sys.executable, "-c", code, "list"],
        cwd=ROOT,
        env=environment,
        stdout=theirs,
        timeout=120,
        check=True,
    )
    os.close(theirs)
    shown = os.read(ours, 65_536).decode()
    os.close(ours)
    assert "┃" in shown
    assert made["id"] in shown
    width = {len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in shown.splitlines()}
    assert max(width) <= 80


def test_revoked_key_is_refused(home: Path) -> None:
    made = create()
    result = run("revoke", made["id"])
    assert "refuse it from now on" in result.stdout
    with pytest.raises(InvalidKey):
        authenticate(home, made["key"])


def test_rotated_key_replaces_the_old(home: Path) -> None:
    old = create("--model", "m1")
    new = run_json("rotate", old["id"])
    assert (new["rotated_from"], new["models"]) == (old["id"], ["m1"])
    assert authenticate(home, new["key"]).key_id == new["id"]
    with pytest.raises(InvalidKey):
        authenticate(home, old["key"])


def test_rotation_with_grace_leaves_the_old_key_working(home: Path) -> None:
    old = create()
    result = run("rotate", "ci", "--grace", "1h")
    assert KEY.fullmatch(result.stdout.removesuffix("\n"))
    assert authenticate(home, old["key"]).key_id == old["id"]
    assert {row["id"]: row["status"] for row in run_json("list")}[old["id"]] == "retiring"


def test_database_and_secret_come_from_the_configuration(
    home: Path, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "secret-of-the-configuration-0123456789"
    monkeypatch.setenv("THE_SECRET", secret)
    config = tmp_path / "ringfence.yaml"
    config.write_text(f"access:\n  database: {database_url}\n  secret: ${{THE_SECRET}}\n", "utf-8")
    monkeypatch.setenv("RINGFENCE_CONFIG", str(config))
    made = create()

    async def check() -> Principal:
        database = Database.open(database_url)
        store = KeyStore(database, SecretStr(secret))
        try:
            checking = Authenticator(store, SecretStr(secret), fixed_key=None)
            return await checking.authenticate_key(made["key"])
        finally:
            await database.close()

    assert asyncio.run(check()).key_id == made["id"]
    assert not home.exists()


def test_unsafe_secret_file_is_an_operational_error(home: Path) -> None:
    create()
    (home / "secret").chmod(0o644)
    assert "0644" in run("list", code=1).stderr


@pytest.mark.usefixtures("home")
def test_database_that_is_away_is_an_operational_error(tmp_path: Path) -> None:
    config = tmp_path / "ringfence.yaml"
    config.write_text("access:\n  database: postgresql://u:hidden@127.0.0.1:1/x\n", "utf-8")
    result = run("list", "--config", str(config), code=1)
    assert "unavailable" in result.stderr
    assert "hidden" not in result.stderr


def test_every_change_is_audited_as_the_command_s(home: Path) -> None:
    create()
    run("rotate", "ci")
    run("revoke", "ci")

    async def told() -> list[tuple[str, str]]:
        database = Database.open(f"sqlite:///{home}/ringfence.db")
        try:
            events = await audit.events(database, limit=10)
        finally:
            await database.close()
        return [(event.actor, event.action) for event in reversed(events)]

    assert asyncio.run(told()) == [
        ("command", action)
        for action in ("tenant.create", "key.create", "key.rotate", "key.revoke")
    ]
