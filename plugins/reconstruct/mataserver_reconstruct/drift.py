"""Whether photographs differ from those that came before: the rule, and nothing else.

Photographs of one upload resemble each other, so tests that take each for a draw of its own (KS,
PSI) flag every new scene. The rule compares medians instead, by the spread of all baseline
photographs: ``|median(current) - median(baseline)| / (IQR(baseline) / 1.349)``. A baseline needs
many data sets before its spread is one of scenes.

Of what holds of a photograph or not, an upload has one share. It is compared with the shares of
the data sets before, as ``2 asin(sqrt(share))``, whose variance is ``1 / photographs`` whatever the
share is; what any of these had, too, is no drift, since data sets differ in their habits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mataserver_reconstruct.features import NAMES, SHARES

LOW, MEDIUM, HIGH = 2.0, 3.0, 5.0
"""Deviations from which on a feature is of that severity; from medium on it has drifted."""

FEWEST_DATASETS, FEWEST_IMAGES = 20, 8
RATE_DROP = 0.20
"""Fall of the registration rate, against the baseline's mean, from which on it has drifted."""

RECOMMENDATIONS = {
    "low": "No action needed.",
    "medium": "Moderate drift detected. Monitor future submissions.",
    "high": "High drift detected. Evaluated auto-retraining trigger.",
}
_ORDER = ("none", "low", "medium", "high")
_BINS = 10

Dataset = Mapping[str, Sequence[float]]
"""Values of the photographs of one upload, by feature."""


def report(
    current: Dataset,
    baseline: Sequence[Dataset],
    *,
    registration_rate: float | None = None,
    rates: Sequence[float] = (),
    baseline_id: str = "default",
) -> dict[str, Any]:
    """Return the drift report of an upload against those before it.

    ``rates`` are the baseline's registration rates, 0 to 1. With fewer than 20 data sets before
    it, or 8 photographs in it, its status is ``insufficient_data`` and nothing has drifted.
    """
    count = _photographs(current)
    known = {name: _pooled(baseline, name) for name in NAMES}
    told: dict[str, Any] = {
        "status": "ok",
        "drift_detected": False,
        "severity": "low",  # also where nothing has drifted, as the document's example has it
        "n_images": count,
        "baseline": {
            "id": baseline_id,
            "n_datasets": len(baseline),
            "n_images": max((len(values) for values in known.values()), default=0),
        },
        "checks": {},
    }
    if not enough(current, baseline):
        return told | {"status": "insufficient_data"}
    checks = {
        name: check(current[name], known[name])
        for name in NAMES
        if len(current.get(name, ())) and len(known[name])
    }
    _correct(checks)
    for name in SHARES:
        before = [dataset[name] for dataset in baseline if dataset.get(name)]
        if current.get(name) and len(before) >= FEWEST_DATASETS:
            checks[name] = check_share(current[name], before)
    if registration_rate is not None and len(rates) >= FEWEST_DATASETS:
        checks["registration_rate"] = _performance(registration_rate, rates)
    drifted = any(each["drift"] for each in checks.values())
    worst = max((_ORDER.index(each["severity"]) for each in checks.values()), default=0)
    return told | {
        "drift_detected": drifted,
        "severity": _ORDER[max(1, worst)],
        "checks": checks,
    }


def enough(current: Dataset, baseline: Sequence[Dataset]) -> bool:
    """Whether an upload can be judged: 20 data sets before it, and 8 photographs in it."""
    return len(baseline) >= FEWEST_DATASETS and _photographs(current) >= FEWEST_IMAGES


def recommendation(severity: str) -> str:
    """Return what is advised at a severity of a report."""
    return RECOMMENDATIONS.get(severity, RECOMMENDATIONS["low"])


def check(current: Sequence[float], baseline: Sequence[float]) -> dict[str, Any]:
    """Return the check of one feature; ``ks``, ``p_adj`` and ``psi`` are for information."""
    # These bring much: a server that compares nothing yet has no use for them.
    import numpy as np
    from scipy import stats

    now, before = np.asarray(current, float), np.asarray(baseline, float)
    z = _deviation(float(np.median(now)), before)
    found = stats.ks_2samp(now, before, method="asymp")
    return {
        "drift": z >= MEDIUM,
        "severity": severity(z),
        "z": round(z, 4),
        "baseline_median": round(float(np.median(before)), 6),
        "current_median": round(float(np.median(now)), 6),
        "ks": round(float(found.statistic), 6),
        "p_adj": float(found.pvalue),
        "psi": round(_stability(now, before), 6),
        "method": "robust_z",
    }


def check_share(current: Sequence[float], baseline: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Return the check of a share: of photographs, 1 or 0 each, and those of each data set."""
    import numpy as np

    shares = np.array([_share(each) for each in baseline])
    before, now = 2 * np.arcsin(np.sqrt(shares)), 2 * np.arcsin(np.sqrt(_share(current)))
    low, middle, high = np.percentile(before, [25, 50, 75])
    spread = ((float(high - low) / 1.349) ** 2 + 1 / len(current)) ** 0.5
    z = abs(float(now - middle)) / spread
    known = bool(shares.min() <= _share(current) <= shares.max())
    return {
        "drift": z >= MEDIUM and not known,
        # No more than medium: nothing is trained anew for how photographs were sent.
        "severity": "none" if known else severity(min(z, MEDIUM)),
        "z": round(z, 4),
        "baseline_median": round(float(np.median(shares)), 6),
        "current": round(_share(current), 6),
        "method": "share",
    }


def _share(held: Sequence[float]) -> float:
    return min(1.0, max(0.0, sum(held) / len(held)))


def severity(z: float) -> str:
    """Return how much a deviation means."""
    for name, least in (("high", HIGH), ("medium", MEDIUM), ("low", LOW)):
        if z >= least:
            return name
    return "none"


def _deviation(value: float, before: Any) -> float:
    import numpy as np

    low, middle, high = np.percentile(before, [25, 50, 75])
    # A feature that never varied, as the share of black pixels: a thousandth is what it may.
    spread = max(float(high - low) / 1.349, 1e-3 * max(1.0, abs(float(middle))))
    return abs(value - float(middle)) / spread


def _photographs(dataset: Dataset) -> int:
    return max((len(dataset.get(name, ())) for name in NAMES), default=0)


def _pooled(baseline: Sequence[Dataset], name: str) -> list[float]:
    return [value for dataset in baseline for value in dataset.get(name, ())]


def _performance(rate: float, rates: Sequence[float]) -> dict[str, Any]:
    usual = sum(rates) / len(rates)
    fallen = usual - rate > RATE_DROP
    return {
        "drift": fallen,
        "severity": "medium" if fallen else "none",
        "baseline_mean": round(usual, 4),
        "current": round(rate, 4),
        "method": "drop",
    }


def _correct(checks: dict[str, dict[str, Any]]) -> None:
    """Make the p values those of all checks together, by Holm's method (1979)."""
    highest = 0.0
    for rank, each in enumerate(sorted(checks.values(), key=lambda found: found["p_adj"])):
        highest = max(highest, min(1.0, each["p_adj"] * (len(checks) - rank)))
        each["p_adj"] = round(highest, 6)


def _stability(now: Any, before: Any) -> float:
    """Return the population stability index over tenths of the baseline."""
    import numpy as np

    edges = np.unique(np.percentile(before, np.linspace(0, 100, _BINS + 1))[1:-1])
    share = [
        (np.bincount(np.searchsorted(edges, each), minlength=len(edges) + 1) + 0.5)
        / (len(each) + 0.5 * (len(edges) + 1))
        for each in (now, before)
    ]
    return float(((share[0] - share[1]) * np.log(share[0] / share[1])).sum())
