"""`ringfence chat`: a conversation in the terminal, over the public API like any client."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import httpx
import typer

from serving import config
from serving.cli.clients.api import CallFailed
from serving.cli.first_key import kept_key
from serving.cli.options import ConfigOption, KeyOption, UrlOption
from serving.config import Settings


def chat(
    prompt: Annotated[str | None, typer.Argument(help="One question; without it, ask on.")] = None,
    config_file: ConfigOption = None,
    *,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Which model answers.")] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 512,
) -> None:
    """Talk to a running server; answers stream in. Ctrl-D or Ctrl-C ends."""
    settings = config.load(config_file)
    model = model or _first_model(settings)
    messages: list[dict[str, str]] = []
    key = key or kept_key(settings)
    if key is None:
        raise typer.BadParameter("no key: give --key, or set RINGFENCE_API_KEY")
    with _client(settings, url=url, key=key) as http:
        try:
            for question in [prompt] if prompt else _questions():
                messages.append({"role": "user", "content": question})
                body = {"model": model, "messages": messages, "max_tokens": max_tokens}
                answer = ""
                for piece in _stream(http, body):
                    answer += piece
                    sys.stdout.write(piece)
                    sys.stdout.flush()
                sys.stdout.write("\n")
                messages.append({"role": "assistant", "content": answer})
        except KeyboardInterrupt:
            sys.stdout.write("\n")
        except CallFailed as error:
            typer.echo(f"ringfence: {error}", err=True)
            raise typer.Exit(1) from None


def _client(settings: Settings, *, url: str | None, key: str) -> httpx.Client:
    if not (key.isascii() and key.isprintable()):
        raise typer.BadParameter("the key has characters that no key has")
    base = (url or settings.server.local_url).rstrip("/")
    try:
        return httpx.Client(
            base_url=base,
            headers={"Authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(330, connect=5),
            trust_env=url is not None,  # A proxy of the environment must not see what stays here.
        )
    except httpx.InvalidURL:
        raise typer.BadParameter(f"{base!r} is not a URL") from None


def _questions() -> Iterator[str]:
    """Lines the user types, until the input ends; a prompt on a terminal only."""
    while True:
        if sys.stdin.isatty():
            sys.stderr.write("> ")
            sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def _stream(http: httpx.Client, body: dict[str, Any]) -> Iterator[str]:
    """Pieces of the answer's text."""
    try:
        with http.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as answer:
            if answer.status_code != 200:
                answer.read()
                raise CallFailed(_told(answer))
            yield from _pieces(answer)
    except httpx.HTTPError as error:
        raise CallFailed(
            f"no server answers at {http.base_url} ({type(error).__name__}). "
            "Start one with `ringfence serve`."
        ) from None


def _pieces(answer: httpx.Response) -> Iterator[str]:
    for line in answer.iter_lines():
        if not line.startswith("data: ") or line == "data: [DONE]":
            continue
        event = json.loads(line[6:])
        if "error" in event:
            raise CallFailed(event["error"]["message"])
        for choice in event["choices"]:
            if text := choice["delta"].get("content"):
                yield text


def _told(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered {answer.status_code}"


def _first_model(settings: Settings) -> str:
    model = next((spec.id for spec in settings.models if spec.task == "generate"), None)
    if model is None:
        raise typer.BadParameter("the configuration has no model that generates")
    return model
