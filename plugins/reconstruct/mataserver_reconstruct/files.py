"""The names of a result's files, for those who only hand them out."""

from __future__ import annotations

CAMERAS, CSV, CSV_WITH_ID = "cameras.json", "submission.csv", "submission_id.csv"
PAIRS, REPORT, RESULT = "pairs.json", "report.html", "result.json"
PHOTOS, MANIFEST = "photos", "photos.json"
"""In ``work``: the photographs as they are worked with, and what is known of each."""
