"""``POST /v1/infer`` of mataservers: which model a request asks, read as a mataserver reads it.

A client that could name one model to the gateway and another to the server would reach every model
of it. So a request names its model where only one reader can find one: in the query, beside a
picture, or in JSON, which both sides decode alike.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from mataserver import (
    BadRequest,
    InvalidParams,
    MataError,
    check_charset,
    content_type,
    sole_value,
)
from mataserver_fleet.gateway.bodies import BodyTooLarge, BufferedBody
from mataserver_fleet.gateway.headers import JSON

if TYPE_CHECKING:
    from aiohttp import web

    from mataserver_fleet.gateway.bodies import StreamingBody

PATH = "/v1/infer"
_IMAGE_TYPE = re.compile(r"image/[a-z0-9.+-]{1,64}")


class UnsupportedMediaType(MataError):
    """415: neither a picture nor JSON."""

    status = 415


class _InferBody(msgspec.Struct):
    model: str


def requested_model(
    request: web.Request, body: BufferedBody | StreamingBody | None
) -> tuple[str, bytes]:
    """Return the model that a request asks, and the header's line on its body.

    Raises 400, 413, 415 and 422.
    """
    kind = content_type(request)
    if _IMAGE_TYPE.fullmatch(kind):
        model = sole_value("model", request.query.getall("model", ()))
        if not model:
            raise InvalidParams("model: name it in the query")
        return model, f"Content-Type: {kind}\r\n".encode()
    if kind != JSON:
        raise UnsupportedMediaType("Content-Type must be application/json or image/*")
    return _model_in_json(request, body), f"Content-Type: {JSON}\r\n".encode()


def _model_in_json(request: web.Request, body: BufferedBody | StreamingBody | None) -> str:
    """Return the model that JSON names."""
    check_charset(request)
    if "Content-Encoding" in request.headers:
        raise UnsupportedMediaType("JSON must be sent without Content-Encoding")
    if body is None:
        raise BadRequest("The body is not valid JSON")
    if not isinstance(body, BufferedBody):
        raise BodyTooLarge(f"JSON of {body.size} bytes: send the picture itself, with its own type")
    try:
        return msgspec.json.decode(b"".join(body.pieces), type=_InferBody).model
    except msgspec.ValidationError:
        raise InvalidParams("model: field is required, a text") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest("The body is not valid JSON") from None
