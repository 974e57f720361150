"""DeepStack's detection: camera software that asks such a server asks this one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, cast

from msgspec import Struct

from mataserver import Body, InvalidParams, Route, hookimpl

if TYPE_CHECKING:
    from aiohttp import web

    from mataserver import Context, Detection, DetectResult

PREFIX = "/v1/vision"


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """``plugins.deepstack``: the model that is asked where a request names none."""

    model: str = ""


class Asked(Struct):
    """The form: a picture, and the least confidence that is wanted."""

    image: bytes
    min_confidence: float = 0.4


class Found(Struct):
    """A prediction: corners in pixels of the picture."""

    label: str
    confidence: float
    x_min: int
    y_min: int
    x_max: int
    y_max: int


class Answer(Struct):
    """What was found."""

    success: bool
    predictions: list[Found]


class Failure(Struct):
    """What went wrong."""

    success: bool
    error: str


class DeepStack:
    """Its routes."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            self._route(f"{PREFIX}/detection", self.detect, "Detect (DeepStack)"),
            self._route(f"{PREFIX}/custom/{{model}}", self.detect, "Detect by a model (DeepStack)"),
        ]

    def _route(self, path: str, handler: Any, summary: str) -> Route:
        return Route(
            "POST", path, handler, summary, "deepstack",
            request=(Body("multipart/form-data", Asked),),
            response=(Body("application/json", Answer),),
            errors=(400, 404, 408, 413, 415, 422, 503, 507), needs="infer",
        )  # fmt: skip

    def error_forms(self) -> dict[str, Any]:
        """Every error below the prefix has its form, those that the server makes included."""
        return {PREFIX: lambda _status, detail: Failure(success=False, error=detail)}

    async def detect(self, request: web.Request) -> web.Response:
        """Answer what the model finds in a picture."""
        name = request.match_info.get("model") or self._ctx.settings.model
        if not name:
            raise InvalidParams(
                "model: set plugins.deepstack.model, or ask /v1/vision/custom/MODEL"
            )
        model = self._ctx.models.get(name, "detect")
        async with self._ctx.http.read_form(request, field="image") as (image, fields):
            asked = {"confidence": fields.get("min_confidence", "0.4")}
            result = await model.predict(image, model.params(asked, text=True))
        detections = cast("DetectResult", result).detections
        predictions = [found(each) for each in detections]
        return self._ctx.http.respond(Answer(success=True, predictions=predictions))

    async def __aenter__(self) -> Self:
        """Start."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop."""


def found(detection: Detection) -> Found:
    """Return a detection as a client of DeepStack reads it: whole pixels."""
    corners = (round(each) for each in detection.bbox)
    return Found(detection.label, detection.confidence, *corners)


@hookimpl
def settings() -> type[Settings]:
    """Return the settings."""
    return Settings


@hookimpl
def service(ctx: Context) -> DeepStack:
    """Return the service."""
    return DeepStack(ctx)
