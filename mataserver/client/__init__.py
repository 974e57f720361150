"""The Python client of the server, asynchronous and plain.

``AsyncClient`` speaks the API on an event loop; ``Client`` offers the same methods to code without
one. Both return typed structs, raise children of ``MataError`` and stream frames over a WebSocket::

    with Client(api_key="...") as client:
        found = client.infer("PekingU/rtdetr_v2_r18vd", "street.jpg", confidence=0.4)
        for result in client.stream("PekingU/rtdetr_v2_r18vd", frames):
            ...
"""

from mataserver.client.asynchronous import AsyncClient
from mataserver.client.failures import AuthenticationFailed, BadAnswer, ConnectionFailed
from mataserver.client.interop import coco_categories, to_coco, to_supervision
from mataserver.client.pixels import depth_array, mask_array, pixel_bytes
from mataserver.client.replies import FrameError, Health, ModelStatus, Session, StreamItem
from mataserver.client.stream import Reconnect
from mataserver.client.synchronous import Client
from mataserver.client.transport import Answer
from mataserver.results import InferResponse, ModelInfo

__all__ = [
    "Answer",
    "AsyncClient",
    "AuthenticationFailed",
    "BadAnswer",
    "Client",
    "ConnectionFailed",
    "FrameError",
    "Health",
    "InferResponse",
    "ModelInfo",
    "ModelStatus",
    "Reconnect",
    "Session",
    "StreamItem",
    "coco_categories",
    "depth_array",
    "mask_array",
    "pixel_bytes",
    "to_coco",
    "to_supervision",
]
