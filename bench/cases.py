"""What is measured, between whom, and the bars that it is to pass."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import contestants
from contestants import Effort
from question import Question

if TYPE_CHECKING:
    from collections.abc import Callable

    from contestants import Contestant
    from question import Bodies

    Maker = Callable[[Bodies], Contestant]

OURS, OURS_2, THREAD = "ours", "ours, 2 replicas", "ours, `thread`"
ONNX, ONNX_2 = "ours, ONNX", "ours, ONNX, 2 replicas"
FASTAPI, FASTAPI_2 = "FastAPI", "FastAPI, 2 workers"
LITSERVE, LITSERVE_2 = "LitServe", "LitServe, 2 workers"
TRITON, TRITON_2 = "Triton", "Triton, 2 instances"
FLOOR = "aiohttp alone"
BARE, BARE_2, HOP = "bare loop", "2 bare loops", "bare loop behind a hop"
HOPS = "bare loops behind HTTP and a hop"
TWICE = (OURS_2, ONNX_2, FASTAPI_2, LITSERVE_2, TRITON_2, BARE_2)


USUAL = Effort(1)


@dataclass(frozen=True)
class Bar:
    """A goal: a ratio of medians, ours over theirs; the best of several counts.

    ``what`` is ``rate``, ``cpu``, ``p50``, or of ours alone: ``own``, the CPU ms a request where
    nothing is decoded, and ``tail``, the 99th percentile of the latencies over their median.
    """

    what: str
    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    limit: float
    kept: bool = False
    """Whether a run that misses it has failed: it was reached, and is lost."""
    least_of: tuple[str, ...] = ()
    """Who do the least there can be: what they miss in the same run is no goal."""

    @property
    def least(self) -> bool:
        """Whether the limit is a least value; else it is a greatest one."""
        return self.what == "rate"


@dataclass(frozen=True)
class Case:
    """A question, asked of some by a number of connections, or with a window of frames."""

    name: str
    question: Question
    connections: int
    who: tuple[str, ...]
    bars: tuple[Bar, ...] = ()
    effort: Effort = USUAL
    quick: Effort | None = USUAL


@dataclass(frozen=True)
class Group:
    """Cases of the same contestants: these are started once."""

    makers: dict[str, Maker]
    cases: tuple[Case, ...]


def _litserve(form: str, workers: int) -> Maker:
    return partial(contestants.litserve, model="noop", form=form, workers=workers)


EVERYONE = (OURS, THREAD, FASTAPI, FASTAPI_2, LITSERVE, LITSERVE_2, BARE)
AT_HAND: dict[str, Maker] = {
    OURS: contestants.ours,
    THREAD: partial(contestants.ours, engine="thread"),
    FASTAPI: contestants.fastapi,
    FASTAPI_2: partial(contestants.fastapi, workers=2),
}
FORMS = {"raw": "raw body", "json": "base64 in JSON", "form": "multipart"}


def _form_bars(form: str, connections: int) -> tuple[Bar, ...]:
    if connections == 1:
        return (Bar("cpu", (OURS,), (HOP,), 1.2),) if form == "raw" else ()
    tritons = Bar("rate", (OURS,), (TRITON, TRITON_2), 1.3, least_of=(HOPS,))
    loop = (Bar("rate", (OURS,), (BARE,), 1.3), Bar("tail", (OURS,), (), 2.5))
    return (
        *(loop if form == "raw" else ()),
        *((tritons,) if form == "raw" else ()),
        Bar("rate", (OURS,), (FASTAPI, FASTAPI_2), 1.3, least_of=(HOPS,)),
        Bar("rate", (OURS,), (LITSERVE, LITSERVE_2), 2.0),
    )


def _whom(form: str, connections: int) -> tuple[str, ...]:
    least = (HOPS,) if connections > 1 else (HOP,) if form == "raw" else ()
    return (*EVERYONE, *((TRITON, TRITON_2, FLOOR) if form == "raw" else ()), *least)


def _form_cases(forms: tuple[str, ...]) -> tuple[Case, ...]:
    return tuple(
        Case(
            f"{FORMS[form]}, {connections} conn.",
            Question("noop", form),
            connections,
            _whom(form, connections),
            _form_bars(form, connections),
            quick=USUAL if form == "raw" or connections == 16 else None,
        )
        for form in forms
        for connections in (1, 16)
    )


def _without_model() -> tuple[Case, ...]:
    who = (OURS, FASTAPI, FASTAPI_2, LITSERVE)
    question = Question("noop", "health")
    return (
        Case("health, 1 conn.", question, 1, who, quick=None),
        Case("health, 16 conn.", question, 16, who, quick=None),
    )


def _frame_cases() -> tuple[Case, ...]:
    question, who = Question("noop", "frames"), (OURS, THREAD, FASTAPI, FLOOR, BARE)
    latency = Bar("p50", (OURS,), (HOP,), 1.25, least_of=(HOPS,))
    rate = Bar("rate", (OURS,), (BARE,), 0.95)
    return (
        Case("WebSocket, window 1", question, 1, (*who, HOP, HOPS), (latency,)),
        Case("WebSocket, window 8", question, 8, who, (rate,)),
    )


OWN_OVER_FLOOR = {1: 1.24, 16: 1.75}
"""What our own cost over that of aiohttp alone was last, by connections: a tenth more is a loss."""
OWN_COSTS = {1: (0.29, 0.25), 16: (0.18, 0.18)}
"""Milliseconds that our own cost is to be at most: in a process, and in a thread."""


def _own() -> Group:
    """Everybody with a decoder that does not decode: what is left is the server's own cost."""

    def stubbed(make: Callable[..., Contestant], **options: object) -> Maker:
        return partial(make, stubbed=True, **options)

    makers: dict[str, Maker] = {
        OURS: stubbed(contestants.ours),
        THREAD: stubbed(contestants.ours, engine="thread"),
        FASTAPI: stubbed(contestants.fastapi),
        LITSERVE: stubbed(partial(contestants.litserve, model="noop", form="raw")),
        TRITON: stubbed(contestants.Triton),
        FLOOR: stubbed(contestants.floor),
        HOP: stubbed(partial(contestants.Bare, "noop", 1, 1), hop=True),
    }
    cases = tuple(
        Case(
            f"own cost, {connections} conn.",
            Question("noop", "raw"),
            connections,
            tuple(name for name in makers if name != HOP or connections == 1),
            (
                Bar("own", (OURS,), (), OWN_COSTS[connections][0]),
                Bar("own", (THREAD,), (), OWN_COSTS[connections][1]),
                Bar("cpu", (OURS,), (TRITON,), 1.0),
                Bar("cpu", (OURS,), (FLOOR,), 1.1 * OWN_OVER_FLOOR[connections], kept=True),
            ),
        )
        for connections in (1, 16)
    )
    return Group(makers, cases)


def _alone(model: str, cases: tuple[Case, ...], who: tuple[str, ...]) -> Group:
    bare = partial(_bare, model)
    return Group({**{name: AT_HAND[name] for name in who if name != BARE}, BARE: bare}, cases)


def _bare(model: str, bodies: Bodies) -> Contestant:
    return contestants.Bare(model, 1, 1, bodies)


def _hop(model: str, bodies: Bodies) -> Contestant:
    return contestants.Bare(model, 1, 1, bodies, hop=True)


def _hops(model: str, bodies: Bodies) -> Contestant:
    return contestants.hop(bodies, model)


def _large() -> Group:
    who = (OURS, FASTAPI, FASTAPI_2, BARE)
    bar = Bar("rate", (OURS,), (FASTAPI, FASTAPI_2), 3.0)
    question = Question("detector", "raw", large=True)
    cases = (
        Case("12 megapixels to 640, 1 conn.", question, 1, who, (), Effort(0, 12), None),
        Case(
            "12 megapixels to 640, 16 conn.",
            question,
            16,
            who,
            (bar,),
            Effort(0, 64),
            Effort(0, 16),
        ),
    )
    return _alone("detector", cases, who)


def _results(model: str, name: str) -> Group:
    who, texts = (OURS, FASTAPI, BARE), {"raw": "JSON", "packed": "MessagePack"}
    # Masks take long to encode, which is the same work for all: there is no floor to measure.
    least = () if model == "masks" else (HOPS,)
    ahead = Bar("rate", (OURS,), (FASTAPI,), 1.1, least_of=least)
    bars: dict[str, tuple[Bar, ...]] = {"raw": (), "packed": (ahead,)}
    whom = {"raw": who, "packed": (*who, *least)}
    cases = tuple(
        Case(f"{name}, {text}", Question(model, form), 1, whom[form], bars[form], quick=None)
        for form, text in texts.items()
    )
    alone = _alone(model, cases, who)
    hops: dict[str, Maker] = {HOPS: partial(_hops, model)} if least else {}
    return Group({**alone.makers, **hops}, alone.cases)


def _real(net: str, name: str, one: int, many: int) -> Group:
    """One worker with two threads, or two workers with one: of each the faster counts."""
    makers: dict[str, Maker] = {
        OURS: contestants.ours,
        OURS_2: partial(contestants.ours, replicas=2),
        ONNX: contestants.onnx,
        ONNX_2: partial(contestants.onnx, replicas=2),
        FASTAPI: partial(contestants.fastapi, net=net, parallel=1, threads=2),
        FASTAPI_2: partial(contestants.fastapi, net=net, workers=2, parallel=1, threads=1),
        LITSERVE: partial(contestants.litserve, model=net, form="raw", threads=2),
        LITSERVE_2: partial(contestants.litserve, model=net, form="raw", workers=2),
        BARE: partial(contestants.Bare, net, 1, 2),
        BARE_2: partial(contestants.Bare, net, 2, 1),
    }
    question, singles = Question(net, "raw"), tuple(n for n in makers if n not in TWICE)
    bars = (
        Bar("rate", (OURS, OURS_2), (BARE, BARE_2), 0.95),
        Bar("rate", (ONNX, ONNX_2), (FASTAPI, FASTAPI_2), 2.5),
        Bar("rate", (ONNX, ONNX_2), (LITSERVE, LITSERVE_2), 1.6),
    )
    cases = (
        Case(f"{name}, 1 conn.", question, 1, singles, (), Effort(0, one), None),
        Case(f"{name}, 16 conn.", question, 16, tuple(makers), bars, Effort(0, many), None),
    )
    return Group(makers, cases)


def groups() -> list[Group]:
    """Return everything that is asked of servers."""

    def served(form: str) -> dict[str, Maker]:
        peer = {LITSERVE: _litserve(form, 1), LITSERVE_2: _litserve(form, 2)}
        loops = {BARE: partial(_bare, "noop"), HOP: partial(_hop, "noop")}
        triton: dict[str, Maker] = {
            TRITON: contestants.Triton,
            TRITON_2: partial(contestants.Triton, instances=2),
        }
        least: dict[str, Maker] = {FLOOR: contestants.floor, HOPS: contestants.hop}
        return {**AT_HAND, **peer, **triton, **least, **loops}

    return [
        _own(),
        Group(served("raw"), (*_without_model(), *_form_cases(("raw",)), *_frame_cases())),
        Group(served("any"), _form_cases(("json", "form"))),
        _large(),
        _results("many", "100 detections"),
        _results("depth", "depth map 480x640"),
        _results("masks", "20 masks"),
        _real("vit", "ViT-B", 4, 16),
        _real("rtdetr", "RT-DETR-r18", 2, 16),
    ]
