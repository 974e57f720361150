"""Blocking code around one loaded model: decode, predict, encode. Both engines run it."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import threading
import time
from functools import partial
from types import NoneType
from typing import TYPE_CHECKING, Any, cast

import msgspec

from mataserver import media
from mataserver.contract.backend import LoadedPart
from mataserver.contract.envelope import Envelope
from mataserver.engines import loaded_model, scaling
from mataserver.engines.encoding import encode_body
from mataserver.engines.failures import (
    MODEL_ERRORS,
    client_error,
    close_quietly,
    failure_of,
    invalid_result_failure,
    is_permanent,
)
from mataserver.engines.item_validation import InvalidResultError
from mataserver.engines.loaded_model import (
    as_results,
    check_model,
    has_method,
    is_lazy,
    open_session,
    open_stream,
)
from mataserver.engines.result_validation import validate_custom_result, validate_result
from mataserver.engines.work import LoadReport, Outcome, Timing
from mataserver.engines.worker_errors import Failure
from mataserver.errors import InvalidParams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mataserver.engines.work import Assignment, Body, Job
    from mataserver.params.table import Params
    from mataserver.results import Result

    Image = NDArray[np.uint8]

log = logging.getLogger("mataserver.worker")


class DecodedJob(msgspec.Struct):
    """A job with its decoded picture, or the failure to decode it."""

    job: Any
    picture: Any = None
    failure: Failure | None = None
    decode_ms: float = 0.0


class ModelHost:
    """One loaded model and its video sessions. ``forward`` must not run concurrently."""

    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._name = assignment.spec.name
        self._envelope = Envelope(assignment.spec.task, self._name)
        self._params = msgspec.msgpack.Decoder(assignment.params_type)
        self._sessions: dict[str, Any] = {}
        self._model: Any = None
        self._loaded: list[Any] = []
        self._step_timeout = 0.0
        self._decoding: dict[int, Job] = {}

    def load(self) -> LoadReport:
        """Load the model and its parts. Raises a ``MataError``."""
        try:
            self._model = self._load(self._assignment)
        except MODEL_ERRORS as error:
            client_failure = client_error(error, "The model could not be loaded", self._name)
            client_failure.lasting = is_permanent(error)
            raise client_failure from error
        streams, decoders = has_method(self._model, "stream"), self._assignment.decode_threads - 1
        step_timeout = self._step_timeout
        return LoadReport(self._is_stateful, os.getpid(), decoders, step_timeout, streams=streams)

    def decode(self, job: Job) -> DecodedJob:
        """Decode a job's image; a failure is returned in the result, not raised."""
        begun = time.perf_counter()
        decoded = DecodedJob(job)
        self._decoding[threading.get_ident()] = job
        try:
            decoded.picture = self._read(job)
        except MODEL_ERRORS as error:
            decoded.failure = failure_of(error, "The image could not be decoded", self._name)
        del self._decoding[threading.get_ident()]
        decoded.decode_ms = _ms(begun)
        return decoded

    def jobs_in_decoding(self) -> dict[int, Job]:
        """Return the job that each thread decodes; none for what the model itself decodes."""
        return self._decoding.copy()

    def _read(self, job: Job) -> media.Picture:
        """Decode an image; for OCR, keep text legible against a transparent background."""
        assigned, given = self._assignment, self._assignment.context
        legible = assigned.spec.task == "ocr"
        size = None
        # Reduced decoding depends on the file format; a mid-session change would make state jump.
        if assigned.scaled_decode and (job.session is None or not self._is_stateful):
            size = scaling.input_size(self._model, assigned.spec.task)
        return media.reduced(job.image, given.max_pixels, size, given.alpha, legible=legible)

    def forward(self, batch: Sequence[DecodedJob]) -> list[tuple[DecodedJob, Any, float, bool]]:
        """Run the model on the decoded jobs; a job's failure does not affect the others.

        Returns, in order: the job, its result or ``Failure``, the milliseconds, and whether session
        state was created for it.
        """
        answers: dict[int, tuple[Any, float, bool]] = {}
        plain = []
        for item in batch:
            if item.failure is not None:
                answers[id(item)] = (item.failure, 0.0, False)
            elif item.job.session is not None and self._is_stateful:
                answers[id(item)] = self._advance_session(item)
            else:
                plain.append(item)
        if plain:
            begun = time.perf_counter()
            for item, result in zip(plain, self._predict(plain), strict=True):
                answers[id(item)] = (result, _ms(begun), False)
        return [(item, *answers[id(item)]) for item in batch]

    def encode(self, item: DecodedJob, answer: Any, infer_ms: float, *, is_new: bool) -> Outcome:
        """Encode one answer; an answer that cannot be encoded is a failure of the model."""
        begun = time.perf_counter()
        body: Body = b""
        if not isinstance(answer, Failure):
            try:
                answer = self._validate(answer, item)
                if item.picture.scale > 1:
                    answer = scaling.restore(answer, item.picture)
                body = encode_body(answer, item.job.format, self._envelope)
            except MODEL_ERRORS as error:
                answer = failure_of(error, "The model returned an invalid result", self._name)
        timing = Timing(item.decode_ms, infer_ms, _ms(begun))
        failure = answer if isinstance(answer, Failure) else None
        return Outcome(body, timing, failure, is_new)

    def infer(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Decode, forward and encode in the calling thread."""
        answers = self.forward([self.decode(job) for job in jobs])
        return [self.encode(item, answer, ms, is_new=new) for item, answer, ms, new in answers]

    def generate(self, job: Job) -> Iterator[str | Outcome]:
        """Yield the text pieces that the model produces for one job, then its outcome.

        A model without streaming yields only the outcome.
        """
        item = DecodedJob(job) if (late := is_lazy(self._model)) else self.decode(job)
        begun = time.perf_counter()
        answer: Any = item.failure
        if answer is None and has_method(self._model, "stream"):
            try:
                params = _params_of(item, self._params)
                image = partial(_decode, item, self.decode) if late else item.picture.image
                with contextlib.closing(open_stream(self._model, image, params)) as pieces:
                    for piece in pieces:
                        if not isinstance(answer, (str, NoneType)):
                            what = type(answer).__name__
                            raise InvalidResultError(f"its stream continues after a {what}")
                        answer = piece
                        if isinstance(piece, str):
                            yield piece
            except GeneratorExit:
                raise
            except MODEL_ERRORS as error:
                answer = failure_of(error, "The model failed", self._name)
        elif answer is None:
            answer = self._predict([item])[0]
        yield self.encode(item, answer, _ms(begun) - late * item.decode_ms, is_new=False)

    def close_session(self, session: str) -> None:
        """Discard a session's state."""
        close_quietly(self._sessions.pop(session, None))

    def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a public method of the model. Raises a ``MataError``."""
        return loaded_model.call(self._model, self._name, method, args, kwargs)

    def stream(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Any]:
        """Iterate over a public generator method of the model. Raises a ``MataError``."""
        return loaded_model.stream(self._model, self._name, method, args, kwargs)

    def close(self) -> None:
        """Close all sessions, the model and its parts."""
        for session in tuple(self._sessions):
            self.close_session(session)
        while self._loaded:
            close_quietly(self._loaded.pop())
        self._model = None

    def _load(self, assignment: Assignment) -> Any:
        """Load a model's parts, then the model itself."""
        parts = {
            label: LoadedPart(self._load(part), part.params_type, part.defaults)
            for label, part in assignment.parts.items()
        }
        context = dataclasses.replace(assignment.context, parts=parts)
        model = assignment.load(assignment.spec, context)
        self._loaded.append(model)
        check_model(model, assignment.spec.name, assignment.spec.task)
        # One step of a model may include a step of each part.
        self._step_timeout += float(getattr(model, "step_timeout", assignment.step_timeout))
        return model

    @property
    def _is_stateful(self) -> bool:
        return has_method(self._model, "session")

    def _validate(self, answer: object, item: DecodedJob) -> Any:
        """Validate a result and return it normalized. Raises ``InvalidResultError``."""
        size, assigned = item.picture.image.shape[:2], self._assignment
        if assigned.result is not None:
            return validate_custom_result(answer, assigned.result, size)

        def asked_for_raw_scores() -> bool:
            return getattr(_params_of(item, self._params), "use_softmax", True) is False

        return validate_result(answer, assigned.spec.task, size, asked_for_raw_scores)

    def _predict(self, items: Sequence[DecodedJob]) -> list[Any]:
        try:
            params = [_params_of(item, self._params) for item in items]
            given = self._model.predict([item.picture.image for item in items], params)
            return as_results(given, len(items))
        except InvalidResultError as error:
            return [invalid_result_failure(error, self._name)] * len(items)
        except MODEL_ERRORS as error:
            if len(items) == 1:
                return [failure_of(error, "The model failed", self._name)]
            return [self._predict([item])[0] for item in items]

    def _advance_session(self, item: DecodedJob) -> tuple[Result | Failure, float, bool]:
        begun = time.perf_counter()
        session = item.job.session
        is_new = session not in self._sessions
        try:
            if is_new:
                self._sessions[session] = open_session(self._model, _params_of(item, self._params))
            result: Result | Failure = self._sessions[session].step(item.picture.image)
        except MODEL_ERRORS as error:
            result = failure_of(error, "The model failed", self._name)
        return result, _ms(begun), is_new


def _decode(item: DecodedJob, decode: Callable[[Job], DecodedJob]) -> Image:
    """Complete a job with its image, and return that. Raises what its client is to be told."""
    found = decode(item.job)
    item.picture, item.failure, item.decode_ms = found.picture, found.failure, found.decode_ms
    if found.failure is not None:
        raise found.failure.error()
    return cast("Image", found.picture.image)


def _params_of(item: DecodedJob, decoder: msgspec.msgpack.Decoder[Params]) -> Params:
    """Return a job's parameters. Raises ``InvalidParams``: such an error is not the model's."""
    try:
        return decoder.decode(item.job.params)
    except msgspec.ValidationError as error:
        raise InvalidParams(f"params: {error}") from None


def _ms(begun: float) -> float:
    return round((time.perf_counter() - begun) * 1e3, 3)
