"""Requests for an inference that ask what one asked before, or that say what in their bodies."""

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
    """What a query or a body asks for; ``plan`` is the model's at that time."""

    model: Handle
    params: Params
    plan: ModelPlan


class Inferring(Protocol):
    """Who infers."""

    async def read(self, data: bytes) -> tuple[InferCall, bytes]:
        """Return what a body in JSON asks for, and its image."""
        ...

    def read_small(self, data: bytes) -> tuple[InferCall, bytes]:
        """Do so with one that is decoded in no time."""
        ...

    def uploaded(self, form: Form) -> InferCall:
        """Return what a form asks for."""
        ...

    async def answer(self, call: InferCall, image: bytes, form: Format) -> Encoded:
        """Infer, and have services told of it."""
        ...

    def begin(
        self, call: InferCall, image: bytes, form: Format, take: Take
    ) -> Callable[[], None] | None:
        """Begin to infer, where no service is to be told of it."""
        ...


class ImageRepeat(NamedTuple):
    """Requests with an image as the body that ask what one asked."""

    service: Inferring
    call: InferCall
    form: Format

    def is_current(self) -> bool:
        """Whether the model is what it was."""
        try:
            return self.call.model.plan() is self.call.plan
        except MataError:
            return False

    async def answer(self, body: bytes, _boundary: bytes) -> Encoded:
        """Infer on an image."""
        return await self.service.answer(self.call, body, self.form)

    def begin(self, body: bytes, _boundary: bytes, take: Take) -> Callable[[], None] | None:
        """Begin to infer on an image."""
        return self.service.begin(self.call, body, self.form, take)


class JsonRepeat(NamedTuple):
    """Requests in JSON, of which the body says what they ask."""

    service: Inferring
    form: Format

    def is_current(self) -> bool:
        """Whether it is JSON still."""
        return True

    async def answer(self, body: bytes, _boundary: bytes) -> Encoded:
        """Infer as a body asks for."""
        call, image = await self.service.read(body)
        del body
        return await self.service.answer(call, image, self.form)

    def begin(self, body: bytes, _boundary: bytes, take: Take) -> Callable[[], None] | None:
        """Begin to infer as a body asks for that is decoded in no time."""
        if len(body) > LARGE:
            return None
        call, image = self.service.read_small(body)
        return self.service.begin(call, image, self.form, take)


class FormRepeat(NamedTuple):
    """Uploads, of which the form says what they ask."""

    service: Inferring
    form: Format

    def is_current(self) -> bool:
        """Whether it is a form still."""
        return True

    async def answer(self, body: bytes, boundary: bytes) -> Encoded:
        """Infer as a form asks for."""
        call, image = self._read(body, boundary)
        del body
        return await self.service.answer(call, image, self.form)

    def begin(self, body: bytes, boundary: bytes, take: Take) -> Callable[[], None] | None:
        """Begin to infer as a form asks for."""
        call, image = self._read(body, boundary)
        return self.service.begin(call, image, self.form, take)

    def _read(self, body: bytes, boundary: bytes) -> tuple[InferCall, bytes]:
        form = forms.parse(body, boundary.decode("ascii"))
        return self.service.uploaded(form), form.file
