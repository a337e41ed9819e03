"""`ringfence tenants`, `limits`, `budgets` and `usage` against a live admin API."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from serving.accounting.usage import UsageRow
from serving.domain.quota import Spent
from serving.storage.errors import DatabaseUnavailable
from tests.serving.cli.conftest import Run
from tests.serving.live import listening
from tests.serving.managed import Managed, database, managed, managed_store

__all__ = ["database", "managed", "managed_store"]

Write = Callable[[str], str]
Ask = Callable[..., Awaitable[Result]]
ROOT = Path(__file__).parents[3]
ROW = UsageRow({"day": "2026-11-01", "model": "chat"}, 3, 1, 30, 10, 7, 12_345_678, 1234.5)
COMMANDS = (
    ("tenants", "list"),
    ("tenants", "create", "new"),
    ("tenants", "set", "acme", "--weight", "2"),
    ("tenants", "delete", "acme", "--yes"),
    ("limits", "list"),
    ("limits", "set", "tenant", "acme", "--tokens-per-minute", "1"),
    ("limits", "remove", "tenant", "acme"),
    ("budgets", "list"),
    ("budgets", "set", "tenant", "acme", "--day", "1"),
    ("budgets", "remove", "tenant", "acme"),
    ("usage",),
)


@pytest.fixture
async def port(managed: Managed) -> AsyncIterator[int]:
    async with listening(managed.app) as bound:
        yield bound


@pytest.fixture
def config(port: int, config_file: Write) -> str:
    return config_file(f"server: {{port: {port}}}\nmodels: [simulated]")


@pytest.fixture
def ask(run: Run, managed: Managed, config: str, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Run a command in a thread, beside the server that it calls."""
    monkeypatch.setenv("RINGFENCE_ADMIN_KEY", managed.key)
    monkeypatch.setenv("RINGFENCE_CONFIG", config)

    async def call(*arguments: str, code: int = 0, text: str | None = None) -> Result:
        return await asyncio.to_thread(lambda: run(*arguments, code=code, text=text))

    return call


def lines(result: Result) -> list[list[str]]:
    return [line.split("\t") for line in result.stdout.splitlines()]


async def test_tenants_are_listed_with_their_weight(ask: Ask) -> None:
    shown = lines(await ask("tenants", "list"))
    assert shown[0] == ["name", "weight", "created_at"]
    assert [row[:2] for row in shown[1:]] == [["acme", "1.0"], ["ops", "1.0"]]


async def test_list_follows_every_page(ask: Ask, managed: Managed) -> None:
    for at in range(120):
        await managed.administration.tenants.create(f"tenant-{at:03}")
    assert len(json.loads((await ask("tenants", "list", "--json")).stdout)) == 122


async def test_tenant_is_created_weighed_and_deleted(ask: Ask, managed: Managed) -> None:
    await ask("tenants", "create", "new", "--weight", "2.5")
    assert (await managed.administration.tenants.get("new")).weight == 2.5
    await ask("tenants", "set", "new", "--weight", "4")
    assert (await managed.administration.tenants.get("new")).weight == 4
    await ask("tenants", "delete", "new", text="y\n")
    names = [tenant.name for tenant in await managed.administration.tenants.list()]
    assert names == ["acme", "ops"]


@pytest.mark.parametrize("answer", ["n\n", "", "\n"])
async def test_tenant_is_not_deleted_unless_confirmed(
    ask: Ask, managed: Managed, answer: str
) -> None:
    await ask("tenants", "delete", "acme", text=answer, code=1)
    assert len(await managed.administration.tenants.list()) == 2


async def test_limits_are_set_listed_and_removed(ask: Ask) -> None:
    header = ["kind", "subject", "limit", "value", "without_store"]
    path = ("model", "org/large")
    shown = await ask("limits", "set", *path, "--requests-per-minute", "6", "--tokens-per-minute",
                      "0", "--without-store", "refuse")  # fmt: skip
    rows = [
        ["model", "org/large", "requests_per_minute", "6", "refuse"],
        ["model", "org/large", "tokens_per_minute", "0", "refuse"],
    ]
    assert lines(shown) == [header, *rows]
    assert lines(await ask("limits", "list")) == [header, *rows]
    await ask("limits", "remove", *path, "tokens_per_minute")
    assert lines(await ask("limits", "list")) == [header, rows[0]]
    await ask("limits", "remove", *path)
    assert lines(await ask("limits", "list")) == [header]


async def test_every_limit_has_an_option(ask: Ask, managed: Managed) -> None:
    await ask("limits", "set", "key", managed.other_id, "--requests-per-minute", "1",
              "--tokens-per-minute", "2", "--concurrent-requests", "3",
              "--tokens-per-request", "4")  # fmt: skip
    found = await managed.data("GET", f"/limits/key/{managed.other_id}")
    assert [found[name]["value"] for name in (
        "requests_per_minute", "tokens_per_minute", "concurrent_requests", "tokens_per_request",
    )] == [1, 2, 3, 4]  # fmt: skip


async def test_budgets_are_set_listed_and_removed(ask: Ask, managed: Managed) -> None:
    managed.spending.spent["tenant:acme", "day"] = Spent(250_000_000, 1)
    header = ["kind", "subject", "window", "amount", "spent", "reserved", "currency"]
    await ask("budgets", "set", "tenant", "acme", "--day", "2.5", "--total", "9007199.254740991")
    rows = [
        ["tenant", "acme", "day", "2.5", "0.25", "0.000000001", "USD"],
        ["tenant", "acme", "total", "9007199.254740991", "0", "0", "USD"],
    ]
    assert [row[:-1] for row in lines(await ask("budgets", "list"))] == [header, *rows]
    await ask("budgets", "remove", "tenant", "acme", "day")
    assert [row[:-1] for row in lines(await ask("budgets", "list"))] == [header, rows[1]]
    await ask("budgets", "remove", "tenant", "acme")
    assert len(lines(await ask("budgets", "list"))) == 1


async def test_usage_is_shown_by_group(ask: Ask, managed: Managed) -> None:
    managed.usage.rows = [ROW]
    shown = lines(await ask("usage", "--by", "day,model"))
    assert shown == [
        ["day", "model", "requests", "failed", "prompt_tokens", "cached_tokens",
         "completion_tokens", "cost", "duration_ms"],
        ["2026-11-01", "chat", "3", "1", "30", "10", "7", "0.012345678 USD", "1234.5"],
    ]  # fmt: skip


async def test_usage_as_json_and_csv_is_what_the_server_says(ask: Ask, managed: Managed) -> None:
    managed.usage.rows = [ROW]
    by = ("usage", "--by", "day,model")
    report = json.loads((await ask(*by, "--json")).stdout)
    assert report == await managed.data("GET", "/usage", group_by="day,model")
    text = (await ask(*by, "--csv")).stdout
    assert text.replace("\r", "") == (
        await managed.call("GET", "/usage", group_by="day,model", format="csv")
    ).text.replace("\r", "")


async def test_filters_of_usage_reach_the_report(ask: Ask, managed: Managed) -> None:
    await ask("usage", "--since", "2026-11-01", "--until", "2026-11-30", "--tenant", "acme",
              "--key", "abc", "--model", "org/large", "--by", "")  # fmt: skip
    (asked,) = managed.usage.asked
    told = {name: str(value) for name, value in asked.items()}
    assert told == {
        "group_by": "[]", "since": "2026-11-01", "until": "2026-11-30", "tenant": "acme",
        "key_id": "abc", "model": "org/large",
    }  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
async def test_every_command_prints_json_on_request(
    ask: Ask, managed: Managed, command: tuple[str, ...]
) -> None:
    await managed.data("PUT", "/limits/tenant/acme", {"tokens_per_minute": 1})
    await managed.data("PUT", "/budgets/tenant/acme", {"day": 1})
    json.loads((await ask(*command, "--json")).stdout)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_says_which_server_does_not_answer(
    run: Run, config_file: Write, command: tuple[str, ...]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    file = config_file(f"server: {{port: {port}}}\nmodels: [simulated]")
    told = run(*command, "-c", file, "--admin-key", "k", code=1).stderr
    assert told == (
        f"ringfence: no server answers at http://127.0.0.1:{port} (ConnectError). `ringfence "
        "serve` must run there; --url or RINGFENCE_URL names another.\n"
    )


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
async def test_every_command_says_how_to_get_a_key(
    ask: Ask, managed: Managed, command: tuple[str, ...]
) -> None:
    for key in ("wrong", managed.other):
        told = (await ask(*command, "--admin-key", key, code=1)).stderr
        assert told.count("\n") == 1
        assert "`ringfence keys create --admin" in told


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("tenants", "create", "acme"), 1, "'acme' exists already"),
        (("tenants", "create", "a b"), 2, "name: "),
        (("tenants", "create", "new", "--weight", "0"), 2, "weight: "),
        (("tenants", "set", "nobody", "--weight", "1"), 1, "No tenant 'nobody'"),
        (("tenants", "delete", "a/../b", "--yes"), 1, ""),
        (("limits", "set", "tenant", "acme"), 2, "Nothing to change"),
        (("limits", "set", "model", "nope", "--tokens-per-minute", "1"), 1, "'nope'"),
        (("limits", "remove", "tenant", "acme"), 1, "tenant 'acme'"),
        (("limits", "remove", "tenant", "acme", "speed"), 2, "speed: "),
        (("budgets", "set", "tenant", "acme", "--day", "much"), 2, "day.amount: "),
        (("budgets", "remove", "key", "000000000000", "day"), 1, "000000000000"),
        (("usage", "--by", "hour"), 2, "group_by: "),
        (("usage", "--since", "yesterday"), 2, "since: "),
    ],
)
async def test_refusal_is_one_line_and_ends_with_its_code(
    ask: Ask, arguments: tuple[str, ...], code: int, told: str
) -> None:
    result = await ask(*arguments, code=code)
    assert (result.stdout, result.stderr.count("\n")) == ("", 1)
    assert result.stderr.startswith("ringfence: ")
    assert told in result.stderr


async def test_failure_of_the_server_is_one_line(ask: Ask, managed: Managed) -> None:
    managed.usage.error = DatabaseUnavailable("x")
    assert "Try again soon" in (await ask("usage", code=1)).stderr


async def test_answer_that_is_no_api_s_is_told_by_its_status(run: Run) -> None:
    async def page(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 502, "headers": []})
        await send({"type": "http.response.body", "body": b"<html>"})

    async with listening(page) as port:
        url = f"http://127.0.0.1:{port}"
        command = ["usage", "--url", url, "--admin-key", "k"]
        result = await asyncio.to_thread(lambda: run(*command, code=1))
    assert result.stderr == "ringfence: the server at 127.0.0.1 answered 502\n"


@pytest.fixture
def kept(home: Path, managed: Managed) -> None:
    home.mkdir()
    (home / "admin-key").write_text(managed.key + "\n")


@pytest.mark.usefixtures("kept")
async def test_key_of_the_first_start_is_used(run: Run, config: str) -> None:
    result = await asyncio.to_thread(run, "tenants", "list", "-c", config)
    assert "acme" in result.stdout


@pytest.mark.usefixtures("kept")
async def test_key_of_the_first_start_goes_to_no_other_server(run: Run, port: int) -> None:
    url = f"http://127.0.0.1:{port}"
    told = (await asyncio.to_thread(lambda: run("tenants", "list", "--url", url, code=1))).stderr
    assert told.startswith(f"ringfence: no admin key for {url}. ")


async def test_other_server_is_named_by_its_url(
    run: Run, managed: Managed, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("RINGFENCE_URL", f"http://127.0.0.1:{port}/")
    result = await asyncio.to_thread(run, "tenants", "list", "--admin-key", managed.key)
    assert "acme" in result.stdout


def test_missing_key_is_told_with_a_remedy(run: Run) -> None:
    told = run("tenants", "list", code=1).stderr
    assert told.count("\n") == 1
    assert "RINGFENCE_ADMIN_KEY" in told


def test_url_or_key_that_can_be_none_is_a_usage_error(run: Run) -> None:
    told = run("usage", "--url", "http://[::", "--admin-key", "k", code=2).stderr
    assert "is not a URL" in told
    assert "no key has" in run("usage", "--admin-key", "ключ", code=2).stderr


def test_wrong_configuration_is_one_line(run: Run, config_file: Write) -> None:
    told = run("usage", "-c", config_file("serverr: {}"), code=1).stderr
    assert told.startswith("ringfence: serverr: unknown key")


async def test_proxy_of_the_environment_is_not_asked(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert "acme" in (await ask("tenants", "list")).stdout


async def test_list_on_a_terminal_is_a_table(managed: Managed, config: str) -> None:
    ours, theirs = pty.openpty()
    environment = {
        **os.environ, "COLUMNS": "80", "TERM": "xterm", "RINGFENCE_ADMIN_KEY": managed.key,
    }  # fmt: skip
    await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "serving.cli", "tenants", "list", "-c", config],
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
    assert max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in shown.splitlines()) <= 80
