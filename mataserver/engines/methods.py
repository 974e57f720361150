"""Calls of a loaded model's own methods, on behalf of services."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from collections.abc import Iterator


class ModelMethods:
    """The public methods of one model; returned results are validated like answers."""

    def __init__(self, model: Any, name: str) -> None:
        self._model = model
        self._name = name

    def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a public method of the model. Raises a ``MataError``."""
        function = self._method(method)
        try:
            return self._checked(function(*args, **kwargs))
        except MODEL_ERRORS as error:
            raise client_error(error, "The model failed", self._name) from error

    def stream(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Any]:
        """Iterate over a public generator method of the model. Raises a ``MataError``."""
        items = self.call(method, args, kwargs)
        try:
            for item in items:
                yield self._checked(item)
        except GeneratorExit:
            raise
        except MODEL_ERRORS as error:
            raise client_error(error, "The model failed", self._name) from error
        finally:
            close_quietly(items)

    def _checked(self, value: Any) -> Any:
        """Return a method's value; validate results of tasks in it, as those of requests are."""
        if type(value) in {list, tuple} and any(isinstance(each, RESULT_TYPES) for each in value):
            return type(value)([self._checked(each) for each in value])
        if not isinstance(value, RESULT_TYPES):
            return value
        tasks: tuple[str, ...] = getattr(value, "tasks", ())
        try:
            return validate_result(value, tasks[0])
        except InvalidResultError as error:
            raise MataError(invalid_result_failure(error, self._name).detail) from None

    def _method(self, method: str) -> Any:
        function = None if method.startswith("_") else getattr(self._model, method, None)
        if not callable(function):
            raise NotFound(f"The model has no method {method!r}")
        return function
