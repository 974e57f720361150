"""The drift check: whether photographs differ from earlier ones.

Photographs of one upload resemble each other, so tests that treat each as an independent sample
(KS, PSI) flag every new scene. The check compares medians instead, by the spread of all baseline
photographs: ``|median(current) - median(baseline)| / (IQR(baseline) / 1.349)``. A baseline needs
many data sets before its spread covers that of scenes.

Each boolean property of photographs has one share per upload. It is compared with the shares of the
earlier data sets, as ``2 asin(sqrt(share))``, whose variance is ``1 / photographs`` for any share;
a share within the range of earlier ones is no drift, since data sets differ in their habits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mataserver_reconstruct.features import NAMES, SHARES

LOW, MEDIUM, HIGH = 2.0, 3.0, 5.0
"""The deviations at which each severity begins; a feature has drifted from medium on."""

MIN_DATASETS, MIN_IMAGES = 20, 8
RATE_DROP = 0.20
"""The drop of the registration rate below the baseline's mean that counts as drift."""

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
    """Return the drift report of an upload against earlier ones.

    ``rates`` are the baseline's registration rates, 0 to 1. With fewer than 20 earlier data sets,
    or 8 photographs in the upload, its status is ``insufficient_data`` and nothing has drifted.
    """
    count = _photographs(current)
    known = {name: _pooled(baseline, name) for name in NAMES}
    result: dict[str, Any] = {
        "status": "ok",
        "drift_detected": False,
        "severity": "low",  # also where nothing has drifted, as in the specification's example
        "n_images": count,
        "baseline": {
            "id": baseline_id,
            "n_datasets": len(baseline),
            "n_images": max((len(values) for values in known.values()), default=0),
        },
        "checks": {},
    }
    if not has_enough_data(current, baseline):
        return result | {"status": "insufficient_data"}
    checks = {
        name: check(current[name], known[name])
        for name in NAMES
        if len(current.get(name, ())) and len(known[name])
    }
    _correct(checks)
    for name in SHARES:
        before = [dataset[name] for dataset in baseline if dataset.get(name)]
        if current.get(name) and len(before) >= MIN_DATASETS:
            checks[name] = check_share(current[name], before)
    if registration_rate is not None and len(rates) >= MIN_DATASETS:
        checks["registration_rate"] = _check_registration(registration_rate, rates)
    drifted = any(each["drift"] for each in checks.values())
    worst = max((_ORDER.index(each["severity"]) for each in checks.values()), default=0)
    return result | {
        "drift_detected": drifted,
        "severity": _ORDER[max(1, worst)],
        "checks": checks,
    }


def has_enough_data(current: Dataset, baseline: Sequence[Dataset]) -> bool:
    """Whether an upload can be judged: 20 earlier data sets, and 8 photographs in it."""
    return len(baseline) >= MIN_DATASETS and _photographs(current) >= MIN_IMAGES


def recommendation(severity: str) -> str:
    """Return the recommendation for a severity."""
    return RECOMMENDATIONS.get(severity, RECOMMENDATIONS["low"])


def check(current: Sequence[float], baseline: Sequence[float]) -> dict[str, Any]:
    """Return the check of one feature; ``ks``, ``p_adj`` and ``psi`` are for information."""
    # Large imports, not needed by a server that compares nothing.
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
        "psi": round(_population_stability_index(now, before), 6),
        "method": "robust_z",
    }


def check_share(current: Sequence[float], baseline: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Return the check of a share: the photographs' values, 1 or 0 each, and each data set's."""
    import numpy as np

    shares = np.array([_share(each) for each in baseline])
    before, now = 2 * np.arcsin(np.sqrt(shares)), 2 * np.arcsin(np.sqrt(_share(current)))
    low, middle, high = np.percentile(before, [25, 50, 75])
    spread = ((float(high - low) / 1.349) ** 2 + 1 / len(current)) ** 0.5
    z = abs(float(now - middle)) / spread
    known = bool(shares.min() <= _share(current) <= shares.max())
    return {
        "drift": z >= MEDIUM and not known,
        # At most medium: the way that photographs were sent is no reason to retrain.
        "severity": "none" if known else severity(min(z, MEDIUM)),
        "z": round(z, 4),
        "baseline_median": round(float(np.median(shares)), 6),
        "current": round(_share(current), 6),
        "method": "share",
    }


def _share(held: Sequence[float]) -> float:
    return min(1.0, max(0.0, sum(held) / len(held)))


def severity(z: float) -> str:
    """Return the severity of a deviation."""
    for name, least in (("high", HIGH), ("medium", MEDIUM), ("low", LOW)):
        if z >= least:
            return name
    return "none"


def _deviation(value: float, before: Any) -> float:
    import numpy as np

    low, middle, high = np.percentile(before, [25, 50, 75])
    # A feature that never varied, such as the share of black pixels, may vary by a thousandth.
    spread = max(float(high - low) / 1.349, 1e-3 * max(1.0, abs(float(middle))))
    return abs(value - float(middle)) / spread


def _photographs(dataset: Dataset) -> int:
    return max((len(dataset.get(name, ())) for name in NAMES), default=0)


def _pooled(baseline: Sequence[Dataset], name: str) -> list[float]:
    return [value for dataset in baseline for value in dataset.get(name, ())]


def _check_registration(rate: float, rates: Sequence[float]) -> dict[str, Any]:
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
    """Adjust the p values for multiple checks, by Holm's method (1979)."""
    highest = 0.0
    for rank, each in enumerate(sorted(checks.values(), key=lambda found: found["p_adj"])):
        highest = max(highest, min(1.0, each["p_adj"] * (len(checks) - rank)))
        each["p_adj"] = round(highest, 6)


def _population_stability_index(now: Any, before: Any) -> float:
    """Return the population stability index over tenths of the baseline."""
    import numpy as np

    edges = np.unique(np.percentile(before, np.linspace(0, 100, _BINS + 1))[1:-1])
    share = [
        (np.bincount(np.searchsorted(edges, each), minlength=len(edges) + 1) + 0.5)
        / (len(each) + 0.5 * (len(edges) + 1))
        for each in (now, before)
    ]
    return float(((share[0] - share[1]) * np.log(share[0] / share[1])).sum())
