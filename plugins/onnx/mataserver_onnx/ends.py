"""How a network ends: which operators made an output, read from the output back.

Exporters and optimisers put operators behind a softmax that change the form of its values and not
the values themselves. The way back leads through those to the first operator that computes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

PASSING = frozenset(
    {
        "Cast",
        "CastLike",
        "Clip",
        "DequantizeLinear",
        "Dropout",
        "Flatten",
        "Gather",
        "Identity",
        "QuantizeLinear",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
        # OpenVINO's own names
        "Clamp",
        "Convert",
        "ConvertLike",
        "FakeQuantize",
        "StridedSlice",
        "VariadicSplit",
    }
)
"""Operators that give values of their first input on: in another form, order or number format."""

_BOUNDS = frozenset({"Max", "Min", "Maximum", "Minimum"})
"""Clip, as optimisers write it: with a constant for one of its inputs."""
_CONSTANTS = frozenset({"Const", "Constant"})
_SOFTMAX = frozenset({"softmax", "qlinearsoftmax"})
_SIGMOID = frozenset({"sigmoid", "hardsigmoid", "hsigmoid", "qlinearsigmoid"})
_LONGEST = 64


class Operator(NamedTuple):
    """An operator's kind, and the names of its inputs."""

    kind: str
    inputs: tuple[str, ...]


def trace(name: str, maker: Callable[[str], Operator | None]) -> tuple[str, ...]:
    """Return the kinds of the operators that made a value, from the value back.

    The last is the first that computes. ``maker`` returns what makes a value; None for an input
    or a weight.
    """
    path: list[str] = []
    operator = maker(name)
    while operator is not None and len(path) < _LONGEST:
        path.append(operator.kind)
        before = _given_on(operator, maker)
        if before is None:
            break
        operator = maker(before)
    if operator is not None and _spelt(operator, maker):
        path[-1] = "Softmax"
    return tuple(path)


def _given_on(operator: Operator, maker: Callable[[str], Operator | None]) -> str | None:
    """Return the input whose values an operator gives on; None for one that computes."""
    if operator.kind in _BOUNDS:
        made = {name: maker(name) for name in operator.inputs}
        computed = [name for name, its in made.items() if its and its.kind not in _CONSTANTS]
        return computed[0] if len(computed) == 1 else None
    return operator.inputs[0] if operator.kind in PASSING and operator.inputs else None


def _spelt(operator: Operator, maker: Callable[[str], Operator | None]) -> bool:
    """Whether an operator ends a softmax that is spelt out.

    That is exp(x) / sum(exp(x)), or the exponential of a LogSoftmax.
    """
    kinds = [made.kind if (made := maker(name)) else "" for name in operator.inputs]
    if operator.kind == "Exp":
        return kinds == ["LogSoftmax"]
    if operator.kind not in {"Div", "Divide"} or kinds != ["Exp", "ReduceSum"]:
        return False
    above, below = operator.inputs
    total = maker(below)
    return total is not None and total.inputs[0] == above


def kind(path: tuple[str, ...]) -> str:
    """Return "softmax" or "sigmoid" for an end that gives probabilities, else an empty text."""
    last = path[-1].lower() if path else ""
    if last in _SOFTMAX:
        return "softmax"
    return "sigmoid" if last in _SIGMOID else ""


def said(path: tuple[str, ...]) -> str:
    """Return an end in words, in the order in which it is computed, without what does nothing."""
    return ", then ".join(kind for kind in reversed(path) if kind != "Identity") or "its input"
