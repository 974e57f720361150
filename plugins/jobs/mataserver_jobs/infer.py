"""The kind ``infer``: a video, a ZIP or a folder of pictures through a model, to JSON Lines.

Its ``settings`` are the folders below which jobs may read.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from mataserver import BadRequest, MataError
from mataserver_jobs import durable
from mataserver_jobs.allowed import allowed
from mataserver_jobs.kinds import JobKind

if TYPE_CHECKING:
    from mataserver import Models
    from mataserver_jobs.answers import AnswerLog
    from mataserver_jobs.item_sources import Item, ItemSource
    from mataserver_jobs.kinds import Job
    from mataserver_jobs.model_client import Answer, ModelClient

UPLOAD = "upload"
"""The file of the job's input that was sent."""
RESULTS = "results.jsonl"
SUMMARY = "summary.json"
ANNOTATED = "annotated.mp4"
TRACK = "track"


ModelName = Annotated[str, Meta(min_length=1, max_length=256)]
Every = Annotated[int, Meta(ge=1, le=1_000_000)]
Limit = Annotated[int, Meta(ge=1, le=2**53)]


class InferRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """What an ``infer`` job is asked.

    model, params: as in ``POST /v1/infer``.
    every:  only each ``every``-th frame or picture is looked at.
    limit:  how many are looked at, at most.
    annotate: whether a video is made with what was found drawn in; None makes one of a video.
    path:   a file or folder below one of ``plugins.jobs.roots``, in place of a file that is sent.
    upload: the id of an upload that is whole, likewise.
    """

    model: ModelName
    params: dict[str, Any] = {}
    every: Every = 1
    limit: Limit | None = None
    annotate: bool | None = None
    path: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    upload: Annotated[str, Meta(min_length=1, max_length=64)] | None = None


class InferSpec(InferRequest, kw_only=True, forbid_unknown_fields=True):
    """An ``infer`` job: ``file`` is what the client called its upload, ``task`` the model's."""

    file: str = ""
    task: str = ""


def task_of_model(models: Models, asked: InferRequest) -> str:
    """Return the task of the model that is asked for.

    Raises ``NotFound`` for an unknown one, ``InvalidParams`` for parameters that it does not take,
    ``Unavailable`` where nothing serves it.
    """
    model = models.get(asked.model)
    model.params(asked.params)
    return model.task


def infer(job: Job) -> dict[str, Any]:
    """Answer every item once, from where an earlier attempt stopped; return the summary.

    A tracker remembers, so its job begins again with the first frame, unless all were answered.
    """
    from mataserver_jobs.answers import AnswerLog, summary
    from mataserver_jobs.item_sources import open_source

    spec = msgspec.convert(job.spec, InferSpec)
    job.report("reading", message="Reading what was given.")
    # What the path led to when the job was asked for may lead elsewhere now.
    given = allowed(spec.path, job.settings) if spec.path else job.input / UPLOAD
    source, answered = open_source(given), _DoneMark(job)
    anew = spec.task == TRACK and not answered.is_set
    with AnswerLog(job.output / RESULTS, anew=anew) as answers:
        if not answered.is_set:
            with contextlib.closing(_make_client(job, spec)) as client:
                _answer_items(job, spec, source, answers, client)
            answered.set(is_damaged=source.is_damaged)
        if not answers.count:
            why = " that can be decoded: it is damaged" if answered.is_damaged else ""
            raise BadRequest(f"The video has no frames{why}")
        found = {**summary(answers.all()), "damaged": answered.is_damaged}
        fresh = job.work / SUMMARY
        fresh.write_bytes(msgspec.json.format(msgspec.json.encode(found)))
        fresh.replace(job.output / SUMMARY)  # whole or not at all
        if found["failed"] == found["items"]:
            raise MataError(f"No item could be answered: {next(answers.all())['error']}")
        if _should_annotate(spec, source):
            from mataserver_jobs.annotation import annotate

            annotate(job, source, answers, spec.every, job.output / ANNOTATED)
    return found


def _should_annotate(spec: InferSpec, source: ItemSource) -> bool:
    """Whether a video is made: unless told, of what moves, where there is something to draw."""
    if spec.annotate is None:
        return source.moves and spec.task != "embed"
    return spec.annotate


class _DoneMark:
    """A file that says that all items were answered, and whether some could not be read."""

    def __init__(self, job: Job) -> None:
        self._path = job.work / "answered"

    @property
    def is_set(self) -> bool:
        """Whether it is there."""
        return self._path.exists()

    @property
    def is_damaged(self) -> bool:
        """What it says."""
        return self._path.read_bytes() == b"damaged"

    def set(self, *, is_damaged: bool) -> None:
        """Make it, whole or not at all."""
        durable.replace(self._path, b"damaged" if is_damaged else b"whole")


def _make_client(job: Job, spec: InferSpec) -> ModelClient:
    from mataserver_jobs.model_client import RequestClient, Stream

    if job.access is None:
        raise MataError("The job has no access to the server")
    kind = Stream if spec.task == TRACK else RequestClient
    return kind(job.access, spec.model, spec.params, job.check)


def _answer_items(
    job: Job, spec: InferSpec, source: ItemSource, answers: AnswerLog, client: ModelClient
) -> None:
    from mataserver_jobs.model_client import Answer

    total = -(-source.total // spec.every)
    if spec.limit is not None:
        total = min(total, spec.limit) or spec.limit
        if answers.count >= spec.limit:
            return
    for item in source.items(answers.count, spec.every):
        told = f"{answers.count} of {total}" if total else f"{answers.count} so far"
        job.report("inferring", answers.count, total, told)
        answer = Answer(None, item.error) if item.error else client.ask(item.image)
        answers.append(_output_line(answers.count * spec.every, item, answer))
        if answers.count == spec.limit:
            return


def _output_line(index: int, item: Item, answer: Answer) -> dict[str, Any]:
    whence: dict[str, Any] = {"file": item.file} if item.file else {"time": item.time}
    came = {"error": answer.error} if answer.result is None else {"result": answer.result}
    return {"index": index, **whence, **came}


def _final_message(result: dict[str, Any]) -> str:
    failed, items = result["failed"], result["items"]
    missed = [f"{failed} of {items} could not be answered: {RESULTS} tells why"] if failed else []
    missed += ["some of what was given is damaged and was left out"] if result["damaged"] else []
    return f"Done, but {'; '.join(missed)}." if missed else "Done."


INFER = JobKind(
    name="infer",
    run=infer,
    spec=InferSpec,
    stages={"reading": (0.0, 1.0), "inferring": (1.0, 80.0), "drawing": (80.0, 100.0)},
    told=_final_message,
    fixed=frozenset({"model", "path", "upload", "file", "task"}),
)
