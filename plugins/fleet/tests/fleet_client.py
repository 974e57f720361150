"""Asks a server with a fleet."""

from __future__ import annotations


class Client:
    """Asks a server; what it was answered is kept in ``said``."""

    def __init__(self, http, served):
        self._http, self.server, self.said = http, served, []

    async def ask(self, method, path, secret=None, **request):
        """Ask with a token or a key, by default the server's own; return status and answer."""
        headers = request.pop("headers", {})
        if secret != "":
            headers = {"Authorization": f"Bearer {secret or self.server.key}", **headers}
        url = f"{self.server.url}{path}"
        async with self._http.request(method, url, headers=headers, **request) as response:
            text = await response.text()
            self.said.append(text)
            self.headers = response.headers
            json = response.content_type == "application/json"
            return response.status, (await response.json() if json else text)

    async def made(self, path, body=None, status=201, **request):
        """Ask to make something; return it."""
        found, answer = await self.ask("POST", path, json=body, **request)
        assert found == status, answer
        return answer

    async def person(self, name, role="developer", password="correct horse"):
        """Make a user; return a token of theirs."""
        await self.made("/v1/users", {"name": name, "password": password, "role": role})
        given = {"username": name, "password": password}
        return (await self.made("/auth/token", given, 200, secret=""))["access_token"]
