"""The benchmarks: our server beside its peers and beside the loop without a server.

Run as ``python bench/run.py [--quick] [--without-peers] [CASE ...]``; a case is chosen by a part of
its name. A full run writes ``docs/performance.md``, ``docs/img/bench.png``, ``build/bench.json``.
The exit status is 1 where our own cost is a tenth more than it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
import tempfile
import time
from pathlib import Path

import cases
import contest
import report
import startup
from question import Bodies

ROUNDS, QUICK_ROUNDS = 5, 2
OTHERS = {cases.THREAD, cases.FLOOR, cases.FASTAPI, cases.FASTAPI_2}
OTHERS |= {cases.LITSERVE, cases.LITSERVE_2, cases.TRITON, cases.TRITON_2}


def arguments() -> argparse.Namespace:
    """Return the command line's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer cases and rounds: 3 minutes")
    parser.add_argument(
        "--without-peers", action="store_true", help="our default engine and the loop alone"
    )
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0, help="of a measurement; for a test")
    parser.add_argument("--rows", type=Path, default=report.ROWS, help="the file for the rows")
    parser.add_argument("cases", nargs="*")
    return parser.parse_args()


def chosen(names: list[str]) -> list[cases.Group]:
    """Return the groups with the cases that are asked for; all of them without a name."""
    found = []
    for group in cases.groups():
        wanted = [c for c in group.cases if not names or any(name in c.name for name in names)]
        if wanted:
            found.append(dataclasses.replace(group, cases=tuple(wanted)))
    return found


def main() -> None:
    """Measure and report."""
    # Servers that sleep would outlive this process: SIGTERM ends them, as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    asked, begun = arguments(), time.monotonic()
    count = asked.rounds or (QUICK_ROUNDS if asked.quick else ROUNDS)
    without = OTHERS if asked.without_peers else set(cases.TWICE) if asked.quick else set()
    figures = [] if asked.cases else startup.figures(count)
    results: list[contest.Result] = []
    with tempfile.TemporaryDirectory() as folder:
        bodies = Bodies(Path(folder))
        for group in chosen(asked.cases):
            plan = contest.Plan(count, asked.quick, asked.seconds, without)
            results += contest.run(group, bodies, plan)
    whole = not asked.quick and not asked.cases and not asked.without_peers
    made = report.Report(results, figures, count, time.monotonic() - begun)
    print(made.markdown())
    made.write_rows(asked.rows)
    if whole:
        made.write_page()
        made.write_plot()

    lost = made.lost()
    if lost:
        sys.exit("\n".join(["a figure that was reached is lost:", *lost]))


if __name__ == "__main__":
    main()
