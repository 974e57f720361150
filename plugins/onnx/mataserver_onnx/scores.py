"""Determines whether class scores are logits, or probabilities that need no activation.

The network's file shows its last operators, and the settings may override that. An undecided
network is run on pictures of noise when it is opened: probabilities of exclusive classes are not
negative and sum to 1, which logits never do for long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from mataserver import MataError
from mataserver_onnx import ends

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mataserver_onnx.graph import Graph
    from mataserver_onnx.network import Network
    from mataserver_onnx.options import Activation, ModelOptions

    Array = NDArray[np.float32]

_SUM_TOLERANCE = 0.01
"""By how much the sum of half-precision probabilities may differ from 1."""
_MAX_POSITIONS = 16
_INT8_STEP = 1 / 128
"""The error of a probability in 8 bits."""


class ScoreActivation(NamedTuple):
    """The activation that is applied to the scores, and why.

    activation: "softmax", "sigmoid", or "none" for probabilities.
    reason:     what decided it, as a part of a sentence.
    in_graph:   "softmax" or "sigmoid" where the file shows that it produces the scores.
    is_mixed:   whether the file shows that the scores are computed from such numbers.
    is_certain: whether no trial run is needed.
    """

    activation: Activation
    reason: str
    in_graph: str = ""
    is_mixed: bool = False
    is_certain: bool = True

    @property
    def is_independent(self) -> bool:
        """Whether each class is scored for itself, and excludes no other."""
        return "sigmoid" in {self.activation, self.in_graph}

    def __str__(self) -> str:
        """Return it in words."""
        applied = "nothing" if self.activation == "none" else self.activation
        tried = "" if self.is_certain else ", unless probabilities come out of it when it is loaded"
        return f"{applied} is applied: {self.reason}{tried}"


def decide(
    graph: Graph, output: str, config: Mapping[str, Any], options: ModelOptions
) -> ScoreActivation:
    """Return the activation for an output, by its file and the settings alone.

    Raises ``MataError`` for a regression network, whose outputs are not classes.
    """
    if options.activation != "auto":
        return ScoreActivation(options.activation, "stated as activation")
    if config.get("problem_type") == "regression":
        raise MataError(
            "config.json says that the network measures (problem_type is regression): its numbers "
            "are no probabilities; state activation under plugins.onnx.models if they are"
        )
    path = graph.ends.get(output, ())
    said = f"the network ends in {ends.describe(path)}"
    made = ends.activation_of(path)
    if made:
        return ScoreActivation("none", said, made)
    if config.get("problem_type") == "multi_label_classification":
        return ScoreActivation("sigmoid", f"{said}, and its labels exclude no other")
    named = config.get("id2label")
    if _classes(graph, output) == 1 or (isinstance(named, dict | list) and len(named) == 1):
        return ScoreActivation("sigmoid", f"{said}, of one class")
    known = _classes(graph, output) is not None
    sure = known and ends.is_linear(path)
    return ScoreActivation(
        "softmax", said, is_mixed=ends.mixes_probabilities(path), is_certain=sure
    )


def _classes(graph: Graph, output: str) -> int | None:
    port = graph.output(output)
    side = port.dims[1] if port is not None and len(port.dims) > 1 else None
    return side if isinstance(side, int) else None


def refine(activation: ScoreActivation, rows: Sequence[Array]) -> ScoreActivation:
    """Return the activation, given the network's outputs ``rows`` for pictures of noise.

    Raises ``MataError`` for a network whose file shows that it ends in probabilities of the
    classes, but whose outputs are something else: a softmax over the batch, or over places. Also
    for one that computes with probabilities and whose outputs may or may not be some.
    """
    if rows and len(rows[0]) == 1 and not activation.is_certain:
        return ScoreActivation("sigmoid", f"{activation.reason}, of one class")
    if activation.in_graph and not all(
        _may_be_probabilities(row, activation.in_graph) for row in rows
    ):
        raise MataError(
            f"{activation.reason}, but its answers are no probabilities of its classes: state "
            "activation under plugins.onnx.models"
        )
    total = None if activation.is_certain else _constant_sum(rows)
    if total is None:
        if (
            activation.is_mixed
            and rows
            and all(_may_be_probabilities(row, "sigmoid") for row in rows)
        ):
            raise MataError(
                f"{activation.reason}, and its answers may be probabilities or not: state "
                "activation under plugins.onnx.models"
            )
        return activation._replace(is_certain=True)
    if abs(total - 1) > _SUM_TOLERANCE:
        raise MataError(
            f"{activation.reason}, and its answers always sum to {total:.4g}: state activation "
            "under plugins.onnx.models"
        )
    return ScoreActivation("none", f"{activation.reason}, and its answers sum to 1")


def find(network: Network) -> ScoreActivation:
    """Return the activation for a loaded network, which is run on noise if needed.

    Of one with outputs per place, a few places of the first rows are used. Raises ``MataError`` as
    ``refine``.
    """
    bundle, [output] = network.bundle, network.outputs
    activation = decide(bundle.graph, output, bundle.config, network.options)
    probe = network.probe() if activation.in_graph or not activation.is_certain else []
    rows = [row for [answer] in probe for row in answer.reshape(len(answer), -1).T[:_MAX_POSITIONS]]
    found = refine(activation, rows)
    network.log.info("%s", found)
    return found


def apply(activation: ScoreActivation, numbers: Array, axis: int = -1) -> Array:
    """Return the probabilities, 0 to 1; the classes lie along ``axis``."""
    from mataserver_onnx.raw_detections import sigmoid, softmax

    if activation.activation == "none":
        return numbers.clip(0, 1)  # rounding may exceed 1
    return sigmoid(numbers) if activation.activation == "sigmoid" else softmax(numbers, axis)


def _constant_sum(rows: Sequence[Array]) -> float | None:
    """Return the sum of differing, non-negative rows if it is always the same, else None."""
    sums = [float(row.sum()) for row in rows]
    if len(rows) < 2 or min(float(row.min()) for row in rows) < 0 or not sums[0]:
        return None
    alike = max(sums) - min(sums) <= _SUM_TOLERANCE * sums[0]
    different = any((row != rows[0]).any() for row in rows[1:])
    return sums[0] if alike and (different or abs(sums[0] - 1) <= _SUM_TOLERANCE) else None


def _may_be_probabilities(row: Array, in_graph: str) -> bool:
    """Whether numbers can be probabilities, of which some may be missing."""
    if row.min() < -_INT8_STEP or row.max() > 1 + _INT8_STEP:
        return False
    return in_graph != "softmax" or bool(row.sum() <= 1 + _SUM_TOLERANCE + _INT8_STEP * len(row))
