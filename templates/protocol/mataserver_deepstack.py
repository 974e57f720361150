"""DeepStack's detection API, for camera software that expects a DeepStack server."""

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


class DetectionForm(Struct):
    """The form: a picture, and the minimum confidence."""

    image: bytes
    min_confidence: float = 0.4


class Prediction(Struct):
    """One detection, with its corners in pixels of the picture."""

    label: str
    confidence: float
    x_min: int
    y_min: int
    x_max: int
    y_max: int


class DetectionResponse(Struct):
    """The response: all detections."""

    success: bool
    predictions: list[Prediction]


class ErrorResponse(Struct):
    """The response to a request that failed."""

    success: bool
    error: str


class DeepStack:
    """The service: DeepStack's routes."""

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
            request=(Body("multipart/form-data", DetectionForm),),
            response=(Body("application/json", DetectionResponse),),
            errors=(400, 404, 408, 413, 415, 422, 503, 507), needs="infer",
        )  # fmt: skip

    def error_forms(self) -> dict[str, Any]:
        """Return the form of errors below the prefix, including those that the server raises."""
        return {PREFIX: lambda _status, detail: ErrorResponse(success=False, error=detail)}

    async def detect(self, request: web.Request) -> web.Response:
        """Answer with the model's detections in a picture."""
        name = request.match_info.get("model") or self._ctx.settings.model
        if not name:
            raise InvalidParams(
                "model: set plugins.deepstack.model, or ask /v1/vision/custom/MODEL"
            )
        model = self._ctx.models.get(name, "detect")
        async with self._ctx.http.read_form(request, field="image") as (image, fields):
            params = {"confidence": fields.get("min_confidence", "0.4")}
            result = await model.predict(image, model.params(params, text=True))
        detections = cast("DetectResult", result).detections
        predictions = [to_prediction(each) for each in detections]
        return self._ctx.http.respond(DetectionResponse(success=True, predictions=predictions))

    async def __aenter__(self) -> Self:
        """Start."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop."""


def to_prediction(detection: Detection) -> Prediction:
    """Convert a detection to DeepStack's form, in whole pixels."""
    corners = (round(each) for each in detection.bbox)
    return Prediction(detection.label, detection.confidence, *corners)


@hookimpl
def settings() -> type[Settings]:
    """Return the settings."""
    return Settings


@hookimpl
def service(ctx: Context) -> DeepStack:
    """Return the service."""
    return DeepStack(ctx)
