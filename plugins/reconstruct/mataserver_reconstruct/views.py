"""The answers of the API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct

from mataserver_reconstruct import drift
from mataserver_reconstruct.stages import EXTRACTING, MATCHING, STAGES

if TYPE_CHECKING:
    from mataserver_jobs.record import Record


class Accepted(Struct, frozen=True):
    """An upload that was taken."""

    job_id: str
    message: str = "Pipeline started."


class Status(Struct, frozen=True, kw_only=True):
    """How far a job is.

    ``stage`` and ``status`` are the same word: queued, extracting, matching, triangulating,
    decimating, success, failed or cancelled. ``progress`` is percent; times are Unix seconds;
    ``message`` says at the end what the photographer should know. ``n_images`` is 0 before the
    archive was unpacked, and ``download_url`` null without points.
    """

    job_id: str
    stage: str
    status: str
    progress: int
    message: str
    created_at: float
    started_at: float | None
    finished_at: float | None
    n_images: int
    n_points: int
    registration_rate: float | None
    error: str | None
    download_url: str | None
    has_drift: bool
    drift_severity: str


class Cluster(Struct, frozen=True, kw_only=True):
    """A model: its photographs, its points, and the names of its files; null without points.

    ``unit`` is metre where the scale is known, ``scale_error`` the part by which that may be wrong.
    """

    id: int
    name: str
    num_points3D: int  # noqa: N815 - the document's name
    filename: str | None
    num_images: int
    glb: str | None
    unit: str | None
    scale_error: float | None


class Clusters(Struct, frozen=True):
    """The models of a job, the largest first."""

    clusters: list[Cluster]


class DriftReport(Struct, frozen=True):
    """What is said of each feature. ``status`` is ok or insufficient_data."""

    drift_detected: bool
    severity: str
    checks: dict[str, dict[str, Any]]
    status: str
    n_images: int
    baseline: dict[str, Any]


class Checked(DriftReport, frozen=True, kw_only=True):
    """The drift of an archive, and what is advised."""

    recommendation: str


class Insights(Struct, frozen=True, kw_only=True):
    """What a job found, and whether its photographs differ from those before."""

    registration_rate: float
    n_points: int
    has_drift: bool
    drift_severity: str
    drift_report: DriftReport
    recommendation: str


def status(record: Record, figures: dict[str, Any], report: dict[str, Any]) -> Status:
    """Return the status of a job. ``figures`` and ``report`` may be empty."""
    stage, progress = _stage_and_percent(record)
    points = figures.get("n_points", 0)
    unpacked = stage not in {"queued", EXTRACTING} or record.progress >= STAGES[MATCHING][0]
    known = record.spec["images"] if unpacked and stage != "failed" else 0
    return Status(
        job_id=record.id,
        stage=stage,
        status=stage,
        progress=progress,
        message=" ".join(figures.get("advice", ())) or record.message,
        created_at=record.created_at,
        started_at=record.started_at,
        finished_at=record.finished_at,
        n_images=figures.get("n_images", known),
        n_points=points,
        registration_rate=figures.get("registration_rate"),
        error=record.error,
        download_url=f"/download/jobs/{record.id}" if points else None,
        has_drift=report.get("drift_detected", False),
        drift_severity=report.get("severity", "low"),
    )


def clusters(figures: dict[str, Any]) -> Clusters:
    """Return the models of a job's figures."""
    names = Cluster.__struct_fields__
    return Clusters(
        [Cluster(**{name: each.get(name) for name in names}) for each in figures["clusters"]]
    )


def insights(figures: dict[str, Any], report: dict[str, Any]) -> Insights:
    """Return the results of a job and its drift."""
    severity = report["severity"]
    return Insights(
        registration_rate=figures["registration_rate"],
        n_points=figures["n_points"],
        has_drift=report["drift_detected"],
        drift_severity=severity,
        drift_report=DriftReport(**report),
        recommendation=drift.recommendation(severity),
    )


def checked(report: dict[str, Any]) -> Checked:
    """Return a drift report with a recommendation."""
    return Checked(**report, recommendation=drift.recommendation(report["severity"]))


def _stage_and_percent(record: Record) -> tuple[str, int]:
    """Return the API's stage of a job, and its percent."""
    percent = int(record.progress)
    if record.state == "done":
        return "success", 100
    if record.state == "failed":
        return "failed", 0
    if record.started_at is not None:  # its process may die before its first report
        percent = max(percent, int(STAGES[EXTRACTING][0]))
    is_starting = record.state == "running" and record.stage not in STAGES
    return EXTRACTING if is_starting else record.stage, percent
