"""The root command: sub-commands, and one sentence for each expected failure."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from serving.cli.commands import (
    bench,
    budgets,
    chat,
    config,
    doctor,
    drift,
    ingest,
    keys,
    ledger,
    limits,
    models,
    receipt,
    reembed,
    serve,
    tenants,
    usage,
)
from serving.config import ConfigError

app = typer.Typer(
    name="ringfence",
    help="A private LLM inference backend: your models, on your machines, behind the OpenAI API.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("serve")(serve.serve)
app.command("chat")(chat.chat)
app.command("bench")(bench.bench)
app.command("doctor")(doctor.doctor)
app.command("usage")(usage.usage)
app.command("ingest")(ingest.ingest)
app.command("reembed")(reembed.reembed)
app.command("drift")(drift.drift)
app.add_typer(keys.keys_app, name="keys")
app.add_typer(tenants.tenants_app, name="tenants")
app.add_typer(limits.limits_app, name="limits")
app.add_typer(budgets.budgets_app, name="budgets")
app.add_typer(models.models_app, name="models")
app.add_typer(config.config_app, name="config")
app.add_typer(ledger.ledger_app, name="ledger")
app.add_typer(receipt.receipt_app, name="receipt")


@app.callback(invoke_without_command=True)
def _root(
    *, show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if show_version:
        typer.echo(version("ringfence"))
        raise typer.Exit


def main() -> None:
    """Run the command line. Each mistake in the configuration is one line; exit code 1."""
    try:
        app()
    except ConfigError as error:
        for problem in error.problems:
            typer.echo(f"ringfence: {problem}", err=True)
        sys.exit(1)
