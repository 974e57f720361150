"""The server's side of a worker on a cluster's node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver import RemoteWorker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mataserver_ray.broker_messages import Node


class RayWorker(RemoteWorker):
    """A worker on a node: ``model`` is its model's name."""

    def __init__(
        self,
        model: str,
        infer_timeout: float,
        decode_timeout: float,
        node: Node,
        is_lost: Callable[[], Awaitable[bool]],
    ) -> None:
        super().__init__(model, infer_timeout, decode_timeout, is_lost)
        self.model = model
        self.node = node
