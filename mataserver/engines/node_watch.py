"""The nodes of a cluster that are watched, and those that are the last choice for a while."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from mataserver.engines.pulse import Pulse

if TYPE_CHECKING:
    from mataserver.engines.placing import Node

AVOIDED = 30.0
"""Seconds for which a node that was lost is the last choice: Ray may still believe in it."""

log = logging.getLogger("mataserver.ray")


class NodeWatch:
    """Watches nodes; one without a sign of life for ``silence`` seconds is lost."""

    def __init__(self, silence: float) -> None:
        self._silence = silence
        self._pulses: dict[str, Pulse] = {}
        self._avoided: dict[str, float] = {}

    def pulse(self, node: Node) -> Pulse:
        """Return what watches a node."""
        for each in [key for key, watched in self._pulses.items() if watched.idle]:
            del self._pulses[each]
        if node.id not in self._pulses:
            self._pulses[node.id] = Pulse(
                node.host, node.port, self._silence, lambda: self.avoid(node)
            )
        return self._pulses[node.id]

    def avoid(self, node: Node) -> None:
        """Have a node that is lost be the last choice for ``AVOIDED`` seconds."""
        log.error("the node %s is lost", node.name)
        self._avoided[node.id] = asyncio.get_running_loop().time() + AVOIDED

    def avoided(self) -> list[str]:
        """Return the ids of the nodes that are the last choice now."""
        now = asyncio.get_running_loop().time()
        self._avoided = {node: until for node, until in self._avoided.items() if until > now}
        return list(self._avoided)

    def stop(self) -> None:
        """Watch nobody any more."""
        for watched in self._pulses.values():
            watched.stop()
