"""The metrics of the last data set."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from mataserver_reconstruct.gauges import Gauges

CHECKS = {
    "brightness": {"drift": True, "severity": "high", "z": 7.5},
    "contrast": {"drift": True, "severity": "medium", "z": 3.5},
    "registration_rate": {"drift": True, "severity": "medium"},
}


def shown(registry):
    """Return the lines about drift."""
    lines = generate_latest(registry).decode().splitlines()
    return {line for line in lines if not line.startswith("#") and "drift" in line}


def test_drift_is_that_of_the_last_data_set():
    """Nothing stays of one that drifted when the next has too little data to be compared."""
    registry = CollectorRegistry()
    gauges = Gauges(registry)
    before = shown(registry)
    gauges.drifted(CHECKS)
    assert shown(registry) == {
        'feature_drift_status{feature="brightness"} 2.0',
        'feature_drift_status{feature="contrast"} 1.0',
        'feature_drift_status{feature="registration_rate"} 1.0',
        "feature_drift_alert_count 3.0",
        "brightness_drift_z 7.5",
        "contrast_drift_z 3.5",
    }
    gauges.drifted({})
    assert shown(registry) == before
