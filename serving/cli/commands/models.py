"""`ringfence models`: what the catalogue has and what of it is ready, and explicit downloads."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from models import prepare
from models.catalog import ModelSpec, builtin
from models.conversion import PreparationFailed
from serving import config
from serving.cli.options import ConfigOption, JsonOption
from serving.cli.progress import Phases
from serving.config import Settings

models_app = typer.Typer(no_args_is_help=True, help="List models, or fetch one.")


@models_app.command("list")
def list_models(config_file: ConfigOption = None, *, as_json: JsonOption = False) -> None:
    """List the configured models and the catalogue."""
    settings = config.load(config_file)
    served = {spec.id: spec for spec in settings.models}
    rows = [_row(spec, settings, served=True) for spec in served.values()]
    rows += [_row(s, settings, served=False) for i, s in builtin().items() if i not in served]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table("model", "task", "runs on", "weights", "served", "licence", box=None)
    for row in rows:
        table.add_row(*(str(row[name]) for name in row))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


@models_app.command("pull")
def pull(
    model: Annotated[str, typer.Argument(help="A model of the configuration.")],
    config_file: ConfigOption = None,
) -> None:
    """Fetch a model's weights from Hugging Face. The only command that downloads anything."""
    settings = config.load(config_file)
    spec = settings.model(model) or builtin().get(model)
    if spec is None:
        typer.echo(f"ringfence: {model!r} is neither configured nor in the catalogue", err=True)
        raise typer.Exit(1)
    try:
        with Phases().phase(f"Fetching {model}"):
            path = prepare.prepare(spec, settings.home, allow_download=True)
    except PreparationFailed as error:
        typer.echo(f"ringfence: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(str(path))


def _row(spec: ModelSpec, settings: Settings, *, served: bool) -> dict[str, str]:
    weights = "made up" if spec.simulated else prepare.status(spec, settings.home)
    return {
        "id": spec.id,
        "task": spec.task,
        "runs_on": "simulation" if spec.simulated else f"{spec.engine} on {spec.device}",
        "weights": weights,
        "served": "yes" if served else "no",
        "licence": spec.licence,
    }
