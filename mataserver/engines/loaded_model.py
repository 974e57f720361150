"""What a plugin's ``load`` returned, and what its methods return that are called first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mataserver.contract.backend import MAX_STEP_TIMEOUT, MODEL_METHODS
from mataserver.engines import scaling
from mataserver.engines.item_validation import InvalidResultError
from mataserver.errors import MataError
from mataserver.signatures import plain_call_problem


def check_model(model: object, name: str, task: str) -> None:
    """Raise ``MataError`` for a model that would fail at its first request, frame or text."""
    problem = _problem_of_methods(model) or _problem_of_attributes(model, task)
    if problem:
        raise MataError(f"The model could not be loaded: {name}: {problem}")


def open_session(model: Any, params: object) -> Any:
    """Return a model's new session. Raises ``InvalidResultError`` if it has no ``step``."""
    session = model.session(params)
    if not callable(getattr(session, "step", None)):
        returned = type(session).__name__
        raise InvalidResultError(f"session returned a {returned}, which has no method step")
    return session


def open_stream(model: Any, image: object, params: object) -> Any:
    """Return a model's generator. Raises ``InvalidResultError`` for what cannot be closed."""
    pieces = model.stream(image, params)
    if not (isinstance(pieces, Iterable) and callable(getattr(pieces, "close", None))):
        raise InvalidResultError(f"stream returned a {type(pieces).__name__}, not a generator")
    return pieces


def as_results(given: object, count: int) -> list[Any]:
    """Return the results as a list. Raises ``InvalidResultError`` unless there are ``count``."""
    if not isinstance(given, Iterable):
        raise InvalidResultError(
            f"predict returned a {type(given).__name__}, not a list of results"
        )
    results = list(given)
    if len(results) != count:
        raise InvalidResultError(f"{len(results)} results for {count} images")
    return results


def _problem_of_methods(model: object) -> str:
    if not callable(getattr(model, "predict", None)):
        return f"load returned a {type(model).__name__}, which has no method predict"
    for method, given in MODEL_METHODS.items():
        if not hasattr(model, method):
            continue
        function = getattr(model, method)
        if not callable(function):  # ONNX Runtime's session, for example
            kind = type(function).__name__
            return f"its {method} is a {kind}, and must be a method or have another name"
        if problem := plain_call_problem(function, given):
            return f"{method} {problem}"
    return ""


def _problem_of_attributes(model: object, task: str) -> str:
    """Return which attribute is not what the server takes it for."""
    size = scaling.input_size(model, task)
    if size is not None and not _is_size(size):
        return f"its input_size is {size!r}, and must be (height, width) in pixels"
    seconds = getattr(model, "step_timeout", 0.0)
    if not (isinstance(seconds, (int, float)) and 0 <= seconds <= MAX_STEP_TIMEOUT):
        return f"its step_timeout is {seconds!r}, and must be 0 to {MAX_STEP_TIMEOUT:g} seconds"
    labels = getattr(model, "labels", None) if task == "detect" else None
    if labels is not None and not _are_texts(labels):
        return f"its labels are a {type(labels).__name__}, and must be a sequence of texts"
    return ""


def _is_size(given: object) -> bool:
    """Whether this is a height and a width."""
    return (
        isinstance(given, (tuple, list))
        and len(given) == 2
        and all(isinstance(each, int) and each > 0 for each in given)
    )


def _are_texts(given: object) -> bool:
    """Whether these are texts: a mapping gives its keys, and a text its letters."""
    if not isinstance(given, Iterable) or isinstance(given, (str, bytes, Mapping)):
        return False
    return not isinstance(given, Sequence) or all(isinstance(each, str) for each in given)
