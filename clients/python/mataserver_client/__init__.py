"""The Python client of the server, asynchronous and plain.

``AsyncClient`` speaks the API on an event loop; ``Client`` offers the same methods to code without
one. Both return typed structs, raise children of ``MataError`` and stream frames over a WebSocket::

    with Client(api_key="...") as client:
        found = client.infer("PekingU/rtdetr_v2_r18vd", "street.jpg", confidence=0.4)
        for result in client.stream("PekingU/rtdetr_v2_r18vd", frames):
            ...
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mataserver_client.asynchronous import AsyncClient
    from mataserver_client.errors import (
        BadRequest,
        Conflict,
        InvalidParams,
        MataError,
        NotFound,
        OutOfMemory,
        Shortage,
        Unavailable,
    )
    from mataserver_client.failures import AuthenticationFailed, BadAnswer, ConnectionFailed
    from mataserver_client.interop import coco_categories, to_coco, to_supervision
    from mataserver_client.pixels import depth_array, mask_array, pixel_bytes
    from mataserver_client.replies import (
        FrameError,
        Health,
        Job,
        ModelStatus,
        Session,
        StreamItem,
    )
    from mataserver_client.results import InferResponse, ModelInfo
    from mataserver_client.stream import Reconnect
    from mataserver_client.synchronous import Client
    from mataserver_client.transport import Answer

__all__ = [
    "Answer",
    "AsyncClient",
    "AuthenticationFailed",
    "BadAnswer",
    "BadRequest",
    "Client",
    "Conflict",
    "ConnectionFailed",
    "FrameError",
    "Health",
    "InferResponse",
    "InvalidParams",
    "Job",
    "MataError",
    "ModelInfo",
    "ModelStatus",
    "NotFound",
    "OutOfMemory",
    "Reconnect",
    "Session",
    "Shortage",
    "StreamItem",
    "Unavailable",
    "coco_categories",
    "depth_array",
    "mask_array",
    "pixel_bytes",
    "to_coco",
    "to_supervision",
]

_ERRORS = (
    "BadRequest",
    "Conflict",
    "InvalidParams",
    "MataError",
    "NotFound",
    "OutOfMemory",
    "Shortage",
    "Unavailable",
)
_MODULES = {
    "Answer": "transport",
    "AsyncClient": "asynchronous",
    "Client": "synchronous",
    "Reconnect": "stream",
    **dict.fromkeys(_ERRORS, "errors"),
    **dict.fromkeys(("AuthenticationFailed", "BadAnswer", "ConnectionFailed"), "failures"),
    **dict.fromkeys(
        ("FrameError", "Health", "Job", "ModelStatus", "Session", "StreamItem"), "replies"
    ),
    **dict.fromkeys(("InferResponse", "ModelInfo"), "results"),
    **dict.fromkeys(("coco_categories", "to_coco", "to_supervision"), "interop"),
    **dict.fromkeys(("depth_array", "mask_array", "pixel_bytes"), "pixels"),
}


def __getattr__(name: str) -> object:
    # Late: a server's workers take the exceptions alone, and need neither asyncio nor aiohttp.
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
