"""A server with a model that does nothing, for measuring what the server itself costs.

Run as ``python bench/noop.py DATA_DIR process|thread``; it prints its URL.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from mataserver import Backend, Detection, DetectResult, app, config
from mataserver import hookimpl as implementation
from mataserver import plugins as plugin_host

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mataserver import LoadContext, ModelSpec

ANSWER = DetectResult(
    [
        Detection(f"thing {i}", 0.5 + i / 20, (10.0 * i, 5.5, 10.0 * i + 40, 99.25))
        for i in range(10)
    ]
)


class Noop:
    """Answers ten detections whatever it sees."""

    def predict(self, images: Sequence[Any], params: Sequence[Any]) -> list[DetectResult]:
        """Return the constant answer for each image."""
        del params
        return [ANSWER] * len(images)


def load(spec: ModelSpec, context: LoadContext) -> Noop:
    """Load nothing."""
    del spec, context
    return Noop()


@implementation
def backends() -> list[Backend]:
    """Return the one backend."""
    return [Backend(name="noop", task="detect", source="pip", load=load)]


def main() -> None:
    """Serve."""
    data_dir, engine = Path(sys.argv[1]), sys.argv[2]
    entry = {"task": "detect", "source": "pip", "pulled_at": time.time()}
    registry = {"version": 1, "models": {"noop": entry}}
    (data_dir / "model_registry.json").write_text(json.dumps(registry))
    settings = config.load(
        port=0, auth_mode="none", data_dir=str(data_dir), engine=engine, log_level="warning"
    )
    point = importlib.metadata.EntryPoint("noop", "noop", plugin_host.GROUP)
    plugins = plugin_host.discover(settings, [point])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(app.run(settings, lambda url, _: print(url, flush=True), plugins))


if __name__ == "__main__":
    main()
