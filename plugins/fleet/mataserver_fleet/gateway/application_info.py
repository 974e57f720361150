"""An application's own routes: its metadata, liveness and readiness."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver import NotFound
from mataserver_fleet.gateway import callers, matching
from mataserver_fleet.gateway.answers import check_method, json

if TYPE_CHECKING:
    from aiohttp import web

    from mataserver_fleet.gateway.matching import Scope
    from mataserver_fleet.gateway.servers import Servers
    from mataserver_fleet.gateway.snapshot import Snapshot


class ApplicationInfo:
    """Answers for applications; they are ready where each of their models has a server that is."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers

    def answer(self, snapshot: Snapshot, scope: Scope, request: web.Request) -> web.Response:
        """Answer one of an application's own routes. Raises as ``authenticate``.

        And ``NotFound`` and ``MethodNotAllowed``.
        """
        kind = matching.APPLICATION_PATHS.get(scope.path)
        if kind is None:
            raise NotFound("No such route")
        callers.check_any(snapshot, scope, request)
        check_method(request.method, "GET")
        return self._describe(kind, scope)

    def _describe(self, kind: str, scope: Scope) -> web.Response:
        if kind == "server":
            return json({"name": "mataserver", "version": "2", "extensions": []})
        if kind == "live":
            return json({"live": True})
        routes = {id(place.route): place.route for place in scope.places.values()}.values()
        ready = all(
            any(
                self._servers.pick(route.targets, route.path(each.version, "ready")) is not None
                for each in route.releases
            )
            for route in routes
        )
        return json({"ready": ready}, 200 if ready else 400)
