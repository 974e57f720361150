"""Who calls is told by a key: a consumer, who may ask the applications they are linked with."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from mataserver import NotFound
from mataserver_fleet.gateway.grants import InvalidKey, NotLinked
from mataserver_fleet.gateway.keys import key_of

if TYPE_CHECKING:
    from aiohttp import web

    from mataserver import MataError
    from mataserver_fleet.gateway.matching import Scope
    from mataserver_fleet.gateway.snapshot import Application, Consumer, Snapshot


def consumer(snapshot: Snapshot, request: web.Request, application: Application) -> Consumer:
    """Return who asks an application. Raises ``InvalidKey``, ``NotLinked``, and as ``key_of``."""
    key = key_of(request)
    if not key:
        raise InvalidKey("No API key: send it as apikey or Authorization: Bearer")
    found = holder(snapshot, key)
    if found.id not in application.consumers:
        raise NotLinked(f"{found.name} may not ask this application")
    return found


def holder(snapshot: Snapshot, key: str) -> Consumer:
    """Return whose a key is. Raises ``InvalidKey``."""
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
    found = snapshot.consumers.get(digest)
    if found is None:
        raise InvalidKey("Invalid API key")
    return found


def check_any(snapshot: Snapshot, scope: Scope, request: web.Request) -> None:
    """Raise unless who asks is a consumer of one of the applications, as ``consumer`` does."""
    applications = {each.application.name: each.application for each in scope.places.values()}
    refusal: MataError = NotFound("No such route")
    for application in applications.values():
        try:
            consumer(snapshot, request, application)
        except NotLinked as error:
            refusal = error
        else:
            return
    raise refusal
