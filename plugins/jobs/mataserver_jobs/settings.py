"""The settings of ``plugins.jobs``."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from mataserver import Needs


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many jobs run at once, where, and for how long what they made is kept.

    slots:         jobs at once; each is a process of its own. 0 only queues them.
    cluster:       what each job needs of a node of the Ray cluster, on which it then runs. Without
                   it they run on this machine.
    shared_folder: whether the nodes have the folder of the jobs at the same path. Without it what
                   a job is given is sent to its node, and what it made is sent back.
    folder:        where the jobs' files are, by default ``jobs`` in the data directory. Servers
                   that share a database share it too.
    keep_days:     how long a job is kept once it has ended.
    results_mb:    what all jobs' files may take; over it go those that ended first of the
                   owner who has the most.
    min_free_mb:   what must be free on the disk before a job is taken, in megabytes.
    max_upload_mb: the largest upload.
    roots:         folders whose files jobs may be given by their path.
    uploads_mb:    what all uploads may take until jobs have taken them; half of it of one owner.
    upload_hours:  how long an upload is kept that nobody goes on with.
    webhook_timeout: how long a webhook may take to answer, in seconds.
    """

    slots: Annotated[int, Meta(ge=0, le=256)] = 1
    cluster: Needs | None = None
    shared_folder: bool = True
    folder: Annotated[str, Meta(min_length=1)] | None = None
    keep_days: Annotated[float, Meta(gt=0.0, le=36_500.0)] = 7.0
    results_mb: Annotated[int, Meta(ge=1)] = 50_000
    min_free_mb: Annotated[int, Meta(ge=0)] = 1_000
    max_upload_mb: Annotated[int, Meta(ge=1)] = 4_000
    uploads_mb: Annotated[int, Meta(ge=1)] = 20_000
    upload_hours: Annotated[float, Meta(gt=0.0, le=8_760.0)] = 24.0
    roots: list[Annotated[str, Meta(pattern="^/", description="a path that begins with /")]] = []
    webhook_timeout: Annotated[float, Meta(gt=0.0, le=30.0)] = 15.0
