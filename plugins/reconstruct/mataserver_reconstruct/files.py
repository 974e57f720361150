"""The names of a result's files, for those who only hand them out."""

from __future__ import annotations

CAMERAS, CSV, CSV_WITH_ID = "cameras.json", "submission.csv", "submission_id.csv"
REPORT, RESULT = "report.html", "result.json"
