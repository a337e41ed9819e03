"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", envvar="RINGFENCE_CONFIG", help="Path of ringfence.yaml."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for a script.")]
UrlOption = Annotated[
    str | None,
    typer.Option("--url", envvar="RINGFENCE_URL", help="Base URL, if not this machine's."),
]
KeyOption = Annotated[
    str | None,
    typer.Option("--key", envvar="RINGFENCE_API_KEY", show_envvar=True, help="API key."),
]
