"""A server with video sessions, and calls of its routes, for the tests of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import aiohttp

from mataserver.testing import installed, serving

if TYPE_CHECKING:
    from pathlib import Path

OTHER = "other-key"
"""A key that may infer, and nothing else."""
START = "/api/v1/video/session/start"
SESSIONS = "/api/v1/video/sessions"
STREAM = "/api/v1/video/ws/propagate"


def served(folder: Path, engine: str, settings: dict[str, Any]) -> Any:
    """Return a server, not started yet, with those settings of the plugin."""
    return serving(
        folder,
        entry_points=installed("sam"),
        engine=engine,
        threads=1,
        api_keys=["test-key", {"key": OTHER, "name": "other", "scopes": ["infer"]}],
        plugins={"sam": settings},
    )


class Client:
    """Calls a server and decodes what it answers."""

    def __init__(self, server: Any, key: str = "") -> None:
        self.url: str = server.url
        self._headers = {"Authorization": f"Bearer {key}"} if key else server.headers

    async def __aenter__(self) -> Self:
        self.http = aiohttp.ClientSession(self.url, headers=self._headers)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.http.close()

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Return status and decoded answer."""
        async with self.http.request(method, path, json=body) as answer:
            return answer.status, await answer.json()

    async def ok(self, method: str, path: str, body: Any = None) -> Any:
        """Return the decoded answer of a request that is served."""
        status, answer = await self.ask(method, path, body)
        assert status == 200, answer
        return answer

    async def total(self) -> int:
        """Return how many sessions are open."""
        return int((await self.ok("GET", SESSIONS))["total_sessions"])

    def session(self, path: Path, *prompts: Any, name: str | None = None) -> Session:
        """Return a session on a video, opened and prompted on its first frame when entered."""
        return Session(self, {"video_path": str(path), "session_id": name}, prompts)


class Session:
    """A session until the context ends; calls go to its routes."""

    def __init__(self, client: Client, body: Any, prompts: Any) -> None:
        self.client = client
        self._body = body
        self._prompts = prompts

    async def __aenter__(self) -> Self:
        self.id = (await self.client.ok("POST", START, self._body))["session_id"]
        if self._prompts:
            await self.ok("POST", "/prompt", {"frame_index": 0, "prompts": self._prompts})
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.ask("DELETE", "")

    async def ask(self, method: str, route: str, body: Any = None) -> tuple[int, Any]:
        """Return status and decoded answer."""
        return await self.client.ask(method, f"/api/v1/video/session/{self.id}{route}", body)

    async def ok(self, method: str, route: str, body: Any = None) -> Any:
        """Return the decoded answer of a request that is served."""
        return await self.client.ok(method, f"/api/v1/video/session/{self.id}{route}", body)

    async def status(self) -> Any:
        """Return the answer of its status."""
        return await self.ok("GET", "/status")

    def stream(self) -> Any:
        """Return its WebSocket, not connected yet."""
        return self.client.http.ws_connect(f"{STREAM}/{self.id}")
