"""Airflow's REST API as far as a trigger needs it, versions 2 and 3, on a real socket."""

from __future__ import annotations

import base64
import contextlib

from aiohttp import web

DAG = "experiment_pipeline_dag"


class Airflow:
    """One Airflow. ``runs`` are those that were begun; ``answer`` replaces every answer."""

    def __init__(self, version):
        self.version = version
        self.runs = {}
        self.tokens = 0
        self.asked = []
        self.answer = None

    def application(self):
        """Return the server."""
        made = web.Application()
        if self.version == 3:
            made.router.add_post("/auth/token", self.log_in)
        made.router.add_post(f"/api/v{self.version - 1}/dags/{{dag}}/dagRuns", self.begin)
        return made

    async def log_in(self, request):
        """Give a token: 201, as version 3 does."""
        asked = await request.json()
        if asked != {"username": "ada", "password": "secret"}:
            return web.json_response({"detail": "Invalid credentials"}, status=401)
        self.tokens += 1
        return web.json_response({"access_token": f"token-{self.tokens}"}, status=201)

    def refused(self, request):
        """Return why a request is refused, None when it is not."""
        shown = request.headers.get("Authorization")
        if self.version == 2:
            wanted = "Basic " + base64.b64encode(b"ada:secret").decode()
            return None if shown == wanted else web.Response(status=401, text="<html>")
        if shown is None:
            return web.json_response({"detail": "Not authenticated"}, status=401)
        if shown not in {f"Bearer token-{self.tokens}", "Bearer of-the-settings"}:
            return web.json_response({"detail": "Invalid JWT token"}, status=403)
        return None

    async def begin(self, request):
        """Begin a run."""
        body = await request.json()
        self.asked.append(body)
        if self.answer is not None:
            return self.answer()
        refused = self.refused(request)
        if refused is not None:
            return refused
        if request.match_info["dag"] != DAG:
            return web.json_response({"detail": "DAG not found"}, status=404)
        if self.version == 3 and "logical_date" not in body:
            return web.json_response({"detail": [{"msg": "Field required"}]}, status=422)
        if body["dag_run_id"] in self.runs:
            return web.json_response({"detail": "DAGRun already exists"}, status=409)
        self.runs[body["dag_run_id"]] = body["conf"]
        return web.json_response({"dag_run_id": body["dag_run_id"], "state": "queued"})


@contextlib.asynccontextmanager
async def airflow(version):
    """Run an Airflow; give it with its address."""
    made = Airflow(version)
    runner = web.AppRunner(made.application())
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]
        made.url = f"http://127.0.0.1:{port}"
        yield made
    finally:
        await runner.cleanup()
