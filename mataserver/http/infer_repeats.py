"""Inferences that requests describe, also those equivalent to an earlier one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec import UNSET, Struct, UnsetType

from mataserver.contract.handles import ResultEvent
from mataserver.errors import BadRequest, InvalidParams, MataError
from mataserver.http import codec, data_uri, forms, json_body, unknown_fields
from mataserver.http.budget import THREAD_DECODE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver.contract.bodies import Form
    from mataserver.contract.envelope import Format
    from mataserver.contract.handles import Encoded
    from mataserver.contract.web import Http
    from mataserver.library.plans import ModelPlan
    from mataserver.params.table import Params
    from mataserver.serving.handle import Handle
    from mataserver.serving.models import ServedModels
    from mataserver.serving.observers import Observers

    OnAnswer = Callable[[Encoded | Exception], None]

MAX_MISSES = 16
"""Forms in a row that are not like the last one, until no other is remembered."""


class InferBody(Struct):
    """``POST /v1/infer`` with JSON, as it is decoded; unknown fields are ignored."""

    model: codec.ModelName
    image: str | UnsetType | None = UNSET
    params: dict[str, Any] | None = None


class _ExactBody(InferBody, forbid_unknown_fields=True):
    """The same without unknown fields."""


class InferCall(NamedTuple):
    """The inference that a query or a body requests; ``plan`` is the model's at that time.

    ``warning`` names what of the request is ignored.
    """

    model: Handle
    params: Params
    plan: ModelPlan
    warning: str = ""

    @property
    def is_current(self) -> bool:
        """Whether the model is unchanged since."""
        try:
            return self.model.plan() is self.plan
        except MataError:
            return False


class Inferences:
    """Reads calls and runs them."""

    def __init__(self, http: Http, models: ServedModels, observers: Observers) -> None:
        self._http = http
        self._models = models
        self._observers = observers

    def call(
        self, name: str, given: dict[str, Any] | None, *, text: bool = False, warning: str = ""
    ) -> InferCall:
        """Return the call of a model with parameters, which are ``text`` in queries and forms."""
        return InferCall(*self._models.resolve(name, given, text=text), warning)

    async def read_json(self, data: bytes) -> tuple[InferCall, bytes]:
        """Parse a JSON body; return its call and its image."""
        body, image, warning = await self._http.decode(data, _parse_json)
        del data
        return self.call(body.model, body.params, warning=warning), image

    def parse_json(self, data: bytes) -> tuple[InferCall, bytes]:
        """Do so without a thread, for a small body."""
        body, image, warning = _parse_json(data)
        return self.call(body.model, body.params, warning=warning), image

    def of_form(self, form: Form) -> tuple[InferCall, bytes]:
        """Return the call that a form describes, and its image."""
        return self.of_fields(form.fields), form.file

    def of_fields(self, fields: dict[str, str]) -> InferCall:
        """Return the call that the fields of a query or a form describe."""
        model = fields.pop("model", None)
        if not model:
            raise InvalidParams(f"model: field is required{unknown_fields.hint('model', fields)}")
        return self.call(model, fields, text=True)

    async def answer(self, call: InferCall, image: bytes, form: Format) -> Encoded:
        """Infer, and notify services."""
        answer = await call.model.answer(image, call.params, form)
        if self._observers.infer and self._observers:
            spec, packed = call.plan.spec, form == "msgpack"
            event = ResultEvent("infer", spec.name, spec.task, image, answer.body, packed)
            self._observers.publish(event)
        return answer

    def begin(
        self, call: InferCall, image: bytes, form: Format, on_answer: OnAnswer
    ) -> Callable[[], None] | None:
        """Start to infer without a task, unless services must be notified."""
        if self._observers.infer and self._observers:
            return None
        return call.model.begin(image, call.params, form, on_answer)


class InferRepeat:
    """How further requests with the head of an earlier one are answered, in its format.

    This one reads JSON, which describes an inference entirely.
    """

    max_parsed: float = THREAD_DECODE_BYTES
    """Bytes of a body that ``parse`` reads in negligible time."""

    def __init__(self, inferences: Inferences, form: Format) -> None:
        self._inferences = inferences
        self.form = form

    def is_current(self) -> bool:
        """Whether they would still be answered the same way."""
        return True

    async def answer(self, body: bytes, boundary: bytes) -> Encoded:
        """Answer a request with a non-empty body. Raises what the handler raises.

        ``boundary`` separates the parts of a form.
        """
        call, image = await self._read(body, boundary)
        del body
        answer = await self._inferences.answer(call, image, self.form)
        return msgspec.structs.replace(answer, warning=call.warning) if call.warning else answer

    def begin(self, body: bytes, boundary: bytes, take: OnAnswer) -> Callable[[], None] | None:
        """Start to answer without a task; return None if only ``answer`` can.

        ``take`` is called later, once, with what ``answer`` returns or raises; for one of
        ``RETRIABLE`` the caller should retry with ``answer``. Its body may be a memoryview that is
        valid only during that call. Returns a function that cancels the request. Raises errors of
        the request.
        """
        if len(body) > self.max_parsed:
            return None
        call, image = self._parse(body, boundary)
        return None if call.warning else self._inferences.begin(call, image, self.form, take)

    async def _read(self, body: bytes, _boundary: bytes) -> tuple[InferCall, bytes]:
        """Return a body's call and image; other requests have their turn meanwhile."""
        return await self._inferences.read_json(body)

    def _parse(self, body: bytes, _boundary: bytes) -> tuple[InferCall, bytes]:
        return self._inferences.parse_json(body)


class FormRepeat(InferRepeat):
    """Uploads, described entirely by the form; one like the last is not parsed again."""

    def __init__(self, inferences: Inferences, form: Format) -> None:
        super().__init__(inferences, form)
        self._last: tuple[forms.FormFrame, InferCall] | None = None
        self._misses = 0

    async def _read(self, body: bytes, boundary: bytes) -> tuple[InferCall, bytes]:
        return self._inferences.of_form(await forms.read(body, boundary.decode("ascii")))

    def _parse(self, body: bytes, boundary: bytes) -> tuple[InferCall, bytes]:
        if self._last is not None:
            frame, call = self._last
            file = frame.file_in(body, boundary)
            if file is not None and call.is_current:
                self._misses = 0
                return call, file
        call, file = self._inferences.of_form(forms.parse(body, boundary.decode("ascii")))
        self._misses += 1
        if self._misses <= MAX_MISSES:  # names of files that differ each time cost nothing
            found = forms.frame(body, boundary, file)
            self._last = None if found is None else (found, call)
        return call, file


class ImageRepeat(InferRepeat):
    """Requests with an image body, with parameters as in an earlier request."""

    max_parsed = math.inf

    def __init__(self, inferences: Inferences, form: Format, call: InferCall) -> None:
        super().__init__(inferences, form)
        self._call = call

    def is_current(self) -> bool:
        """Whether the model is unchanged."""
        return self._call.is_current

    async def _read(self, body: bytes, _boundary: bytes) -> tuple[InferCall, bytes]:
        return self._call, body

    def _parse(self, body: bytes, _boundary: bytes) -> tuple[InferCall, bytes]:
        return self._call, body


def _parse_json(data: bytes) -> tuple[InferBody, bytes, str]:
    """Return a JSON body, its image, and a warning; large bodies are read in a thread."""
    body, warning = json_body.decode_with_warning(data, InferBody, _ExactBody)
    if not isinstance(body.image, str):
        hint = unknown_fields.hint_of_body("image", data, InferBody)
        raise BadRequest(f"image: field is required{hint}")
    image = data_uri.decode(body.image)
    body.image = None  # the text is released before the inference
    return body, image, warning
