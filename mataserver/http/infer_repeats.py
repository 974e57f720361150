"""Inference requests equivalent to an earlier one, or described entirely by their bodies."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from mataserver.errors import MataError
from mataserver.http import forms
from mataserver.http.budget import THREAD_DECODE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver.contract.bodies import Form
    from mataserver.contract.envelope import Format
    from mataserver.contract.handles import Encoded
    from mataserver.library.plan import ModelPlan
    from mataserver.params import Params
    from mataserver.serving.handle import Handle

    OnAnswer = Callable[[Encoded | Exception], None]


class InferCall(NamedTuple):
    """The inference that a query or a body requests; ``plan`` is the model's at that time."""

    model: Handle
    params: Params
    plan: ModelPlan


class InferenceRunner(Protocol):
    """Runs inferences."""

    async def read_json(self, data: bytes) -> tuple[InferCall, bytes]:
        """Parse a JSON body into the call and its image."""
        ...

    def read_small(self, data: bytes) -> tuple[InferCall, bytes]:
        """Do so for a body that decodes in negligible time."""
        ...

    def call_of_form(self, form: Form) -> InferCall:
        """Return the call that a form describes."""
        ...

    async def answer(self, call: InferCall, image: bytes, form: Format) -> Encoded:
        """Run inference and notify services."""
        ...

    def begin(
        self, call: InferCall, image: bytes, form: Format, on_answer: OnAnswer
    ) -> Callable[[], None] | None:
        """Start inference; only if no service must be notified."""
        ...


class ImageRepeat(NamedTuple):
    """Requests with an image body, with parameters as in an earlier request."""

    service: InferenceRunner
    call: InferCall
    form: Format

    def is_current(self) -> bool:
        """Whether the model is unchanged."""
        try:
            return self.call.model.plan() is self.call.plan
        except MataError:
            return False

    async def answer(self, body: bytes, _boundary: bytes) -> Encoded:
        """Run inference on an image."""
        return await self.service.answer(self.call, body, self.form)

    def begin(
        self, body: bytes, _boundary: bytes, on_answer: OnAnswer
    ) -> Callable[[], None] | None:
        """Start inference on an image."""
        return self.service.begin(self.call, body, self.form, on_answer)


class JsonRepeat(NamedTuple):
    """JSON requests, described entirely by the body."""

    service: InferenceRunner
    form: Format

    def is_current(self) -> bool:
        """Always true: the content type is JSON."""
        return True

    async def answer(self, body: bytes, _boundary: bytes) -> Encoded:
        """Run the inference that a body describes."""
        call, image = await self.service.read_json(body)
        del body
        return await self.service.answer(call, image, self.form)

    def begin(
        self, body: bytes, _boundary: bytes, on_answer: OnAnswer
    ) -> Callable[[], None] | None:
        """Start the inference of a body that decodes in negligible time."""
        if len(body) > THREAD_DECODE_BYTES:
            return None
        call, image = self.service.read_small(body)
        return self.service.begin(call, image, self.form, on_answer)


class FormRepeat(NamedTuple):
    """Uploads, described entirely by the form."""

    service: InferenceRunner
    form: Format

    def is_current(self) -> bool:
        """Always true: the content type is a form's."""
        return True

    async def answer(self, body: bytes, boundary: bytes) -> Encoded:
        """Run the inference that a form describes."""
        form = await forms.read(body, boundary.decode("ascii"))
        del body
        call, image = self.service.call_of_form(form), form.file
        return await self.service.answer(call, image, self.form)

    def begin(self, body: bytes, boundary: bytes, on_answer: OnAnswer) -> Callable[[], None] | None:
        """Start the inference of a form that is read in negligible time."""
        if len(body) > THREAD_DECODE_BYTES:
            return None
        form = forms.parse(body, boundary.decode("ascii"))
        return self.service.begin(self.service.call_of_form(form), form.file, self.form, on_answer)
