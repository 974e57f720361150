"""Authenticates consumers by their keys; each may call the applications it is linked to."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from mataserver import BadRequest, NotFound
from mataserver_fleet.gateway.grants import InvalidKey, NotLinked, Unlinked
from mataserver_fleet.gateway.keys import keys_of_request

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiohttp import web

    from mataserver import MataError
    from mataserver_fleet.gateway.matching import Scope
    from mataserver_fleet.gateway.snapshot import Application, Consumer, Snapshot


class TwoKeys(BadRequest):
    """400: two keys that are known."""


def authenticate(snapshot: Snapshot, request: web.Request, application: Application) -> Consumer:
    """Return the consumer whose key a request carries.

    Raises ``InvalidKey``, ``NotLinked``, ``TwoKeys``, and as ``keys_of_request``.
    """
    keys = keys_of_request(request)
    if not keys:
        raise InvalidKey("No API key: send it as apikey or Authorization: Bearer")
    consumer = consumer_of_keys(snapshot, keys)
    if consumer.id not in application.consumers:
        raise Unlinked(consumer.name, application.name)
    return consumer


def consumer_of_keys(snapshot: Snapshot, keys: Iterable[str]) -> Consumer:
    """Return the consumer of the only key that is known; some clients send one in two fields.

    An unknown one beside it is a proxy's own. Raises ``InvalidKey``, and ``TwoKeys`` where two are
    known: a proxy may have checked the other one.
    """
    digests = {hashlib.sha256(each.encode("utf-8", "surrogateescape")).digest() for each in keys}
    known = [found for each in digests if (found := snapshot.consumers.get(each)) is not None]
    if not known:
        raise InvalidKey("Invalid API key")
    if len(known) > 1:
        raise TwoKeys("The request has two different keys: send one")
    return known[0]


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
