"""What a plugin's ``load`` returned, and what its methods return that are called first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mataserver.contract.backend import MAX_STEP_TIMEOUT, MODEL_METHODS, is_step_timeout
from mataserver.engines import scaling
from mataserver.engines.item_validation import InvalidResultError
from mataserver.errors import MataError
from mataserver.signatures import plain_call_problem


def check_model(model: object, name: str, task: str) -> None:
    """Raise ``MataError`` for a model that would fail at its first request, frame or text."""
    problem = _problem_of_methods(model) or _problem_of_attributes(model, task)
    if problem:
        raise MataError(f"The model could not be loaded: {name}: {problem}")


def has_method(model: object, name: str) -> bool:
    """Whether a model has an optional method; ONNX Runtime's ``session``, for example, is none."""
    return callable(getattr(model, name, None))


def open_session(model: Any, params: object) -> Any:
    """Return a model's new session. Raises ``InvalidResultError`` if it has no ``step``."""
    session = model.session(params)
    if not has_method(session, "step"):
        returned = type(session).__name__
        raise InvalidResultError(f"session returned a {returned}, which has no method step")
    return session


def open_stream(model: Any, image: object, params: object) -> Any:
    """Return a model's generator. Raises ``InvalidResultError`` for what cannot be closed."""
    pieces = model.stream(image, params)
    if not (isinstance(pieces, Iterable) and has_method(pieces, "close")):
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
    if not has_method(model, "predict"):
        return f"load returned a {type(model).__name__}, which has no method predict"
    for method, given in MODEL_METHODS.items():
        if not has_method(model, method):
            continue
        if problem := plain_call_problem(getattr(model, method), given):
            return f"{method} {problem}"
    return ""


def _problem_of_attributes(model: Any, task: str) -> str:
    """Return which attribute is not what the server takes it for."""
    try:
        size = scaling.input_size(model, task)
    except (TypeError, ValueError, OverflowError):
        size = (0, 0)
    if size is not None and min(size) < 1:
        return f"its input_size is {model.input_size!r}, and must be (height, width) in pixels"
    seconds = getattr(model, "step_timeout", 0.0)
    if not is_step_timeout(seconds):
        return f"its step_timeout is {seconds!r}, and must be 0 to {MAX_STEP_TIMEOUT:g} seconds"
    return ""
