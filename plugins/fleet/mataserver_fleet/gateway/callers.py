"""Authenticates consumers by their keys; each may call the applications it is linked to."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from mataserver import NotFound
from mataserver_fleet.gateway.grants import InvalidKey, NotLinked
from mataserver_fleet.gateway.keys import key_of_request

if TYPE_CHECKING:
    from aiohttp import web

    from mataserver import MataError
    from mataserver_fleet.gateway.matching import Scope
    from mataserver_fleet.gateway.snapshot import Application, Consumer, Snapshot


def authenticate(snapshot: Snapshot, request: web.Request, application: Application) -> Consumer:
    """Return the consumer whose key a request carries.

    Raises ``InvalidKey``, ``NotLinked``, and as ``key_of_request``.
    """
    key = key_of_request(request)
    if not key:
        raise InvalidKey("No API key: send it as apikey or Authorization: Bearer")
    consumer = consumer_of_key(snapshot, key)
    if consumer.id not in application.consumers:
        raise NotLinked(f"{consumer.name} may not use this application")
    return consumer


def consumer_of_key(snapshot: Snapshot, key: str) -> Consumer:
    """Return the consumer that a key belongs to. Raises ``InvalidKey``."""
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
    consumer = snapshot.consumers.get(digest)
    if consumer is None:
        raise InvalidKey("Invalid API key")
    return consumer


def check_any(snapshot: Snapshot, scope: Scope, request: web.Request) -> None:
    """Raise as ``authenticate`` unless the caller may call one of the applications."""
    applications = {each.application.name: each.application for each in scope.places.values()}
    refusal: MataError = NotFound("No such route")
    for application in applications.values():
        try:
            authenticate(snapshot, request, application)
        except NotLinked as error:
            refusal = error
        else:
            return
    raise refusal
