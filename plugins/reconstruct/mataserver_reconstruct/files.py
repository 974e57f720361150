"""The names of a result's files, without the imports of the modules that write them."""

from __future__ import annotations

CAMERAS, CSV, CSV_WITH_ID = "cameras.json", "submission.csv", "submission_id.csv"
PAIRS, REPORT, RESULT = "pairs.json", "report.html", "result.json"
PHOTOS, MANIFEST = "photos", "photos.json"
"""In ``work``: the prepared photographs, and the manifest that describes each."""
PREPARED = "photos.jsonl"
"""In ``work`` until there is the manifest: its entries, as they are made."""
CLOUDS = "clouds.zip"
"""In ``work``, too: every cloud, packed when that is first asked for."""
MARK = "features.json"
"""In ``work``, too: the options and files that its features are of."""
