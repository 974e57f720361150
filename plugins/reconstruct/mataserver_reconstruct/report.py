"""The report of a reconstruction: one HTML file with its pictures inside."""

from __future__ import annotations

import base64
import html
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from mataserver_reconstruct import chart, drawing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mataserver_reconstruct.model import Model
    from mataserver_reconstruct.outcome import Outcome
    from mataserver_reconstruct.verdicts import Verdict
    from mataserver_reconstruct.workspace import Workspace

SHOWN = 60
"""Photographs whose pictures are included; the table lists all."""

_STATUS = {
    "registered": "placed",
    "unreadable": "not read",
    "no_features": "no details",
    "no_verified_pair": "no overlap",
    "not_in_model": "not placed",
}
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.3em .6em;
vertical-align:top;border-bottom:1px solid #ddd}
.grid{display:flex;flex-wrap:wrap;gap:12px}figure{margin:0;width:250px}
figure img{width:100%;border-radius:4px}figcaption{font-size:13px;overflow-wrap:anywhere}
.above{max-width:100%;border:1px solid #ddd}svg{max-width:720px;width:100%}
.out{color:#b0301c}li{margin:.3em 0}
"""


def write(
    workspace: Workspace, outcome: Outcome, keypoints: Mapping[str, NDArray[np.float32]]
) -> str:
    """Return the report as HTML; ``keypoints`` are those of the first ``SHOWN`` photographs."""
    verdicts = outcome.verdicts
    placed = sum(verdict.pose is not None for verdict in verdicts)
    title = html.escape(f"{workspace.spec.dataset_name} / {workspace.spec.scene_name}")
    unfinished = "<p class=out>It was stopped: this is what it had reached.</p>"
    parts = [
        f"<h1>{title}</h1>",
        unfinished if outcome.partial else "",
        (
            f"<p>{placed} of {len(verdicts)} photographs have a place, in "
            f"{len(outcome.models)} model{'' if len(outcome.models) == 1 else 's'} with "
            f"{sum(len(cloud.xyz) for cloud in outcome.clouds)} points.</p>"
        ),
        _advice(outcome.advice),
        _lost(verdicts),
        *_models(outcome),
        "<h2>Which photographs match which</h2>",
        (
            "<p>Each dot is a photograph by its number below, coloured by its model, grey without "
            "one; the thicker a line, the more details two have in common.</p>"
        ),
        chart.svg(verdicts, outcome.graph.pairs),
        "<h2>Photographs</h2>",
        _table(verdicts),
        "<h2>What was recognised</h2>",
        "<p>Green details are in the model, red ones were found and are not.</p>",
        _gallery(workspace, verdicts, keypoints),
    ]
    head = f'<!doctype html><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    return head + "\n".join(filter(None, parts))


def _advice(advice: list[str]) -> str:
    if not advice:
        return ""
    return "<ul>" + "".join(f"<li>{html.escape(each)}</li>" for each in advice) + "</ul>"


def _lost(verdicts: list[Verdict]) -> str:
    """Return the section on photographs without a place: a line per reason."""
    reasons: dict[str, list[str]] = {}
    for number, verdict in enumerate(verdicts, 1):
        if verdict.pose is None:
            named = f"{number}: {html.escape(verdict.photo.name)}"
            reasons.setdefault(html.escape(verdict.reason), []).append(named)
    if not reasons:
        return ""
    lines = "".join(f"<li>{', '.join(names)}<br>{why}</li>" for why, names in reasons.items())
    return f'<h2>Photographs without a place</h2><ul class="out">{lines}</ul>'


def _models(outcome: Outcome) -> list[str]:
    numbers: dict[str, int] = {}
    for number, verdict in enumerate(outcome.verdicts, 1):
        numbers.setdefault(verdict.photo.file, number)
    told = []
    for model, cloud in zip(outcome.models, outcome.clouds, strict=True):
        error = f"{model.errors.mean():.2f} pixels" if len(model.errors) else "unknown"
        above = _inline("png", drawing.top_view(model, cloud, numbers))
        told += [
            f"<h2>{model.name} from above</h2>",
            (
                f"<p>{len(model.views)} photographs, {len(cloud.xyz)} points, mean error {error}. "
                f"Its unit is {_unit(model)}. Triangles are cameras, open to where they look.</p>"
            ),
            f'<img class="above" alt="" src="{above}">',
        ]
    return told


def _unit(model: Model) -> str:
    return f"the metre, {model.scale}" if model.scale else "arbitrary"


def _table(verdicts: list[Verdict]) -> str:
    rows = "".join(_row(at + 1, verdict) for at, verdict in enumerate(verdicts))
    head = "<tr><th>#<th>photograph<th>details<th>model<th>state<th>why</tr>"
    return f"<table>{head}{rows}</table>"


def _row(number: int, verdict: Verdict) -> str:
    state = "" if verdict.pose is not None else ' class="out"'
    return (
        f"<tr><td>{number}<td>{html.escape(verdict.photo.name)}<td>{verdict.keypoints}"
        f"<td>{verdict.model}<td{state}>{_STATUS[verdict.status]}"
        f"<td>{html.escape(verdict.reason)}</tr>"
    )


def _gallery(
    workspace: Workspace, verdicts: list[Verdict], keypoints: Mapping[str, NDArray[np.float32]]
) -> str:
    def figure(place: tuple[int, Verdict]) -> str:
        at, verdict = place
        file = verdict.photo.file
        places = keypoints.get(file, np.empty((0, 2), np.float32))
        used = np.zeros(len(places), bool)
        if verdict.pose is not None:
            places, used = verdict.pose.keypoints, verdict.pose.points >= 0
        picture = _inline("jpeg", drawing.keypoints(workspace.folder / file, places, used))
        caption = f"<figcaption>{at}: {html.escape(verdict.photo.name)}</figcaption>"
        return f'<figure><img alt="" src="{picture}">{caption}</figure>'

    shown = [each for each in enumerate(verdicts[:SHOWN], 1) if each[1].photo.file]
    with ThreadPoolExecutor(workspace.threads, thread_name_prefix="drawing") as pool:
        return f'<div class="grid">{"".join(pool.map(figure, shown))}</div>'


def _inline(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
