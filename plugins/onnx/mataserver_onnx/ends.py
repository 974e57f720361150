"""The last operators of a network: which ones produced an output, traced back from it.

Exporters and optimisers put operators behind a softmax that change the shape of its values and not
the values themselves. The trace leads through those to the first operator that computes.
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
"""Operators that pass on values of their first input: reshaped, reordered or converted."""

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
"""The operand with which an operator changes nothing: an unused temperature, scale or bias."""
_EITHER_SIDE = frozenset({"Add", "Mul", "Multiply"})
_BOUNDS = frozenset({"Max", "Min", "Maximum", "Minimum"})
"""Clip as optimisers write it: with a constant for one of the inputs."""
_CONSTANTS = frozenset({"Const", "Constant"})
_SOFTMAX = frozenset({"softmax", "qlinearsoftmax"})
_SIGMOID = frozenset({"sigmoid", "hardsigmoid", "hsigmoid", "qlinearsigmoid"})
_ACTIVATIONS = _SOFTMAX | _SIGMOID | {"tanh"}
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
"""Operators whose results on probabilities may still be probabilities."""
_SELECTING = frozenset({"ArgMax", "ArgMin", "NonMaxSuppression", "TopK"})
"""Operators that select: their values are not one per class, in the order of the classes."""
_MAX_OPERATORS = 64
MAX_INPUTS = 64
"""Maximum inputs of an operator that are looked at: a stranger's may have a million."""


class Operator(NamedTuple):
    """An operator's kind and the names of its inputs, at most ``MAX_INPUTS``."""

    kind: str
    inputs: tuple[str, ...]


def trace(
    name: str,
    producer: Callable[[str], Operator | None],
    scalars: Mapping[str, float] = MappingProxyType({}),
) -> tuple[str, ...]:
    """Return the kinds of the operators that produced a value, traced back from it.

    The last is the first that computes, followed by the softmax, sigmoid or tanh whose values it
    mixes, if any. ``producer`` returns the operator that produces a value, or None for an input or
    a weight. ``scalars`` are weights of a single number: an operator that is neutral with its
    operand, as Mul with 1, counts as Identity.
    """
    path: list[str] = []
    operator = producer(name)
    while operator is not None and len(path) < _MAX_OPERATORS:
        before = _neutral_input(operator, scalars)
        path.append(operator.kind if before is None else "Identity")
        if before is None:
            before = _passed_input(operator, producer)
        if before is None:
            break
        operator = producer(before)
    if operator is not None:
        path[-1:] = _composite_kinds(operator, producer)
        if not activation_of((path[-1],)):
            path += _mixed_activation(operator, producer)
    return tuple(path)


def _mixed_activation(operator: Operator, producer: Callable[[str], Operator | None]) -> list[str]:
    """Return the activation whose probabilities an operator mixes, as a list of at most one."""
    if operator.kind not in _MIXING | _PRODUCTS:
        return []
    waiting, seen = list(operator.inputs), set[str]()
    biased = operator.inputs if operator.kind == "Add" else ()
    while waiting and len(seen) < _MAX_OPERATORS:
        name = waiting.pop(0)
        before = None if name in seen else producer(name)
        seen.add(name)
        if before is None:
            continue
        made = _composite_kinds(before, producer)[0]
        if made.lower() in _ACTIVATIONS:
            return [made]
        if before.kind in _MIXING or (before.kind in _PRODUCTS and name in biased):
            waiting += before.inputs
    return []


def _passed_input(operator: Operator, producer: Callable[[str], Operator | None]) -> str | None:
    """Return the input whose values an operator passes on; None for one that computes."""
    if operator.kind in _BOUNDS:
        made = {name: producer(name) for name in operator.inputs}
        computed = [name for name, its in made.items() if its and its.kind not in _CONSTANTS]
        return computed[0] if len(computed) == 1 else None
    return operator.inputs[0] if operator.kind in PASSING and operator.inputs else None


def _neutral_input(operator: Operator, scalars: Mapping[str, float]) -> str | None:
    """Return the input that an operator leaves unchanged by a neutral other operand, or None."""
    neutral = _NEUTRAL.get(operator.kind)
    if neutral is None or len(operator.inputs) != 2:
        return None
    first, second = operator.inputs
    if scalars.get(second) == neutral:
        return first
    return second if operator.kind in _EITHER_SIDE and scalars.get(first) == neutral else None


def _composite_kinds(operator: Operator, producer: Callable[[str], Operator | None]) -> list[str]:
    """Return the kind of an operator, or of the function that it computes with those before it.

    A softmax is exp(x) / sum(exp(x)), or the exponential of a LogSoftmax; a sigmoid is 1 / (1 +
    exp(-x)); a matrix product may get its bias by an addition.
    """
    before = [producer(name) for name in operator.inputs]
    kinds = [made.kind if made else "" for made in before]
    if operator.kind == "Exp" and kinds == ["LogSoftmax"]:
        return ["Softmax"]
    if operator.kind in {"Div", "Divide", "Reciprocal"} and before:
        below = before[-1]
        if kinds == ["Exp", "ReduceSum"] and below and below.inputs[0] == operator.inputs[0]:
            return ["Softmax"]
        if below is not None and _is_one_plus_exp(below, producer):
            return ["Sigmoid"]
    products = [made for made in kinds if made in _PRODUCTS]
    return [operator.kind, *products[:1]] if operator.kind == "Add" else [operator.kind]


def _is_one_plus_exp(operator: Operator, producer: Callable[[str], Operator | None]) -> bool:
    """Whether an operator computes a constant plus exp(-x)."""
    kinds = sorted(made.kind if (made := producer(name)) else "" for name in operator.inputs)
    return operator.kind == "Add" and kinds in (["", "Exp"], ["Const", "Exp"], ["Constant", "Exp"])


def mixes_probabilities(path: tuple[str, ...]) -> bool:
    """Whether the output is computed from probabilities, and may still be probabilities."""
    return len(path) > 1 and path[-1].lower() in _ACTIVATIONS and not _only_passes(path[:-1])


def selects_best(path: tuple[str, ...]) -> bool:
    """Whether the output holds the best values or their indices, and not one value per class."""
    return bool(path) and path[-1] in _SELECTING


def _only_passes(path: tuple[str, ...]) -> bool:
    return PASSING.union(_BOUNDS).issuperset(path)


def activation_of(path: tuple[str, ...]) -> str:
    """Return "softmax" or "sigmoid" for an output of probabilities, else an empty string."""
    last = path[-1].lower() if path and _only_passes(path[:-1]) else ""
    if last in _SOFTMAX:
        return "softmax"
    return "sigmoid" if last in _SIGMOID else ""


def is_linear(path: tuple[str, ...]) -> bool:
    """Whether the output holds unbounded numbers, or the logarithms of probabilities."""
    return bool(path) and (path[-1] in _PRODUCTS or path[-1] == "LogSoftmax")


def describe(path: tuple[str, ...]) -> str:
    """Return the operators in words, in the order of computation, without neutral ones."""
    return ", then ".join(kind for kind in reversed(path) if kind != "Identity") or "its input"
