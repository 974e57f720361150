"""The settings of ``plugins.reconstruct``."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from mataserver_reconstruct.spec import Limits, Points, Voxel
from mataserver_reconstruct.weights import Matchers

Url = Annotated[
    str,
    Meta(
        pattern=r"^https?://[^\s@]+$",
        description="a URL that begins with http:// or https://, without a user or password",
        max_length=2000,
    ),
]
Word = Annotated[str, Meta(min_length=1, max_length=4096)]


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an upload may be, how clouds are thinned unless it says so, and Airflow.

    max_upload_mb:    the largest upload. Also ``SCENE3D_MAX_UPLOAD_MB``.
    voxel_size:       side of a voxel in the model's own units, which are arbitrary; ``null``: a
                      part of the cloud's extent. Also ``SCENE3D_VOXEL_SIZE``.
    max_points:       points of one cloud at most. Also ``SCENE3D_MAX_POINTS``.
    threads:          of features and matches in one job; 0 is what the machine gives.
    limits:           what an archive may hold.
    matchers:         where the weights of the learned ones are, and what ``fusion`` mixes.
    airflow_url:      the Airflow that retrains; ``null``: none. Also ``AIRFLOW_API_URL``.
    airflow_version:  its API: ``2``, ``3``, or ``auto``, which finds out.
    airflow_username, airflow_password: who asks it. Also ``AIRFLOW_USERNAME``,
                      ``AIRFLOW_PASSWORD``.
    airflow_token:    a token in their place. Also ``AIRFLOW_TOKEN``.
    dag:              what is triggered.
    auto_retrain:     whether high drift of a reconstruction triggers it.
    cooldown_hours:   between two runs that are triggered here.
    """

    max_upload_mb: Annotated[int, Meta(ge=1, extra={"environment": "SCENE3D_MAX_UPLOAD_MB"})] = 500
    voxel_size: Annotated[Voxel | None, Meta(extra={"environment": "SCENE3D_VOXEL_SIZE"})] = None
    max_points: Annotated[Points, Meta(extra={"environment": "SCENE3D_MAX_POINTS"})] = 500_000
    threads: Annotated[int, Meta(ge=0, le=256)] = 0
    limits: Limits = Limits()
    matchers: Matchers = Matchers()
    airflow_url: Annotated[Url | None, Meta(extra={"environment": "AIRFLOW_API_URL"})] = None
    airflow_version: Literal["auto", "2", "3"] = "auto"
    airflow_username: Annotated[Word | None, Meta(extra={"environment": "AIRFLOW_USERNAME"})] = None
    airflow_password: Annotated[
        Word | None, Meta(extra={"environment": "AIRFLOW_PASSWORD", "secret": True})
    ] = None
    airflow_token: Annotated[
        Word | None, Meta(extra={"environment": "AIRFLOW_TOKEN", "secret": True})
    ] = None
    dag: Annotated[str, Meta(min_length=1, max_length=250)] = "experiment_pipeline_dag"
    auto_retrain: bool = False
    cooldown_hours: Annotated[float, Meta(ge=0.0, le=8_760.0)] = 6.0
