"""`ringfence bench`: measure a running deployment, this one or any other behind OpenAI's API.

The procedure is `benchmarks.deployment.procedure`'s; options become its plan here, and its result
is shown.
"""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from serving import config
from serving.cli.first_key import kept_key
from serving.cli.options import ConfigOption, UrlOption
from serving.cli.progress import Phases
from serving.config import Settings

if TYPE_CHECKING:
    from benchmarks.client.load_client import Target
    from benchmarks.deployment.plan import BenchPlan
    from benchmarks.deployment.result import Result
    from benchmarks.deployment.step import Limits

_LOOPBACK = {"127.0.0.1", "::1", "localhost"}
_MOST = 10_000
_MOST_WORDS = 100_000


def bench(
    config_file: ConfigOption = None,
    *,
    url: UrlOption = None,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="RINGFENCE_API_KEY", help="API key.", show_envvar=True),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Default: the first that generates.")
    ] = None,
    streams: Annotated[str, typer.Option(help="Closed loop: counts of streams.")] = "1,2,4,8,16,32",
    rates: Annotated[
        str | None,
        typer.Option(help="Open loop: requests/s, or none. Default: 50,70,90,110 % of the knee."),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of each answer.")] = 64,
    prompt_words: Annotated[str, typer.Option(help="Words of a prompt: N or FROM-TO.")] = "30-130",
    goodput: Annotated[
        list[str] | None,
        typer.Option(help="Limits of a good request: ttft:500ms,tpot:50ms,e2e:5s."),
    ] = None,
    duration_s: Annotated[float, typer.Option(min=0.1, help="For how long a step sends.")] = 20.0,
    warm_up: Annotated[int, typer.Option(min=1, help="Requests before the first step.")] = 8,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Of one request.")] = 120.0,
    seed: Annotated[int, typer.Option(help="Of prompts and arrivals.")] = 0,
    out: Annotated[Path, typer.Option(help="Where JSON and HTML go.")] = Path("bench-results"),
) -> None:
    """Measure a running deployment: saturation curve, then arrivals around its knee."""
    from benchmarks.client.prompts import MOST_NUMBERS  # noqa: PLC0415
    from benchmarks.deployment.plan import BenchPlan  # noqa: PLC0415  As heavy as what draws its plots.

    settings = config.load(config_file)
    plan = BenchPlan(
        streams=tuple(int(n) for n in _numbers(streams, "--streams", whole=True)),
        rates_per_s=None if rates is None else _numbers(rates, "--rates"),
        max_tokens=max_tokens,
        prompt_words=_range(prompt_words),
        limits=_limits(goodput or []),
        duration_s=duration_s,
        warm_up=warm_up,
        timeout_s=timeout_s,
        seed=seed,
        first_number=secrets.randbelow(MOST_NUMBERS),
    )
    target = _target(settings, url=url, api_key=api_key)
    raise typer.Exit(_run(target, plan, wanted=model, out=out))


def _numbers(text: str, option: str, *, whole: bool = False) -> tuple[float, ...]:
    """Positive numbers, separated by commas; none at all for `none`."""
    if text == "none":
        return ()
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = (0.0,)
    if not all(0 < n <= _MOST and (not whole or n.is_integer()) for n in numbers):
        kind = "whole numbers" if whole else "numbers"
        raise typer.BadParameter(
            f"{text!r} is not {kind} from 1 to {_MOST}, separated by commas", param_hint=option
        )
    return numbers


def _range(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    try:
        words = int(low), int(high or low)
    except ValueError:
        words = 0, 0
    if not 1 <= words[0] <= words[1] <= _MOST_WORDS:
        raise typer.BadParameter(
            f"{text!r} is not like 100 or 30-130, at most {_MOST_WORDS}",
            param_hint="--prompt-words",
        )
    return words


def _limits(texts: list[str]) -> Limits:
    from benchmarks.deployment.step import Limits  # noqa: PLC0415

    try:
        return Limits.parse([part for text in texts for part in text.split(",")])
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--goodput") from None


def _target(settings: Settings, *, url: str | None, api_key: str | None) -> Target:
    """Return the target. The key of the first start is sent to this machine only."""
    from benchmarks.client.endpoint import target_of  # noqa: PLC0415

    try:
        target = target_of(url or settings.server.local_url, api_key=api_key or "")
        if api_key or not (url is None or target.host in _LOOPBACK):
            return target
        return target_of(url or settings.server.local_url, api_key=kept_key(settings) or "")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _run(target: Target, plan: BenchPlan, *, wanted: str | None, out: Path) -> int:
    """Measure, show and write; returns the exit code."""
    from benchmarks.client.endpoint import DeploymentError, find_model  # noqa: PLC0415
    from benchmarks.deployment.procedure import INTERRUPTED, run  # noqa: PLC0415

    phase = Phases().phase
    try:
        model = find_model(target, wanted=wanted)
        out.mkdir(parents=True, exist_ok=True)  # Told before the work, not after it.
        command = _command(target, plan, model=model.id, out=out)
        result = run(target, model, plan, command=command, phase=phase)
        _show(result)
        _write(result, out)
    except (DeploymentError, OSError) as error:
        return _failed(str(error), code=1)
    except KeyboardInterrupt:
        return _failed("interrupted", code=130)
    if result.ended is None:
        return 0
    return _failed(result.ended, code=130 if result.ended == INTERRUPTED else 1)


def _failed(reason: str, *, code: int) -> int:
    typer.echo(f"ringfence: {reason}", err=True)
    return code


def _command(target: Target, plan: BenchPlan, *, model: str, out: Path) -> tuple[str, ...]:
    """The command that repeats the run, with every choice spelled out and without the key."""
    from benchmarks.client.endpoint import url_of  # noqa: PLC0415

    rates = plan.rates_per_s
    options = {
        "--url": url_of(target),
        "--api-key": "REDACTED" if target.api_key else None,
        "--model": model,
        "--streams": _joined(plan.streams),
        "--rates": None if rates is None else _joined(rates),
        "--max-tokens": plan.max_tokens,
        "--prompt-words": "{}-{}".format(*plan.prompt_words),
        "--goodput": plan.limits.shown() or None,
        "--duration-s": f"{plan.duration_s:g}",
        "--warm-up": plan.warm_up,
        "--timeout-s": f"{plan.timeout_s:g}",
        "--seed": plan.seed,
        "--out": out,
    }
    given = [(name, str(value)) for name, value in options.items() if value is not None]
    return ("ringfence", "bench", *(word for pair in given for word in pair))


def _joined(numbers: tuple[float, ...]) -> str:
    return ",".join(f"{number:g}" for number in numbers) or "none"


def _show(result: Result) -> None:
    from benchmarks.deployment.result import COLUMNS, notes, rows  # noqa: PLC0415

    table = Table(box=None)
    for number, column in enumerate(COLUMNS):
        table.add_column(column, justify="right" if number else "left")
    for step, row in zip(result.steps, rows(result.steps), strict=True):
        table.add_row(*row, style="bold" if step == result.knee else None)
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False, markup=False)
    console.print(table)
    console.print("Latencies are p50 / p99.")
    if result.knee:
        knee = result.knee
        console.print(f"Knee: {knee.load}, {knee.requests_per_s:.2f} requests/s.")
    for note in notes(result):
        console.print(note)


def _write(result: Result, out: Path) -> None:
    from benchmarks.deployment.html_report import write_html  # noqa: PLC0415
    from benchmarks.deployment.result import write_json  # noqa: PLC0415

    for path in (write_json(result, out), write_html(result, out)):
        typer.echo(str(path))
