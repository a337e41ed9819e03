"""Reports a run of `ringfence bench` as one self-contained HTML page without scripts or fonts."""

from __future__ import annotations

import shlex
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from benchmarks.deployment.plots import plots
from benchmarks.deployment.result import COLUMNS, MEANINGS, Result, notes, rows


def write_html(result: Result, directory: Path) -> Path:
    """Write the page to `<date and time>-bench.html`.

    Raises:
        OSError: The file cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{result.stem}.html"
    path.write_text(page(result), "utf-8")
    return path


def page(result: Result) -> str:
    """Render the page. Text from the server is escaped."""
    # Safe markup: matplotlib wrote it from numbers and our own text.
    drawn = [(plot.title, Markup(plot.svg)) for plot in plots(result)]  # noqa: S704
    tables = (("Closed loop", result.closed), ("Open loop, Poisson arrivals", result.open))
    return _template().render(
        result=result,
        facts=_facts(result),
        notes=notes(result),
        tables=[(title, rows(steps)) for title, steps in tables if steps],
        columns=COLUMNS,
        meanings=MEANINGS,
        plots=drawn,
        command=shlex.join(result.command),
    )


def _facts(result: Result) -> dict[str, str]:
    plan, client = result.plan, result.client
    versions = ", ".join(f"{name} {number}" for name, number in client.versions.items() if number)
    shortest, longest = plan.prompt_words
    return {
        "Deployment": result.url,
        "Model": f"{result.model}{' (simulated)' if result.simulated else ''}",
        "Knee": _knee(result),
        "Goodput limits": plan.limits.shown().replace(",", ", ") or "none given",
        "Requests": (
            f"streamed chats, greedy, {plan.max_tokens} tokens each, prompts of {shortest} to "
            f"{longest} words, each step {plan.duration_s:g} s, seed {plan.seed}"
        ),
        "Client": (
            f"{client.cores} cores of {client.cpu_model}, {client.memory_bytes / 2**30:.0f} GiB, "
            f"load average {client.load_average[0]:.1f} at the start"
        ),
        "Client's versions": f"{versions}; commit {client.commit}",
        "Began": f"{result.began:%Y-%m-%d %H:%M:%S %Z}, took {result.took_s:.0f} s",
    }


def _knee(result: Result) -> str:
    if result.knee is None:
        return "no closed loop was run"
    return (
        f"{result.knee.load}: {result.knee.requests_per_s:.2f} requests/s, "
        f"{result.knee.output_tokens_per_s:.1f} output tokens/s"
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("benchmarks.deployment"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("deployment.html")
