"""A stand-in for Triton's HTTP: it loads what is pushed, and misbehaves as it is told."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time

from aiohttp import web
from served_port import ServedPort

from mataserver_fleet import pbtxt


class StandIn:
    """One Triton. ``faults`` maps a path's ending to a coroutine function that answers instead.

    ``unloaded`` are models that stand in its repository and are not served, with the reason.
    ``repository`` is what it loads from when it is sent nothing.
    ``disturb`` is called once, after the next load and before that is answered.
    """

    def __init__(self):
        self.models = {}
        self.counts = {}
        self.pushes = []
        self.unloaded = {}
        self.faults = {}
        self.load_seconds = 0.0
        self.refuse = None
        self.repository = None
        self.disturb = None
        self.port = 0
        self._served = None

    async def start(self):
        """Listen, by the same port as before."""
        app = web.Application(client_max_size=1 << 30, middlewares=[self._faulty])
        app.add_routes(
            [
                web.get("/v2", self._about),
                web.get("/v2/health/live", self._live),
                web.get("/v2/models/stats", self._stats),
                web.get("/v2/models/{model}", self._metadata),
                web.get("/v2/models/{model}/config", self._config),
                web.get("/v2/models/{model}/ready", self._any_ready),
                web.get("/v2/models/{model}/versions/{version}/ready", self._ready),
                web.post("/v2/repository/index", self._index),
                web.post("/v2/repository/models/{model}/load", self._load),
                web.post("/v2/repository/models/{model}/unload", self._unload),
                web.get("/metrics", self._metrics),
            ]
        )
        self._served = ServedPort(web.AppRunner(app, shutdown_timeout=0.1))
        await self._served.start(self.port)
        self.port = self._served.port

    async def cut_off(self):
        """Be out of reach until ``start``: what was loaded stays."""
        await self._served.end()

    async def die(self):
        """End as by kill -9: what was loaded and counted is gone."""
        await self.cut_off()
        self.models, self.counts = {}, {}

    def asked(self, model, version, times=1):
        """Count inferences."""
        key = (model, version)
        self.counts[key] = self.counts.get(key, 0) + times

    @web.middleware
    async def _faulty(self, request, handler):
        for ending, fault in self.faults.items():
            if request.path.endswith(ending):
                return await fault(request)
        return await handler(request)

    async def _about(self, _request):
        told = {"name": "triton", "version": "2.51.0", "extensions": ["model_repository"]}
        return web.json_response(told)

    async def _live(self, _request):
        return web.Response()

    async def _stats(self, _request):
        told = [
            {
                "name": name,
                "version": version,
                "last_inference": int(time.time() * 1e3) if count else 0,
                "inference_count": count,
                "execution_count": count,
            }
            for name, model in self.models.items()
            for version in model["versions"]
            for count in [self.counts.get((name, version), 0)]
        ]
        return web.json_response({"model_stats": told})

    def _model(self, request):
        found = self.models.get(request.match_info["model"])
        if found is None:
            raise web.HTTPBadRequest(text=json.dumps({"error": "unknown model"}))
        return found

    async def _metadata(self, request):
        model = self._model(request)
        told = {"name": request.match_info["model"], "versions": model["versions"]}
        return web.json_response({**told, "platform": "onnxruntime_onnx", "inputs": []})

    async def _config(self, request):
        return web.json_response(self._model(request)["config"])

    async def _any_ready(self, request):
        self._model(request)
        return web.Response()

    async def _ready(self, request):
        ready = request.match_info["version"] in self._model(request)["versions"]
        return web.Response(status=200 if ready else 400)

    async def _index(self, _request):
        told = [
            {"name": name, "version": version, "state": "READY"}
            for name, model in self.models.items()
            for version in model["versions"]
        ]
        told += [
            {"name": name, "version": "1", "state": "UNAVAILABLE", "reason": reason}
            for name, reason in self.unloaded.items()
        ]
        return web.json_response([*told, {"name": ".git"}])

    async def _load(self, request):
        name, asked = request.match_info["model"], (await request.json()).get("parameters")
        config, files = self._lying(name) if asked is None else self._sent(asked)
        self.pushes.append((name, config, files))
        await asyncio.sleep(self.load_seconds)
        if self.refuse is not None and (reason := self.refuse(files)):
            return web.json_response({"error": reason}, status=400)
        known = self.models.get(name)
        if known is not None and known["config"] == config:
            return web.Response()  # as Triton: the same configuration is no change
        versions = config["version_policy"]["specific"]["versions"]
        self.models[name] = {"config": config, "files": files, "versions": versions}
        for key in [key for key in self.counts if key[0] == name]:
            del self.counts[key]
        if self.disturb is not None:
            disturb, self.disturb = self.disturb, None
            disturb()
        return web.Response()

    def _sent(self, asked):
        files = {
            key.removeprefix("file:"): base64.b64decode(value)
            for key, value in asked.items()
            if key.startswith("file:")
        }
        return json.loads(asked["config"]), files

    def _lying(self, name):
        folder = self.repository / name
        config = pbtxt.read((folder / "config.pbtxt").read_bytes())
        versions = config["version_policy"]["specific"]["versions"]
        every = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        mine = [path for path in every if path.parts[0] in versions]
        return config, {path.as_posix(): (folder / path).read_bytes() for path in mine}

    async def _unload(self, request):
        self.models.pop(request.match_info["model"], None)
        return web.Response()

    async def _metrics(self, _request):
        return web.Response(text=METRICS)


METRICS = """\
# HELP nv_gpu_utilization GPU utilization rate
nv_gpu_utilization{gpu_uuid="GPU-1"} 0.5
nv_gpu_memory_total_bytes{gpu_uuid="GPU-1"} 24000000000.000000
nv_gpu_memory_used_bytes{gpu_uuid="GPU-1"} 1000000000.000000
"""


@contextlib.asynccontextmanager
async def stand_ins(count):
    """Run so many stand-ins."""
    made = [StandIn() for _ in range(count)]
    for each in made:
        await each.start()
    try:
        yield made
    finally:
        for each in made:
            await each.die()
