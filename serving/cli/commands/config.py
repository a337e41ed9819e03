"""`ringfence config`: check a configuration, print its JSON Schema or Ray Serve's form of it."""

from __future__ import annotations

import json
from typing import Annotated

import typer
import yaml

from models.resources.machine import this_machine
from serving import config
from serving.cli.options import ConfigOption, JsonOption
from serving.ray_cluster.local_models import CannotRun, check_contexts, check_files
from serving.ray_cluster.serve_config import serve_config

config_app = typer.Typer(no_args_is_help=True, help="Check a configuration, or print its schema.")


@config_app.command("check")
def check(
    config_file: ConfigOption = None,
    *,
    elsewhere: Annotated[
        bool, typer.Option("--elsewhere", help="It is for other machines: do not look at this one.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check whether this machine can use the configuration; exit code 1 if it cannot."""
    problems: list[str] = []
    path = config.config_path(config_file)
    try:
        settings = config.load(path)
        if not elsewhere:
            check_files(settings, this_machine())
            check_contexts(settings)
    except (config.ConfigError, CannotRun) as error:
        problems = error.problems
    if as_json:
        typer.echo(json.dumps({"valid": not problems, "problems": problems}))
    elif problems:
        for problem in problems:
            typer.echo(f"ringfence: {problem}", err=True)
    else:
        served = ", ".join(spec.id for spec in settings.models)
        source = str(path) if path else "the built-in configuration"
        typer.echo(f"{source} is valid. It serves {served}.")
    if problems:
        raise typer.Exit(1)


@config_app.command("schema")
def schema() -> None:
    """Print the JSON Schema of ringfence.yaml."""
    typer.echo(json.dumps(config.json_schema(), indent=2))


@config_app.command("serve-config")
def print_serve_config(config_file: ConfigOption = None) -> None:
    """Print the file that `serve deploy` takes for this configuration; secrets stay `${ENV}`."""
    deployed = serve_config(config.read(config.config_path(config_file)))
    typer.echo(yaml.safe_dump(deployed, sort_keys=False, width=100), nl=False)
