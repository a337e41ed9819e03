"""Plots of a run as inline SVG, without scripts or fonts.

The colours are the page's CSS variables (`--series-1` and so on), so that it can be light or dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks.deployment.result import Result
from benchmarks.deployment.step import LoadStep
from benchmarks.reporting.statistics import Summary

# Placeholder colours, replaced in the SVG because matplotlib does not know CSS variables.
_INK, _GRID, _PAGE = "#010203", "#010204", "#010205"
_SERIES = ("#010206", "#010207", "#010208")
_COLOURS = {
    _INK: "currentColor",
    _GRID: "var(--grid)",
    _PAGE: "var(--page)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(_SERIES, start=1)},
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # Text stays text, in the reader's font.
    "font.family": "sans-serif",
    "font.sans-serif": ["Arial", "Helvetica", "Liberation Sans", "DejaVu Sans"],
    "font.size": 11,
    "text.color": _INK,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _GRID,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "lines.markersize": 6,
}
_WIDTH_INCH, _HEIGHT_INCH = 6.0, 3.7
_MARKERS = ("o", "s", "^")
_DASHES = ("-", "--", ":")


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot; `svg` is safe to insert into a page."""

    title: str
    svg: str


@dataclass(frozen=True, slots=True)
class _Line:
    """A named curve without its missing points. `number` selects colour and marker."""

    name: str
    points: Sequence[tuple[float, float | None]]
    number: int = 0


def plots(result: Result) -> list[Plot]:
    """Draw every plot that the run has data for."""
    drawn = []
    if result.closed:
        drawn += [
            Plot("Throughput over streams", _svg("throughput", lambda a: _throughput(a, result))),
            Plot("Time to first token over streams", _svg("ttft", lambda a: _ttft(a, result))),
            Plot("Time between tokens over streams", _svg("tokens", lambda a: _gaps(a, result))),
        ]
    if result.open:
        drawn += [
            Plot("Latency over throughput, open loop", _svg("tail", lambda a: _tail(a, result))),
            Plot("Throughput over arrivals", _svg("arrivals", lambda a: _arrivals(a, result))),
        ]
    return drawn


def _throughput(axes: Axes, result: Result) -> None:
    points = [(_streams(step), step.output_tokens_per_s) for step in result.closed]
    if result.knee:
        knee = result.knee
        name = f"knee: {knee.load}, {knee.requests_per_s:.3g} requests/s"
        axes.axvline(_streams(knee), color=_SERIES[1], linestyle=":", zorder=1, label=name)
    _draw(axes, [_Line("output tokens/s", points)])
    _over_streams(axes, result, "output tokens/s")


def _ttft(axes: Axes, result: Result) -> None:
    lines = _percentiles(result.closed, _streams, lambda step: step.ttft_s)
    _draw(axes, [*lines, *_limit(result.closed, _streams, result.plan.limits.ttft_s)])
    _over_streams(axes, result, "TTFT, ms")


def _gaps(axes: Axes, result: Result) -> None:
    itl = _percentiles(result.closed, _streams, lambda step: step.itl_s, name="ITL ")
    tpot = [(_streams(step), _p50(step.tpot_s)) for step in result.closed]
    _draw(axes, [*itl, _Line("TPOT p50", tpot, 2)])
    _over_streams(axes, result, "ms a token")


def _tail(axes: Axes, result: Result) -> None:
    """Plot latency against served throughput, which rises steeply at saturation."""
    lines = [
        *_percentiles(result.open, _served, lambda step: step.e2e_s, name="E2E "),
        _Line("TTFT p99", [(_served(s), _p99(s.ttft_s)) for s in result.open], 2),
    ]
    _draw(axes, lines)
    axes.set(xlabel="requests/s served", ylabel="ms", ylim=(0, None))


def _arrivals(axes: Axes, result: Result) -> None:
    rates = [step.rate_per_s or 0.0 for step in result.open]
    served = [step.requests_per_s for step in result.open]
    good = [step.goodput_per_s for step in result.open]
    lines = [_Line("requests/s served", list(zip(rates, served, strict=True)))]
    if any(value is not None for value in good):
        lines.append(_Line("goodput", list(zip(rates, good, strict=True)), 1))
    axes.plot([0, max(rates)], [0, max(rates)], color=_GRID, zorder=1, label="as they arrive")
    _draw(axes, lines)
    axes.set(xlabel="arrivals, requests/s", ylabel="requests/s", xlim=(0, None), ylim=(0, None))


def _percentiles(
    steps: Sequence[LoadStep],
    place: Callable[[LoadStep], float],
    summary: Callable[[LoadStep], Summary | None],
    *,
    name: str = "",
) -> list[_Line]:
    found = [(place(step), summary(step)) for step in steps]
    return [
        _Line(f"{name}p50", [(x, _p50(s)) for x, s in found], 0),
        _Line(f"{name}p99", [(x, _p99(s)) for x, s in found], 1),
    ]


def _limit(
    steps: Sequence[LoadStep], place: Callable[[LoadStep], float], limit_s: float | None
) -> list[_Line]:
    if limit_s is None:
        return []
    return [_Line("limit", [(place(step), limit_s * 1_000) for step in steps], 2)]


def _draw(axes: Axes, lines: Sequence[_Line]) -> None:
    for line in lines:
        points = [(x, y) for x, y in line.points if y is not None]
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            color=_SERIES[line.number],
            marker=_MARKERS[line.number],
            linestyle=_DASHES[line.number],
            label=line.name,
        )
    axes.grid(visible=True, linewidth=0.8)
    axes.set_axisbelow(True)
    if len(axes.get_lines()) > 1:
        # The legend is above the curves, so that it hides none.
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, borderaxespad=0.1)


def _over_streams(axes: Axes, result: Result, label: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks([_streams(step) for step in result.closed])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel="concurrent streams", ylabel=label, ylim=(0, None))


def _streams(step: LoadStep) -> float:
    return float(step.streams or 0)


def _served(step: LoadStep) -> float:
    return step.requests_per_s


def _p50(summary: Summary | None) -> float | None:
    return None if summary is None else summary.p50 * 1_000


def _p99(summary: Summary | None) -> float | None:
    return None if summary is None else summary.p99 * 1_000


def _svg(name: str, draw: Callable[[Axes], None]) -> str:
    """Draw an `svg` element that scales to its container."""
    with rc_context(_STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=(_WIDTH_INCH, _HEIGHT_INCH), layout="constrained")
        draw(figure.add_subplot())
        file = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'^<svg[^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true">', svg)
    svg = re.sub(
        r'<g id="[a-z_.]+\d*">', "<g>", svg
    )  # Ids would clash between the plots of a page.
    for stand_in, colour in _COLOURS.items():
        svg = svg.replace(stand_in, colour)
    return svg
