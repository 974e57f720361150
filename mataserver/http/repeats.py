"""Inference requests equivalent to an earlier one, or described entirely by their bodies."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from mataserver.errors import MataError
from mataserver.http import forms
from mataserver.http.budget import LARGE

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver.contract.bodies import Form
    from mataserver.contract.envelope import Format
    from mataserver.contract.handles import Encoded
    from mataserver.library.plan import ModelPlan
    from mataserver.params import Params
    from mataserver.serving.handle import Handle

    Take = Callable[[Encoded | Exception], None]


class InferCall(NamedTuple):
    """The inference that a query or a body requests; ``plan`` is the model's at that time."""

    model: Handle
    params: Params
    plan: ModelPlan


class Inferring(Protocol):
    """Runs inferences."""

    async def read(self, data: bytes) -> tuple[InferCall, bytes]:
        """Parse a JSON body into the call and its image."""
        ...

    def read_small(self, data: bytes) -> tuple[InferCall, bytes]:
        """Do so for a body that decodes in negligible time."""
        ...

    def uploaded(self, form: Form) -> InferCall:
        """Return the call that a form describes."""
        ...

    async def answer(self, call: InferCall, image: bytes, form: Format) -> Encoded:
        """Run inference and notify services."""
        ...

    def begin(
        self, call: InferCall, image: bytes, form: Format, take: Take
    ) -> Callable[[], None] | None:
        """Start inference; only if no service must be notified."""
        ...


class ImageRepeat(NamedTuple):
    """Requests with an image body, with parameters as in an earlier request."""

    service: Inferring
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

    def begin(self, body: bytes, _boundary: bytes, take: Take) -> Callable[[], None] | None:
        """Start inference on an image."""
        return self.service.begin(self.call, body, self.form, take)


class JsonRepeat(NamedTuple):
    """JSON requests, described entirely by the body."""

    service: Inferring
    form: Format

    def is_current(self) -> bool:
        """Always true: the content type is JSON."""
        return True

    async def answer(self, body: bytes, _boundary: bytes) -> Encoded:
        """Run the inference that a body describes."""
        call, image = await self.service.read(body)
        del body
        return await self.service.answer(call, image, self.form)

    def begin(self, body: bytes, _boundary: bytes, take: Take) -> Callable[[], None] | None:
        """Start the inference of a body that decodes in negligible time."""
        if len(body) > LARGE:
            return None
        call, image = self.service.read_small(body)
        return self.service.begin(call, image, self.form, take)


class FormRepeat(NamedTuple):
    """Uploads, described entirely by the form."""

    service: Inferring
    form: Format

    def is_current(self) -> bool:
        """Always true: the content type is a form's."""
        return True

    async def answer(self, body: bytes, boundary: bytes) -> Encoded:
        """Run the inference that a form describes."""
        form = await forms.read(body, boundary.decode("ascii"))
        del body
        call, image = self.service.uploaded(form), form.file
        return await self.service.answer(call, image, self.form)

    def begin(self, body: bytes, boundary: bytes, take: Take) -> Callable[[], None] | None:
        """Start the inference of a form that is read in negligible time."""
        if len(body) > LARGE:
            return None
        form = forms.parse(body, boundary.decode("ascii"))
        return self.service.begin(self.service.uploaded(form), form.file, self.form, take)
