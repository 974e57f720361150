"""What the numbers of classes are: logits, or probabilities that need nothing done to them.

Its file says how it ends, and the settings may say otherwise. An end that says nothing is tried on
pictures of noise when the network is opened: probabilities of classes that exclude each other are
not negative and sum to 1, which logits never do for long.
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

_NEAR = 0.01
"""By how much the sum of half-precision probabilities may miss 1."""
_PLACES = 16
_STEP = 1 / 128
"""By how much a probability in 8 bits may be wrong."""


class Ending(NamedTuple):
    """What is done to the numbers, and why.

    activation: "softmax", "sigmoid", or "none" for probabilities.
    reason:     what decided it, as a part of a sentence.
    made:       "softmax" or "sigmoid" where the file says that the numbers are made by it.
    mixed:      whether it says that they are computed of such numbers.
    sure:       whether nothing is left to be tried.
    """

    activation: Activation
    reason: str
    made: str = ""
    mixed: bool = False
    sure: bool = True

    def __str__(self) -> str:
        """Return it in words."""
        applied = "nothing" if self.activation == "none" else self.activation
        tried = "" if self.sure else ", unless probabilities come out of it when it is loaded"
        return f"{applied} is applied: {self.reason}{tried}"


def decide(graph: Graph, output: str, config: Mapping[str, Any], options: ModelOptions) -> Ending:
    """Return what is done to the numbers of an output, by its file and the settings alone.

    Raises ``MataError`` for a network that measures, whose numbers are no classes'.
    """
    if options.activation != "auto":
        return Ending(options.activation, "stated as activation")
    if config.get("problem_type") == "regression":
        raise MataError(
            "config.json says that the network measures (problem_type is regression): its numbers "
            "are no probabilities; state activation under plugins.onnx.models if they are"
        )
    path = graph.ends.get(output, ())
    said = f"the network ends in {ends.said(path)}"
    made = ends.kind(path)
    if made:
        return Ending("none", said, made)
    if config.get("problem_type") == "multi_label_classification":
        return Ending("sigmoid", f"{said}, and its labels exclude no other")
    if _classes(graph, output) == 1 or len(config.get("id2label") or ()) == 1:
        return Ending("sigmoid", f"{said}, of one class")
    known = _classes(graph, output) is not None
    sure = known and ends.is_linear(path)
    return Ending("softmax", said, mixed=ends.is_mixed(path), sure=sure)


def _classes(graph: Graph, output: str) -> int | None:
    port = graph.output(output)
    side = port.dims[1] if port is not None and len(port.dims) > 1 else None
    return side if isinstance(side, int) else None


def tried(ending: Ending, rows: Sequence[Array]) -> Ending:
    """Return what is done, now that the network has answered pictures of noise with ``rows``.

    Raises ``MataError`` for a network that says that it ends in probabilities of the classes and
    gives something else: a softmax over the pictures of a batch, or over places. Also for one
    that computes with probabilities, and may give some of a kind that nothing tells.
    """
    if rows and len(rows[0]) == 1 and not ending.sure:
        return Ending("sigmoid", f"{ending.reason}, of one class")
    if ending.made and not all(_possible(row, ending.made) for row in rows):
        raise MataError(
            f"{ending.reason}, but its answers are no probabilities of its classes: state "
            "activation under plugins.onnx.models"
        )
    total = None if ending.sure else _total(rows)
    if total is None:
        if ending.mixed and rows and all(_possible(row, "sigmoid") for row in rows):
            raise MataError(
                f"{ending.reason}, and its answers may be probabilities or not: state activation "
                "under plugins.onnx.models"
            )
        return ending._replace(sure=True)
    if abs(total - 1) > _NEAR:
        raise MataError(
            f"{ending.reason}, and its answers always sum to {total:.4g}: state activation under "
            "plugins.onnx.models"
        )
    return Ending("none", f"{ending.reason}, and its answers sum to 1")


def find(network: Network) -> Ending:
    """Return what is done to the numbers of a loaded network, which is tried if need be.

    Of one that answers for each place, the places of its first rows are tried. Raises
    ``MataError`` as ``tried``.
    """
    bundle, [output] = network.bundle, network.outputs
    ending = decide(bundle.graph, output, bundle.config, network.options)
    probe = network.probe() if ending.made or not ending.sure else []
    rows = [row for [answer] in probe for row in answer.reshape(len(answer), -1).T[:_PLACES]]
    found = tried(ending, rows)
    network.log.info("%s", found)
    return found


def apply(ending: Ending, numbers: Array, axis: int = -1) -> Array:
    """Return the probabilities, 0 to 1; the classes lie along ``axis``."""
    from mataserver_onnx.answers import sigmoid, softmax

    if ending.activation == "none":
        return numbers.clip(0, 1)  # rounding may leave a little more than 1
    return sigmoid(numbers) if ending.activation == "sigmoid" else softmax(numbers, axis)


def _total(rows: Sequence[Array]) -> float | None:
    """Return what different rows sum to that are never negative, if it is always the same."""
    sums = [float(row.sum()) for row in rows]
    if len(rows) < 2 or min(float(row.min()) for row in rows) < 0 or not sums[0]:
        return None
    alike = max(sums) - min(sums) <= _NEAR * sums[0]
    different = any((row != rows[0]).any() for row in rows[1:])
    return sums[0] if alike and (different or abs(sums[0] - 1) <= _NEAR) else None


def _possible(row: Array, made: str) -> bool:
    """Whether numbers can be probabilities, some of which may have been cut off."""
    if row.min() < -_STEP or row.max() > 1 + _STEP:
        return False
    return made != "softmax" or bool(row.sum() <= 1 + _NEAR + _STEP * len(row))
