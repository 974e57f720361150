"""Errors in the form of the protocol."""

from __future__ import annotations

from msgspec import Struct


class InferenceProblem(Struct):
    """An error of the Open Inference Protocol: one human-readable sentence."""

    error: str


def inference_problem(_status: int, detail: str) -> InferenceProblem:
    """Return an error in the form of the Open Inference Protocol."""
    return InferenceProblem(detail)
