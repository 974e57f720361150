"""What a Triton answers: decoded against a type, since it is not trusted."""

from __future__ import annotations

import re
from typing import Annotated, NamedTuple, TypeVar

import msgspec
from msgspec import Meta, Struct

from mataserver import MataError
from mataserver_fleet.tritons import Gpu

T = TypeVar("T")
MAX_GPUS = 64
MAX_REASON_LENGTH = 4_000
_GPU = re.compile(r"^nv_gpu_(\w{1,64})\{([^{}\n]{1,1000})\} ([0-9.e+-]{1,40})$", re.MULTILINE)
"""Begins at a line alone and looks at so much of it: a page of this server's choice must not take
more than one reading."""
_GPU_ID = re.compile(r'gpu_uuid="([^"]{1,100})"')


class TritonError(MataError):
    """502: a Triton did not do what it was asked, or cannot be understood.

    The text is untrusted: NUL is removed from it for databases, and it is cut to a maximum length.
    """

    status = 502
    answered = True
    """Whether it answered at all."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail.replace("\0", "")[:MAX_REASON_LENGTH])


class Unreachable(TritonError):
    """502: no answer came."""

    answered = False


_Name = Annotated[str, Meta(max_length=255)]
_Count = Annotated[int, Meta(ge=0, lt=2**62)]
_Milliseconds = Annotated[int, Meta(ge=0, lt=10**13)]


class TritonDescription(Struct):
    """``GET /v2``."""

    name: _Name
    version: _Name = ""


class _VersionCounts(Struct):
    name: _Name
    version: _Name
    last_inference: _Milliseconds = 0
    inference_count: _Count = 0
    execution_count: _Count = 0


class StatsResponse(Struct):
    """``GET /v2/models/stats``."""

    model_stats: Annotated[list[_VersionCounts], Meta(max_length=10_000)] = []

    def counts(self) -> list[ModelCount]:
        """Return how often each version was asked."""
        return [
            ModelCount(
                each.name,
                int(each.version),
                each.inference_count,
                each.execution_count,
                each.last_inference / 1e3,
            )
            for each in self.model_stats
            if each.version.isascii() and each.version.isdigit() and len(each.version) < 10
        ]


class IndexEntry(Struct):
    """A line of a Triton's repository index: a version of a model, or one that has none."""

    name: _Name
    version: _Name = ""
    state: _Name = ""
    reason: str = ""


class _Parameter(Struct):
    string_value: str = ""


class Config(Struct):
    """What is read of a model's configuration."""

    parameters: dict[str, _Parameter] = {}


class _Problem(Struct):
    error: str


class ModelCount(NamedTuple):
    """A Triton's counts of a version that it serves; ``last`` in Unix seconds, 0 for never."""

    name: str
    number: int
    inferences: int
    executions: int
    last: float


def decode(body: bytes, kind: type[T]) -> T:
    """Return an answer read as ``kind``. Raises ``TritonError``."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise TritonError("Its answer cannot be understood") from None


def reason_of(status: int, body: bytes) -> str:
    """Return why a Triton did not do what it was asked."""
    try:
        return msgspec.json.decode(body, type=_Problem).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return f"It answers {status}"


def gpus_of(metrics: bytes) -> list[Gpu]:
    """Return the figures of GPUs in a Triton's metrics, of ``MAX_GPUS`` at most."""
    figures: dict[str, dict[str, float]] = {}
    for what, labels, value in map(
        re.Match.groups, _GPU.finditer(metrics.decode(errors="replace"))
    ):
        gpu = _GPU_ID.search(labels)
        if gpu is not None and (gpu[1] in figures or len(figures) < MAX_GPUS):
            figures.setdefault(gpu[1], {})[what] = _number(value)
    return [
        Gpu(
            gpu,
            figure.get("memory_used_bytes"),
            figure.get("memory_total_bytes"),
            figure.get("utilization"),
        )
        for gpu, figure in figures.items()
    ]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
