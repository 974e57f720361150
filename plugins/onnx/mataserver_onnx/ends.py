"""How a network ends: which operators made an output, read from the output back.

Exporters and optimisers put operators behind a softmax that change the form of its values and not
the values themselves. The way back leads through those to the first operator that computes.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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

_NEUTRAL = {
    "Add": 0.0,
    "Div": 1.0,
    "Divide": 1.0,
    "Mul": 1.0,
    "Multiply": 1.0,
    "Pow": 1.0,
    "Power": 1.0,
    "Sub": 0.0,
    "Subtract": 0.0,
}
"""The number with which an operator changes nothing: a temperature, a scale, a bias not in use."""
_EITHER_SIDE = frozenset({"Add", "Mul", "Multiply"})
_BOUNDS = frozenset({"Max", "Min", "Maximum", "Minimum"})
"""Clip, as optimisers write it: with a constant for one of its inputs."""
_CONSTANTS = frozenset({"Const", "Constant"})
_SOFTMAX = frozenset({"softmax", "qlinearsoftmax"})
_SIGMOID = frozenset({"sigmoid", "hardsigmoid", "hsigmoid", "qlinearsigmoid"})
_SHARES = _SOFTMAX | _SIGMOID | {"tanh"}
_PRODUCTS = frozenset({"Conv", "Gemm", "MatMul", "Convolution"})
_MIXING = PASSING | frozenset(
    {
        "Abs",
        "Add",
        "Concat",
        "Div",
        "Expand",
        "Max",
        "Mean",
        "Min",
        "Mul",
        "Neg",
        "Pad",
        "Pow",
        "Reciprocal",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "Round",
        "Sqrt",
        "Sub",
        "Sum",
        "Tile",
        "Where",
        # OpenVINO's own names
        "Broadcast",
        "Divide",
        "Maximum",
        "Minimum",
        "Multiply",
        "Negative",
        "Power",
        "Select",
        "Subtract",
    }
)
"""Operators that make numbers of probabilities which may be probabilities still."""
_BEST = frozenset({"ArgMax", "ArgMin", "NonMaxSuppression", "TopK"})
"""Operators that choose: their values are not those of the classes in their order."""
_LONGEST = 64


class Operator(NamedTuple):
    """An operator's kind, and the names of its inputs."""

    kind: str
    inputs: tuple[str, ...]


def trace(
    name: str,
    maker: Callable[[str], Operator | None],
    scalars: Mapping[str, float] = MappingProxyType({}),
) -> tuple[str, ...]:
    """Return the kinds of the operators that made a value, from the value back.

    The last is the first that computes, and behind it stands the softmax, sigmoid or tanh whose
    numbers it mixes. ``maker`` returns what makes a value; None for an input or a weight.
    ``scalars`` are weights of a single number: an operator that changes nothing with its own, as
    Mul with 1, is told as Identity.
    """
    path: list[str] = []
    operator = maker(name)
    while operator is not None and len(path) < _LONGEST:
        before = _unchanged(operator, scalars)
        path.append(operator.kind if before is None else "Identity")
        if before is None:
            before = _given_on(operator, maker)
        if before is None:
            break
        operator = maker(before)
    if operator is not None:
        path[-1:] = _spelt(operator, maker)
        if not kind((path[-1],)):
            path += _mixed(operator, maker)
    return tuple(path)


def _mixed(operator: Operator, maker: Callable[[str], Operator | None]) -> list[str]:
    """Return what made the probabilities that an operator mixes, in a list; else nothing."""
    if operator.kind not in _MIXING | _PRODUCTS:
        return []
    waiting, seen = list(operator.inputs), set[str]()
    biased = operator.inputs if operator.kind == "Add" else ()
    while waiting and len(seen) < _LONGEST:
        name = waiting.pop(0)
        before = None if name in seen else maker(name)
        seen.add(name)
        if before is None:
            continue
        made = _spelt(before, maker)[0]
        if made.lower() in _SHARES:
            return [made]
        if before.kind in _MIXING or (before.kind in _PRODUCTS and name in biased):
            waiting += before.inputs
    return []


def _given_on(operator: Operator, maker: Callable[[str], Operator | None]) -> str | None:
    """Return the input whose values an operator gives on; None for one that computes."""
    if operator.kind in _BOUNDS:
        made = {name: maker(name) for name in operator.inputs}
        computed = [name for name, its in made.items() if its and its.kind not in _CONSTANTS]
        return computed[0] if len(computed) == 1 else None
    return operator.inputs[0] if operator.kind in PASSING and operator.inputs else None


def _unchanged(operator: Operator, scalars: Mapping[str, float]) -> str | None:
    """Return the input that an operator gives on since its other one changes nothing, or None."""
    neutral = _NEUTRAL.get(operator.kind)
    if neutral is None or len(operator.inputs) != 2:
        return None
    first, second = operator.inputs
    if scalars.get(second) == neutral:
        return first
    return second if operator.kind in _EITHER_SIDE and scalars.get(first) == neutral else None


def _spelt(operator: Operator, maker: Callable[[str], Operator | None]) -> list[str]:
    """Return the kind of an operator that computes, or what several spell out together.

    A softmax is exp(x) / sum(exp(x)), or the exponential of a LogSoftmax; a sigmoid is
    1 / (1 + exp(-x)); a matrix product may get its bias by an addition.
    """
    before = [maker(name) for name in operator.inputs]
    kinds = [made.kind if made else "" for made in before]
    if operator.kind == "Exp" and kinds == ["LogSoftmax"]:
        return ["Softmax"]
    if operator.kind in {"Div", "Divide", "Reciprocal"} and before:
        below = before[-1]
        if kinds == ["Exp", "ReduceSum"] and below and below.inputs[0] == operator.inputs[0]:
            return ["Softmax"]
        if below is not None and _adds_power(below, maker):
            return ["Sigmoid"]
    products = [made for made in kinds if made in _PRODUCTS]
    return [operator.kind, *products[:1]] if operator.kind == "Add" else [operator.kind]


def _adds_power(operator: Operator, maker: Callable[[str], Operator | None]) -> bool:
    """Whether an operator is a constant plus exp(-x)."""
    kinds = sorted(made.kind if (made := maker(name)) else "" for name in operator.inputs)
    return operator.kind == "Add" and kinds in (["", "Exp"], ["Const", "Exp"], ["Constant", "Exp"])


def is_mixed(path: tuple[str, ...]) -> bool:
    """Whether an end computes with probabilities: what comes of it may be some still."""
    return len(path) > 1 and path[-1].lower() in _SHARES and not _is_given_on(path[:-1])


def is_best(path: tuple[str, ...]) -> bool:
    """Whether an end gives the best values, or where they stand, and not one of each class."""
    return bool(path) and path[-1] in _BEST


def _is_given_on(path: tuple[str, ...]) -> bool:
    return PASSING.union(_BOUNDS).issuperset(path)


def kind(path: tuple[str, ...]) -> str:
    """Return "softmax" or "sigmoid" for an end that gives probabilities, else an empty text."""
    last = path[-1].lower() if path and _is_given_on(path[:-1]) else ""
    if last in _SOFTMAX:
        return "softmax"
    return "sigmoid" if last in _SIGMOID else ""


def is_linear(path: tuple[str, ...]) -> bool:
    """Whether an end gives numbers of any size, or the logarithms of probabilities."""
    return bool(path) and (path[-1] in _PRODUCTS or path[-1] == "LogSoftmax")


def said(path: tuple[str, ...]) -> str:
    """Return an end in words, in the order in which it is computed, without what does nothing."""
    return ", then ".join(kind for kind in reversed(path) if kind != "Identity") or "its input"
