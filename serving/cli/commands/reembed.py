"""`ringfence reembed`: new vectors for a vector store by another embedder, without downtime."""

from __future__ import annotations

import json
import sys
import time
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from serving.cli.clients.admin import AdminClient, AdminKeyOption, administration, path_of
from serving.cli.clients.api import CallFailed
from serving.cli.options import ConfigOption, JsonOption, UrlOption
from serving.cli.progress import console

_POLL_S = 0.5
_ENDED = ("swapped", "failed", "none")


def reembed(
    *,
    store: Annotated[str, typer.Option(help="The vector store's id.")],
    model: Annotated[str | None, typer.Option("--model", "-m", help="The new embedder.")] = None,
    force: Annotated[
        bool, typer.Option(help="Even if nothing would change or less is found.")
    ] = False,
    rollback: Annotated[bool, typer.Option(help="Go back to the vectors of before.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    url: UrlOption = None,
    admin_key: AdminKeyOption = None,
) -> None:
    """Re-embed a vector store; searches go on meanwhile. Ctrl-C leaves it running."""
    if rollback == (model is not None):
        raise typer.BadParameter("give either --model or --rollback")
    with administration(config, url=url, key=admin_key) as admin:
        if rollback:
            admin.call("POST", path_of("vector_stores", store, "rollback"), {})
        else:
            body = {"model": model, "force": force}
            admin.call("POST", path_of("vector_stores", store, "reembed"), body)
        try:
            state = _followed(admin, store)
        except KeyboardInterrupt:
            typer.echo("ringfence: it goes on without this command; call it again to see", err=True)
            raise typer.Exit(130) from None
        _tell(state, as_json=as_json)


def _followed(admin: AdminClient, store: str) -> dict[str, Any]:
    """The state when it has ended. Waits as long as the server says that it goes on."""
    columns = (TextColumn("re-embedding"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("files", total=None)
        while True:
            state = admin.call("GET", path_of("vector_stores", store, "reembed"))
            bar.update(task, completed=state["done"], total=state["total"])
            if state["phase"] in _ENDED:
                return state
            time.sleep(_POLL_S)


def _tell(state: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(state))
    if state["phase"] != "swapped":
        raise CallFailed(state["error"] or "it ended before it was done; call it again")
    if as_json:
        return
    typer.echo(f"{state['store']} is searched by {state['model']} now.")
    if recall := state["recall"]:
        typer.echo(
            f"Of {recall['queries']} of its chunks, found among the first 10: "
            f"{_percent(recall['found_after'])}, before {_percent(recall['found_before'])}. "
            f"Agreement of the first 10: {_percent(recall['overlap'])}."
        )


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.1%}"
