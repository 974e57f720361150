"""What a client for code without an event loop does with jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, Callable, Generator
    from pathlib import Path
    from typing import BinaryIO

    from mataserver_client.asynchronous import AsyncClient
    from mataserver_client.loop_thread import LoopThread
    from mataserver_client.replies import Job


class JobCalls:
    """The methods of ``JobRequests``; see ``Client``."""

    _client: AsyncClient
    _loop_thread: LoopThread

    def send_file(
        self,
        file: str | os.PathLike[str] | BinaryIO,
        progress: Callable[[int, int], object] | None = None,
        *,
        name: str = "",
    ) -> str:
        """See ``AsyncClient.send_file``."""
        return self._loop_thread.call(self._client.send_file(file, progress, name=name))

    def create_job(self, kind: str, /, *, idempotency_key: str | None = None, **spec: Any) -> str:
        """See ``AsyncClient.create_job``."""
        return self._loop_thread.call(
            self._client.create_job(kind, idempotency_key=idempotency_key, **spec)
        )

    def job(self, job_id: str) -> Job:
        """See ``AsyncClient.job``."""
        return self._loop_thread.call(self._client.job(job_id))

    def follow_job(self, job_id: str) -> Generator[Job, None, None]:
        """See ``AsyncClient.follow_job``."""

        async def begin() -> AsyncGenerator[Job, None]:
            return self._client.follow_job(job_id)

        return self._loop_thread.iterate(self._loop_thread.call(begin()))

    def wait_job(self, job_id: str) -> Job:
        """See ``AsyncClient.wait_job``."""
        return self._loop_thread.call(self._client.wait_job(job_id))

    def cancel_job(self, job_id: str) -> Job:
        """See ``AsyncClient.cancel_job``."""
        return self._loop_thread.call(self._client.cancel_job(job_id))

    def delete_job(self, job_id: str) -> None:
        """See ``AsyncClient.delete_job``."""
        self._loop_thread.call(self._client.delete_job(job_id))

    def download_job(
        self,
        job_id: str,
        folder: str | os.PathLike[str] = ".",
        *names: str,
        progress: Callable[[Path], object] | None = None,
    ) -> list[Path]:
        """See ``AsyncClient.download_job``."""
        return self._loop_thread.call(
            self._client.download_job(job_id, folder, *names, progress=progress)
        )
