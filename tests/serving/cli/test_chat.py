"""`ringfence chat` against a live gateway."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from models.engine import EngineFailed, EngineOverloaded
from tests.serving.cli.conftest import Run
from tests.serving.conftest import FIXED_KEY, Make
from tests.serving.fakes import HELLO, ROLE, WHOLE, ScriptedEngine
from tests.serving.live import listening

Write = Callable[[str], str]
CONFIG = "server: {port: %d}\nmodels: [{base: simulated, id: chat}]"


@pytest.fixture
def ask(run: Run, config_file: Write, make: Make) -> Any:
    """Run `ringfence chat` in a thread, beside the gateway that it calls."""

    async def call(
        engine: ScriptedEngine, *arguments: str, code: int = 0, text: str | None = None,
        key: str = FIXED_KEY,
    ) -> Result:  # fmt: skip
        async with listening(make(engine).app) as port:
            file = config_file(CONFIG % port)
            command = ["chat", *arguments, "-c", file, "--key", key]
            return await asyncio.to_thread(lambda: run(*command, code=code, text=text))

    return call


async def test_answer_is_printed_alone(ask: Any) -> None:
    result = await ask(ScriptedEngine(*WHOLE), "Hi")
    assert (result.stdout, result.stderr) == ("Hello\n", "")


async def test_question_and_options_reach_the_engine(ask: Any) -> None:
    engine = ScriptedEngine(*WHOLE)
    await ask(engine, "Hi", "--max-tokens", "7")
    body = engine.requests[0].body
    assert (body["messages"], body["max_tokens"]) == ([{"role": "user", "content": "Hi"}], 7)


async def test_conversation_goes_on_with_what_was_said(ask: Any) -> None:
    engine = ScriptedEngine(*WHOLE)
    result = await ask(engine, text="Hi\n\n  And?  \n")
    assert result.stdout == "Hello\nHello\n"
    assert engine.requests[1].body["messages"] == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "And?"},
    ]


@pytest.mark.parametrize(
    ("engine", "told"),
    [
        (ScriptedEngine(EngineOverloaded("Busy.")), "ringfence: Busy.\n"),
        (ScriptedEngine(ROLE, HELLO, EngineFailed("Broke.")), "ringfence: Broke.\n"),
    ],
    ids=["before", "in_the_stream"],
)
async def test_failure_is_told_in_one_line(ask: Any, engine: ScriptedEngine, told: str) -> None:
    assert (await ask(engine, "Hi", code=1)).stderr == told


async def test_wrong_key_is_told(ask: Any) -> None:
    result = await ask(ScriptedEngine(*WHOLE), "Hi", code=1, key="wrong")
    assert result.stderr == "ringfence: The API key is not valid.\n"


async def test_unknown_model_is_told(ask: Any) -> None:
    result = await ask(ScriptedEngine(*WHOLE), "Hi", "-m", "nope", code=1)
    assert "'nope' does not exist" in result.stderr


@pytest.fixture
def dead_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy in the environment that refuses every connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")


@pytest.mark.usefixtures("dead_proxy")
async def test_proxy_of_the_environment_is_not_asked(ask: Any) -> None:
    assert (await ask(ScriptedEngine(*WHOLE), "Hi")).stdout == "Hello\n"


@pytest.fixture
def first_key(home: Path) -> str:
    home.mkdir()
    (home / "first-key").write_text(FIXED_KEY + "\n")
    return FIXED_KEY


@pytest.mark.usefixtures("first_key")
async def test_key_of_the_first_start_is_used(make: Make, run: Run, config_file: Write) -> None:
    async with listening(make(ScriptedEngine(*WHOLE)).app) as port:
        file = config_file(CONFIG % port)
        result = await asyncio.to_thread(run, "chat", "Hi", "-c", file)
    assert result.stdout == "Hello\n"


async def test_other_server_is_asked_by_its_url(
    make: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    async with listening(make(ScriptedEngine(*WHOLE)).app) as port:
        url = f"http://127.0.0.1:{port}/"
        command = ["chat", "Hi", "--url", url, "--key", FIXED_KEY, "-m", "chat"]
        result = await asyncio.to_thread(run, *command)
    assert result.stdout == "Hello\n"


def test_server_that_is_not_there_is_told_with_a_remedy(run: Run, config_file: Write) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    told = run("chat", "Hi", "-c", config_file(CONFIG % port), "--key", "k", code=1).stderr
    assert told == (
        f"ringfence: no server answers at http://127.0.0.1:{port} (ConnectError). "
        "Start one with `ringfence serve`.\n"
    )


@pytest.mark.parametrize("url", ["nonsense", "ftp://127.0.0.1"])
def test_url_that_is_not_http_is_told(run: Run, url: str) -> None:
    assert "no server answers" in run("chat", "Hi", "--url", url, "--key", "k", code=1).stderr


def test_url_that_is_none_is_told(run: Run) -> None:
    told = run("chat", "Hi", "--url", "http://[::", "--key", "k", code=2).stderr
    assert "is not a URL" in told


@pytest.mark.parametrize("key", ["ключ", "a\nb"])
def test_key_that_cannot_be_sent_is_refused(run: Run, key: str) -> None:
    assert "characters that no key has" in run("chat", "Hi", "--key", key, code=2).stderr


def test_missing_key_is_told_with_a_remedy(run: Run) -> None:
    assert "RINGFENCE_API_KEY" in run("chat", "Hi", code=2).stderr


def test_configuration_without_a_model_that_generates_is_told(run: Run, config_file: Write) -> None:
    file = config_file("models: [all-minilm-l6-v2]")
    assert "no model that" in run("chat", "Hi", "-c", file, "--key", "k", code=2).stderr
