"""The tables, the plot and the rows of a run."""

from __future__ import annotations

import dataclasses
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

import cases
import load
import peers

if TYPE_CHECKING:
    from cases import Bar
    from contest import Result
    from startup import Figure

ROOT = Path(__file__).resolve().parents[1]
ROWS = ROOT / "build" / "bench.json"
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
NAMES = (
    *(cases.OURS, cases.OURS_2, cases.THREAD, cases.ONNX, cases.ONNX_2),
    *(cases.FASTAPI, cases.FASTAPI_2),
    *(cases.LITSERVE, cases.LITSERVE_2, cases.TRITON, cases.TRITON_2),
    *(cases.FLOOR, cases.HOPS, cases.HOP),
    *(cases.BARE, cases.BARE_2),
)
FIGURES = {
    "rate": "Requests or frames per second",
    "cpu": "CPU milliseconds per request, all processes",
    "p50": "Median latency, milliseconds",
    "memory": "Most memory of all processes under load, MB",
}
WORDS = {
    "rate": "throughput",
    "cpu": "CPU per request",
    "p50": "p50 latency",
    "own": "CPU per request, ms",
    "tail": "p99 latency over p50",
}
NOTES = {cases.THREAD: ", `thread`", cases.ONNX: ", ONNX"}
COLOURS = (
    *("#1f6f8b", "#7fb7be", "#444444", "#c1666b", "#e4b7b2", "#d4a24c"),
    *("#ead2a0", "#5f8a4e", "#999999"),
)


class Row(msgspec.Struct):
    """One bar and what was reached; ``holds`` is None where nobody could reach it."""

    case: str
    peer: str
    ratio: float
    bar: str
    holds: bool | None


@dataclass
class Report:
    """A run."""

    results: list[Result]
    figures: list[Figure]
    rounds: int
    seconds: float

    def rows(self) -> list[Row]:
        """Return the bars: ratios of medians, differences in ms, and values in their units."""
        found = [
            Row(
                f"{r.case.name}: {_what(bar)}",
                " or ".join(bar.theirs),
                round(value, 3),
                *_judged(r, bar, value),
            )
            for r in self.results
            for bar in r.case.bars
            if (value := r.value(bar)) is not None
        ]
        return found + [
            Row(f.name, "", round(f.value, 3), f"≤ {f.limit:g} {f.unit}", f.holds)
            for f in self.figures
        ]

    def lost(self) -> list[str]:
        """Return what was reached before, and is not any more."""
        kept = [(r, bar, r.value(bar)) for r in self.results for bar in r.case.bars if bar.kept]
        return [
            f"{r.case.name}: {_what(bar)} over that of {' or '.join(bar.theirs)} is {value:.2f}, "
            f"more than {bar.limit:.2f}"
            for r, bar, value in kept
            if value is not None and not _holds(bar, value)
        ]

    def write_rows(self, path: Path) -> None:
        """Write the rows as JSON."""
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self.rows())) + b"\n")

    # the page

    def markdown(self) -> str:
        """Return the tables."""
        parts = [self._setting(), "![Throughput and CPU per request](img/bench.png)", self._bars()]
        parts += [f"**{title}**\n\n{self._matrix(what)}" for what, title in FIGURES.items()]
        return "\n\n".join(parts)

    def _setting(self) -> str:
        busiest = max(
            (s.busy for r in self.results for k in r.samples.values() for s in k), default=0
        )
        void = sum(result.void for result in self.results)
        machine = (
            f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
            f"load average {os.getloadavg()[1]:.1f} at the end; {self.rounds} rounds, "
            f"{void} void, {self.seconds / 60:.0f} minutes."
        )
        tool = "wrk" if load.wrk() else "our own"
        lines = [machine, f"The load: {tool}, at most {busiest:.2f} of a core."]
        there = {name.split(",")[0].lower() for r in self.results for name in r.samples}
        lines += [f"{p}: {peers.versions(p)}." for p in peers.PACKAGES if p in there]
        return "  \n".join(lines)

    def _bars(self) -> str:
        lines = ["| what | against | measured | bar | holds |", "|---|---|---|---|---|"]
        for row in self.rows():
            cells = [
                row.case,
                row.peer,
                f"{row.ratio:.2f}",
                row.bar,
                {True: "yes", False: "**no**", None: "nobody"}[row.holds],
            ]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)

    def _matrix(self, what: str) -> str:
        there = [name for name in NAMES if any(name in r.samples for r in self.results)]
        lines = [f"| | {' | '.join(there)} |", "|---" * (len(there) + 1) + "|"]
        for result in self.results:
            cells = [_figure(result.median(name, what)) for name in there]
            lines.append(f"| {result.case.name} | {' | '.join(cells)} |")
        return "\n".join(lines)

    def write_page(self) -> None:
        """Write the tables into the page, between its marks."""
        page = ROOT / "docs" / "performance.md"
        text = page.read_text()
        before, _, rest = text.partition(BEGIN)
        after = rest.partition(END)[2]
        page.write_text(f"{before}{BEGIN}\n\n{self.markdown()}\n\n{END}{after}")

    def write_plot(self) -> None:
        """Draw throughput and CPU of the three body forms at 16 connections."""
        import matplotlib.pyplot as plt

        shown = [r for r in self.results if r.case.question.model == "noop" and "16" in r.case.name]
        shown = [r for r in shown if r.case.question.form != "health"]
        figure, panels = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
        for panel, what in zip(panels, ("rate", "cpu"), strict=True):
            _panel(panel, shown, what)
        handles, labels = panels[0].get_legend_handles_labels()
        columns = -(-len(labels) // 2)  # in one row the first and the last would be cut off
        figure.legend(handles, labels, loc="outside lower center", fontsize=8, ncols=columns)
        figure.savefig(ROOT / "docs" / "img" / "bench.png", dpi=110)


def _panel(panel: object, shown: list[Result], what: str) -> None:
    from matplotlib.axes import Axes

    assert isinstance(panel, Axes)
    there = [name for name in NAMES if any(name in r.samples for r in shown)]
    width = 0.85 / max(1, len(there))
    for index, (name, colour) in enumerate(zip(there, COLOURS, strict=False)):
        heights = [r.median(name, what) or 0.0 for r in shown]
        at = [i + (index - (len(there) - 1) / 2) * width for i in range(len(shown))]
        panel.bar(at, heights, width, color=colour, label=name.replace("`", ""))
    panel.set_xticks(range(len(shown)), [r.case.name.replace(", ", "\n") for r in shown])
    panel.set_title(FIGURES[what], fontsize=10)
    panel.spines[["top", "right"]].set_visible(False)


def _what(bar: Bar) -> str:
    return WORDS[bar.what] + NOTES.get(bar.ours[0], "")


def _judged(result: Result, bar: Bar, value: float) -> tuple[str, bool | None]:
    """Return a bar in words, with what is the least there can be, and whether it holds."""
    said, holds = _limit(bar), _holds(bar, value)
    least = result.value(dataclasses.replace(bar, ours=bar.least_of))
    if least is None:
        return said, holds
    nobody = not (holds or _holds(bar, least))
    return f"{said} (the least there can be: {least:.2f})", None if nobody else holds


def _limit(bar: Bar) -> str:
    return f"{'≥' if bar.least else '≤'} {bar.limit:g}"


def _holds(bar: Bar, value: float) -> bool:
    return value >= bar.limit if bar.least else value <= bar.limit


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
