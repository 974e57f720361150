"""Runs cases: everyone in turn, round by round."""

from __future__ import annotations

import contextlib
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from contestants import Effort
from load import LoadError

if TYPE_CHECKING:
    from cases import Bar, Case, Group
    from contestants import Contestant, Sample
    from question import Bodies

VOID = 5
"""How many rounds of a case may be void before it is given up."""


@dataclass
class Result:
    """A case's samples by contestant; ``void`` counts the rounds in which a request failed."""

    case: Case
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    void: int = 0

    def median(self, who: str, what: str) -> float | None:
        """Return the median of a figure; None for somebody who took no part."""
        found = [float(getattr(sample, what)) for sample in self.samples.get(who, ())]
        return statistics.median(found) if found else None

    def best(self, names: tuple[str, ...], what: str) -> float | None:
        """Return the best median of several contestants."""
        found = [m for m in (self.median(who, what) for who in names) if m is not None]
        return (max if what == "rate" else min)(found) if found else None

    def value(self, bar: Bar) -> float | None:
        """Return the figure that a bar is about: a ratio of medians, or milliseconds."""
        if bar.what == "own":
            return self.best(bar.ours, "cpu")
        what, theirs = bar.what, self.best(bar.theirs, bar.what)
        if bar.what == "tail":
            what, theirs = "p99", self.best(bar.ours, "p50")
        ours = self.best(bar.ours, what)
        return None if ours is None or theirs is None else ours / theirs


def rounds(case: Case, whom: dict[str, Contestant], count: int, effort: Effort) -> Result:
    """Measure everyone in turn, ``count`` times after a short round to warm up.

    A round in which a request failed is void and is done again.
    """
    result = Result(case)
    warm, good = Effort(min(effort.seconds, 0.5), min(effort.count, 4)), -1
    while good < count:
        try:
            taken = {
                name: each.measure(case.question, case.connections, warm if good < 0 else effort)
                for name, each in whom.items()
            }
        except LoadError as error:
            result.void += 1
            print(f"a round of {case.name} is void: {error}", flush=True)
            if result.void > VOID:
                raise
            continue
        good += 1
        for name, sample in taken.items() if good else ():
            result.samples.setdefault(name, []).append(sample)
    return result


@dataclass(frozen=True)
class Plan:
    """How many rounds, of the quick cases or of all, and whom to leave out.

    ``seconds`` is instead of the cases' own, unless it is 0.
    """

    rounds: int
    quick: bool
    seconds: float
    without: set[str]

    def effort(self, case: Case) -> Effort | None:
        """Return the effort of one measurement; None for a case that is left out."""
        effort = case.quick if self.quick else case.effort
        return Effort(self.seconds) if effort and self.seconds else effort


def run(group: Group, bodies: Bodies, plan: Plan) -> list[Result]:
    """Start a group's contestants but those left out, and measure its cases."""
    efforts = [(case, plan.effort(case)) for case in group.cases]
    wanted = [(case, effort) for case, effort in efforts if effort is not None]
    needed = {name for case, _ in wanted for name in case.who} - plan.without
    results = []
    with contextlib.ExitStack() as stack:
        started: dict[str, Contestant] = {}
        for name, make in group.makers.items():
            if name in needed:
                started[name] = make(bodies)
                stack.callback(started[name].close)
        for case, effort in wanted:
            whom = {name: started[name] for name in case.who if name in started}
            results.append(rounds(case, whom, plan.rounds, effort))
            tell(results[-1])
    return results


def tell(result: Result) -> None:
    """Print a case's medians."""
    print(result.case.name)
    for name in result.samples:
        rate, cpu, p50, p99, memory, busy = (
            result.median(name, what) for what in ("rate", "cpu", "p50", "p99", "memory", "busy")
        )
        print(
            f"  {name:20} {rate:9.1f}/s  cpu {cpu:8.3f} ms  p50 {p50:8.2f}  p99 {p99:8.2f} ms"
            f"  {memory:6.0f} MB  load {busy:.2f}",
            flush=True,
        )
