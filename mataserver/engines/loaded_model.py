"""What a plugin's ``load`` returned: its methods, and the checks of what they return."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from mataserver.contract.backend import MAX_STEP_TIMEOUT, MODEL_METHODS, is_step_timeout
from mataserver.engines import scaling
from mataserver.engines.failures import (
    MODEL_ERRORS,
    client_error,
    close_quietly,
    invalid_result_failure,
)
from mataserver.engines.item_validation import InvalidResultError
from mataserver.engines.result_validation import validate_result
from mataserver.errors import MataError, NotFound
from mataserver.results import RESULT_TYPES
from mataserver.signatures import plain_call_problem

if TYPE_CHECKING:
    from collections.abc import Iterator


def check_model(model: object, name: str, task: str) -> None:
    """Raise ``MataError`` for a model that would fail at its first request, frame or text."""
    problem = _problem_of_methods(model) or _problem_of_attributes(model, task)
    if problem:
        raise MataError(f"The model could not be loaded: {name}: {problem}")


def has_method(model: object, name: str) -> bool:
    """Whether a model has an optional method; ONNX Runtime's ``session``, for example, is none."""
    return callable(getattr(model, name, None))


def is_lazy(model: object) -> bool:
    """Whether a model's ``stream`` decodes its image itself."""
    return has_method(model, "stream") and getattr(model, "lazy_images", False) is True


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


def call(model: Any, name: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a public method of a model for a service. Raises a ``MataError``."""
    function = None if method.startswith("_") else getattr(model, method, None)
    if not callable(function):
        raise NotFound(f"The model has no method {method!r}")
    try:
        return _checked(function(*args, **kwargs), name)
    except MODEL_ERRORS as error:
        raise client_error(error, "The model failed", name) from error


def stream(
    model: Any, name: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterator[Any]:
    """Iterate over a public generator method of a model. Raises a ``MataError``."""
    items = call(model, name, method, args, kwargs)
    try:
        for item in items:
            yield _checked(item, name)
    except GeneratorExit:
        raise
    except MODEL_ERRORS as error:
        raise client_error(error, "The model failed", name) from error
    finally:
        close_quietly(items)


def _checked(value: Any, name: str) -> Any:
    """Return a method's value; validate results of tasks in it, as those of requests are."""
    if type(value) in {list, tuple} and any(isinstance(each, RESULT_TYPES) for each in value):
        return type(value)([_checked(each, name) for each in value])
    if not isinstance(value, RESULT_TYPES):
        return value
    tasks: tuple[str, ...] = getattr(value, "tasks", ())
    try:
        return validate_result(value, tasks[0])
    except InvalidResultError as error:
        raise MataError(invalid_result_failure(error, name).detail) from None


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
