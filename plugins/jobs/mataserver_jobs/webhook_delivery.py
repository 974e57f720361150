"""Delivers events to webhooks, in the form of Standard Webhooks, until each is accepted.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import logging
from typing import TYPE_CHECKING

from mataserver import MataError, Policy
from mataserver_jobs.webhooks import SECRET_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from typing import Any

    from mataserver_jobs.webhooks import Delivery, Webhooks

MAX_CONCURRENT = 16
"""Deliveries at once, one of each owner: a webhook that never answers delays no other owner's."""
POLL_SECONDS = 5.0
"""How soon a delivery is seen that another server has left behind."""
GONE = 410

log = logging.getLogger("mataserver.plugin.jobs")


def policy(timeout: float = 15.0) -> Policy:
    """Return what a webhook may do: answer in time. It is not followed elsewhere."""
    return Policy("webhook", max_bytes=1e6, timeout=timeout)


def signed(delivery: Delivery) -> dict[str, str]:
    """Return the headers of a delivery.

    What is signed is id, time and body, so that neither can be sent again later or with another.
    """
    stamp = str(int(delivery.taken_at))
    secret = base64.b64decode(delivery.secret.removeprefix(SECRET_PREFIX))
    content = f"{delivery.id}.{stamp}.{delivery.body}".encode()
    signature = base64.b64encode(hmac.digest(secret, content, hashlib.sha256)).decode()
    return {
        "Content-Type": "application/json",
        "User-Agent": "mataserver-webhooks",
        "webhook-id": delivery.id,
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{signature}",
    }


class DeliveryWorker:
    """Makes deliveries until it is closed; ``outbound`` asks an address that a user named."""

    def __init__(
        self,
        webhooks: Webhooks,
        outbound: Callable[..., AbstractAsyncContextManager[Any]],
        *,
        timeout: float = 15.0,
    ) -> None:
        self._webhooks = webhooks
        self._outbound = outbound
        self._policy = policy(timeout)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()

    def wake(self) -> None:
        """Look for deliveries now: a job may have ended."""
        self._wake.set()

    async def run(self) -> None:
        """Make what is due until ``close``. What hinders it is logged once, until it changes."""
        hindrance = ""
        while not self._stopping.is_set():
            self._wake.clear()
            wait = POLL_SECONDS
            try:
                wait = min(wait, await self._start_due())
                hindrance = ""
            except MataError as error:  # a database that does not answer now does later
                if error.detail != hindrance:
                    log.warning("webhooks are not called now: %s", error.detail)
                hindrance = error.detail
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._wake.wait()

    async def close(self) -> None:
        """Stop; what was not answered yet is sent again by the next server."""
        self._stopping.set()
        self._wake.set()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _start_due(self) -> float:
        """Begin what is due; return the seconds until more may be."""
        due = await self._webhooks.wait()
        if due is None or due > 0:
            return POLL_SECONDS if due is None else due
        while len(self._running) < MAX_CONCURRENT and not self._stopping.is_set():
            delivery = await self._webhooks.claim(list(self._running))
            if delivery is None:  # what is due is of owners who wait for their turn: its end wakes
                break
            task = asyncio.get_running_loop().create_task(self._deliver_supervised(delivery))
            self._running[delivery.owner] = task
        return POLL_SECONDS

    async def _deliver_supervised(self, delivery: Delivery) -> None:
        try:
            await self._deliver(delivery)
        except MataError as error:  # it is sent again once its time is over
            log.warning("the result of a webhook could not be stored: %s", error.detail)
        except Exception:
            log.exception("a webhook could not be called")
        finally:
            self._running.pop(delivery.owner, None)
            self._wake.set()

    async def _deliver(self, delivery: Delivery) -> None:
        """Send and store the result. The database's own work is never cancelled."""
        sending = asyncio.ensure_future(self._send(delivery))
        stopping = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait([sending, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not sending.done():
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            await self._webhooks.release(delivery)
            return
        status, error = sending.result()
        if 200 <= status < 300:
            await self._webhooks.delivered(delivery)
        elif status == GONE:
            log.info("webhook %s was removed: its address answered 410", delivery.webhook)
            await self._webhooks.remove(delivery.webhook)
        else:
            await self._webhooks.failed(delivery, error)

    async def _send(self, delivery: Delivery) -> tuple[int, str]:
        """Return the status that was answered, 0 for none, and what went wrong if it did."""
        try:
            async with self._outbound(
                "POST",
                delivery.url,
                self._policy,
                headers=signed(delivery),
                body=delivery.body.encode(),
            ) as response:
                return response.status, f"the address answered {response.status}"
        except MataError as error:
            return 0, error.detail
