"""A client of Airflow's REST API, versions 2 and 3, for one call: starting a run of a DAG."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import msgspec

from mataserver import BadRequest, MataError, Policy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mataserver import Context

_POLICY = Policy(name="Airflow", timeout=20.0, private=True)  # a setting names it
_JSON = {"Content-Type": "application/json", "Accept": "application/json"}
_NOT_THERE = frozenset({404, 405})
_REFUSED = frozenset({401, 403})
_OK = frozenset({200, 201})


class Reply(NamedTuple):
    """Airflow's answer; ``value`` is None if it is not JSON."""

    status: int
    value: Any
    retry_after: str


class Airflow:
    """One Airflow. Every failure of it is reported as 502."""

    def __init__(self, ctx: Context) -> None:
        self._settings = settings = ctx.settings
        self._url = (settings.airflow_url or "").rstrip("/")
        self._http = ctx.http
        self._log = ctx.log
        self._token = settings.airflow_token
        self._version = settings.airflow_version

    async def trigger(self, run: str, conf: Mapping[str, Any]) -> bool:
        """Start a run; False when there is one with that id already. Raises ``MataError`` (502)."""
        if not self._url:
            raise _failure("No Airflow is configured: set plugins.reconstruct.airflow_url")
        reply = await self._begin(run, conf)
        if reply.status in _REFUSED and self._drop_token():
            reply = await self._begin(run, conf)
        return self._is_started(reply)

    async def _begin(self, run: str, conf: Mapping[str, Any]) -> Reply:
        headers = await self._credentials()
        api = "v1"
        body: dict[str, Any] = {"dag_run_id": run, "conf": conf}
        if self._version != "2":
            api, body = "v2", {**body, "logical_date": None}
        path = f"/api/{api}/dags/{quote(self._settings.dag, safe='')}/dagRuns"
        return await self._post(path, body, headers)

    async def _credentials(self) -> dict[str, str]:
        """Return the authentication header. Raises ``MataError``."""
        name, password = self._settings.airflow_username, self._settings.airflow_password
        if self._token is None and name and self._version != "2":
            await self._log_in(name, password or "")
        if self._version == "2" and name:
            both = base64.b64encode(f"{name}:{password or ''}".encode()).decode()
            return {"Authorization": f"Basic {both}"}
        return {} if self._token is None else {"Authorization": f"Bearer {self._token}"}

    async def _log_in(self, name: str, password: str) -> None:
        """Get a token; an Airflow without a token endpoint is treated as version 2, if allowed."""
        reply = await self._post("/auth/token", {"username": name, "password": password}, {})
        if reply.status in _NOT_THERE and self._version == "auto":
            self._version = "2"
            return
        if reply.status in _REFUSED:
            raise _failure("Airflow rejected the credentials")
        token = reply.value.get("access_token") if isinstance(reply.value, dict) else None
        if reply.status not in _OK or not isinstance(token, str):
            raise _failure(f"Airflow gave no token: it answered {reply.status}")
        self._token = token

    def _drop_token(self) -> bool:
        """Drop a token from a log-in, which may have expired; return whether there was one."""
        given = self._token is not None and self._settings.airflow_token is None
        if given:
            self._token = None
        return given

    async def _post(self, path: str, body: object, headers: Mapping[str, str]) -> Reply:
        data = msgspec.json.encode(body)
        request = self._http.outbound(
            "POST", self._url + path, _POLICY, headers={**_JSON, **headers}, body=data
        )
        try:
            async with request as response:
                text, after = await response.read(), response.headers.get("Retry-After", "")
                return Reply(response.status, _decoded(text), after)
        except BadRequest as error:
            self._log.warning("%s", error.detail)
            raise _failure("Airflow cannot be reached") from error

    def _is_started(self, reply: Reply) -> bool:
        status, dag = reply.status, self._settings.dag
        if status == 409:
            return False
        if status in _OK and isinstance(reply.value, dict):
            return True
        self._log.warning("Airflow answered %s: %s", status, str(reply.value)[:500])
        if status == 429:
            after = reply.retry_after
            seconds = float(after) if after.isdecimal() and len(after) <= 6 else 60.0
            raise _failure("Airflow is overloaded", retry_after=seconds)
        reasons = {
            200: "Airflow answered what is no JSON",
            401: "Airflow rejected the credentials",
            403: "Airflow rejected the credentials",
            404: f"Airflow has no DAG {dag}, or another API: see airflow_version",
            405: "Airflow has another API: see airflow_version",
            422: "Airflow did not take the request",
        }
        raise _failure(reasons.get(status, f"Airflow answered {status}"))


def _failure(detail: str, retry_after: float | None = None) -> MataError:
    return MataError(detail, status=502, retry_after=retry_after)


def _decoded(text: bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return None
