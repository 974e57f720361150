"""The blocking code around one loaded model: decode, predict, encode. Both engines run it."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import threading
import time
from types import NoneType
from typing import TYPE_CHECKING, Any

import msgspec

from mataserver import media
from mataserver.contract.backend import LoadedPart
from mataserver.contract.envelope import Envelope
from mataserver.engines import scaling
from mataserver.engines.encoding import encode_body
from mataserver.engines.soundness import Unsound, sound
from mataserver.engines.work import Facts, Failure, Outcome, Timing
from mataserver.errors import InvalidParams, MataError, NotFound, OutOfMemory
from mataserver.results import RESULT_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mataserver.engines.work import Assignment, Body, Job
    from mataserver.params import Params
    from mataserver.results import Result

    Image = NDArray[np.uint8]

# torch's allocator of the CPU, CUDA's runtime, and its libraries that allocate by themselves.
_SHORTAGE = re.compile(
    r"DefaultCPUAllocator: (can't|not enough)|CUDA error: out of memory"
    r"|CU(BLAS|DNN)_STATUS_ALLOC_FAILED"
)

log = logging.getLogger("mataserver.worker")


class Decoded(msgspec.Struct):
    """A job whose bytes became pixels, or whose bytes were refused."""

    job: Any
    image: Any = None
    picture: Any = None
    failure: Failure | None = None
    decode_ms: float = 0.0


class ModelHost:
    """One loaded model and its video sessions. ``forward`` must not run in two threads at once."""

    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._envelope = Envelope(assignment.spec.task, assignment.spec.name)
        self._params = msgspec.msgpack.Decoder(assignment.params_type)
        self._sessions: dict[str, Any] = {}
        self._model: Any = None
        self._loaded: list[Any] = []
        self._step_timeout = 0.0
        self._decoding: dict[int, Job] = {}

    def load(self) -> Facts:
        """Load the model. Raises a ``MataError``."""
        assignment = self._assignment
        try:
            self._model = self._load(assignment)
        except Exception as error:
            told = _told(error, "The model could not be loaded")
            told.lasting = _lasts(error)
            raise told from error
        stateful = hasattr(self._model, "session")
        decoders = assignment.decode_threads - 1
        return Facts(stateful, os.getpid(), decoders, self._step_timeout)

    def decode(self, job: Job) -> Decoded:
        """Decode a job's image; a refusal is kept, not raised."""
        begun = time.perf_counter()
        decoded = Decoded(job)
        self._decoding[threading.get_ident()] = job
        try:
            decoded.picture = self._read(job)
            decoded.image = decoded.picture.image
        except Exception as error:
            decoded.failure = _failure(error, "The image could not be decoded")
        del self._decoding[threading.get_ident()]
        decoded.decode_ms = _ms(begun)
        return decoded

    def decoding_for(self, thread: int | None) -> float:
        """Return the seconds for which a thread has been decoding; 0.0 when it does not."""
        since = media.decoding().get(thread or 0)
        return 0.0 if since is None else time.monotonic() - since

    def decoded_by(self, thread: int | None) -> Job | None:
        """Return the job that a thread decodes; None where it decodes for the model, or not."""
        return self._decoding.get(thread or 0)

    def _read(self, job: Job) -> media.Picture:
        """Decode an image. What is read, as text, must stand out from its ground."""
        assigned = self._assignment
        legible = assigned.spec.task == "ocr"
        size = self._input_size(job)
        return media.reduced(job.image, assigned.max_pixels, size, assigned.alpha, legible=legible)

    def _input_size(self, job: Job) -> tuple[int, int] | None:
        """Return the size that the model resizes images to, where smaller ones do it no harm.

        Not for a session that keeps state: it would jump when frames come in another format.
        """
        if not self._assignment.scaled_decode or self._assignment.spec.task not in scaling.TASKS:
            return None
        if job.session is not None and self._stateful:
            return None
        size: tuple[int, int] | None = getattr(self._model, "input_size", None)
        return size

    def forward(self, batch: Sequence[Decoded]) -> list[tuple[Decoded, Any, float, bool]]:
        """Run the model on the jobs that decoded; one failing job fails alone.

        Returns, in order, the job, its result or ``Failure``, the milliseconds and whether session
        state was made for it.
        """
        answers: dict[int, tuple[Any, float, bool]] = {}
        plain = []
        for item in batch:
            if item.failure is not None:
                answers[id(item)] = (item.failure, 0.0, False)
            elif item.job.session is not None and self._stateful:
                answers[id(item)] = self._step(item)
            else:
                plain.append(item)
        if plain:
            begun = time.perf_counter()
            for item, result in zip(plain, self._predict(plain), strict=True):
                answers[id(item)] = (result, _ms(begun), False)
        return [(item, *answers[id(item)]) for item in batch]

    def encode(self, item: Decoded, answer: object, infer_ms: float, *, fresh: bool) -> Outcome:
        """Encode one answer; what cannot be encoded is a failure of the model."""
        begun = time.perf_counter()
        body: Body = b""
        if not isinstance(answer, Failure):
            try:
                task, size = self._assignment.spec.task, item.image.shape[:2]
                answer = sound(answer, task, size, lambda: self._raw(item))
                if item.picture is not None and item.picture.scale > 1:
                    answer = scaling.restore(answer, item.picture)
                body = encode_body(answer, item.job.format, self._envelope)  # type: ignore[arg-type]
            except Unsound as error:
                answer = self._unsound(error)
            except Exception as error:
                answer = _failure(error, "The model returned an invalid result")
        timing = Timing(item.decode_ms, infer_ms, _ms(begun))
        failure = answer if isinstance(answer, Failure) else None
        return Outcome(body, timing, failure, fresh)

    def infer(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Decode, forward and encode in this thread."""
        answers = self.forward([self.decode(job) for job in jobs])
        return [self.encode(item, answer, ms, fresh=fresh) for item, answer, ms, fresh in answers]

    def generate(self, job: Job) -> Iterator[str | Outcome]:
        """Yield the pieces of text that the model makes for one job, then its outcome.

        A model that does not stream yields its outcome alone.
        """
        item = self.decode(job)
        begun = time.perf_counter()
        answer: Any = item.failure
        if answer is None and hasattr(self._model, "stream"):
            try:
                params = self._params.decode(item.job.params)
                with contextlib.closing(self._model.stream(item.image, params)) as pieces:
                    for piece in pieces:
                        if not isinstance(answer, (str, NoneType)):
                            what = type(answer).__name__
                            raise Unsound(f"its stream goes on behind a {what}")  # noqa: TRY301
                        answer = piece
                        if isinstance(piece, str):
                            yield piece
            except Unsound as error:
                answer = self._unsound(error)
            except Exception as error:
                answer = _failure(error, "The model failed")
        elif answer is None:
            answer = self._predict([item])[0]
        yield self.encode(item, answer, _ms(begun), fresh=False)

    def close_session(self, session: str) -> None:
        """Forget a session's state."""
        state = self._sessions.pop(session, None)
        _close(state)

    def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a public method of the model. Raises a ``MataError``."""
        function = self._method(method)
        try:
            return self._checked(function(*args, **kwargs))
        except Exception as error:
            raise _told(error, "The model failed") from error

    def stream(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Any]:
        """Iterate over a public generator method of the model. Raises a ``MataError``."""
        items = self.call(method, args, kwargs)
        try:
            for item in items:
                yield self._checked(item)
        except Exception as error:
            raise _told(error, "The model failed") from error
        finally:
            _close(items)

    def close(self) -> None:
        """Close the sessions and the model."""
        for session in tuple(self._sessions):
            self.close_session(session)
        while self._loaded:
            _close(self._loaded.pop())
        self._model = None

    def _load(self, assignment: Assignment) -> Any:
        """Load the parts of a model, then the model."""
        parts = {
            label: LoadedPart(self._load(part), part.params_type, part.defaults)
            for label, part in assignment.parts.items()
        }
        context = dataclasses.replace(assignment.context, parts=parts)
        model = assignment.load(assignment.spec, context)
        self._loaded.append(model)
        # A step of a model may be one of each of its parts.
        self._step_timeout += float(getattr(model, "step_timeout", assignment.step_timeout))
        return model

    @property
    def _stateful(self) -> bool:
        return hasattr(self._model, "session")

    def _raw(self, item: Decoded) -> bool:
        """Whether a request wanted scores as they are."""
        params = self._params.decode(item.job.params)
        return getattr(params, "use_softmax", True) is False

    def _unsound(self, error: Unsound) -> Failure:
        """Return what is told of a result that breaks a promise, and log it."""
        name = self._assignment.spec.name
        log.error("%s returned an invalid result: %s", name, error)
        return Failure(500, f"The model returned an invalid result: {name}: {error}")

    def _checked(self, value: Any) -> Any:
        """Return what a method gave; results of a task keep their promises here, too."""
        if type(value) in {list, tuple} and any(isinstance(each, RESULT_TYPES) for each in value):
            return type(value)([self._checked(each) for each in value])
        if not isinstance(value, RESULT_TYPES):
            return value
        tasks: tuple[str, ...] = getattr(value, "tasks", ())
        try:
            return sound(value, tasks[0])
        except Unsound as error:
            raise MataError(self._unsound(error).detail) from None

    def _method(self, method: str) -> Any:
        function = None if method.startswith("_") else getattr(self._model, method, None)
        if not callable(function):
            raise NotFound(f"The model has no method {method!r}")
        return function

    def _predict(self, items: Sequence[Decoded]) -> list[Any]:
        try:
            params = [self._params.decode(item.job.params) for item in items]
            results = list(self._model.predict([item.image for item in items], params))
            if len(results) != len(items):
                counts = f"{len(results)} results for {len(items)} images"
                return [self._unsound(Unsound(counts))] * len(items)
        except Exception as error:
            if len(items) == 1:
                return [_failure(error, "The model failed")]
            return [self._predict([item])[0] for item in items]
        return results

    def _step(self, item: Decoded) -> tuple[Result | Failure, float, bool]:
        begun = time.perf_counter()
        session = item.job.session
        fresh = session not in self._sessions
        try:
            if fresh:
                params: Params = self._params.decode(item.job.params)
                self._sessions[session] = self._model.session(params)
            result: Result | Failure = self._sessions[session].step(item.image)
        except Exception as error:
            result = _failure(error, "The model failed")
        return result, _ms(begun), fresh


def _close(thing: object) -> None:
    close = getattr(thing, "close", None)
    if callable(close):
        try:
            close()
        except Exception:
            log.exception("close failed")


def _lasts(error: Exception) -> bool:
    """Whether a load will fail again: a plugin says why, a file or a package is missing."""
    if isinstance(error, MataError):
        return error.status != OutOfMemory.status and error.retry_after is None
    return isinstance(error, (FileNotFoundError, ImportError))


def _told(error: Exception, sentence: str) -> MataError:
    return _failure(error, sentence).error()


def _failure(error: Exception, sentence: str) -> Failure:
    """What the client may know of ``error``: never its text, which may hold paths."""
    if isinstance(error, MataError):
        return Failure.of(error)
    if _is_shortage(error):
        log.error("out of memory: %s", error)
        return Failure(507, "Out of memory")
    if isinstance(error, msgspec.ValidationError):
        return Failure(InvalidParams.status, f"params: {error}")
    log.error("%s", sentence, exc_info=error)
    return Failure(500, f"{sentence}: {type(error).__name__}")


def _is_shortage(error: Exception) -> bool:
    """Whether a framework found no memory: by type, or by what it says in a plain RuntimeError."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and _SHORTAGE.search(str(error)) is not None


def _ms(begun: float) -> float:
    return round((time.perf_counter() - begun) * 1e3, 3)
