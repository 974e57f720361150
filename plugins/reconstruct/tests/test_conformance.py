"""The reconstruction API row by row, through a real socket."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import subprocess
import uuid
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from apart import Server
from PIL import Image
from serving_reconstruct import packed
from test_cloud import read_ply

from mataserver_reconstruct.graph import MIN_INLIERS

pytestmark = pytest.mark.timeout(300)

LOG_IN = """
curl -X POST http://localhost:8000/auth/token \\
-H "Content-Type: application/json" \\
-d '{"username": "admin", "password": "admin"}'
"""
UPLOAD = """
curl -X POST http://localhost:8000/upload \\
-H "Authorization: Bearer $TOKEN" \\
-F "file=@photos.zip"
"""
"""The lines of the document as they stand, but for the last one's stray backslash."""
FIELDS = [
    "job_id", "stage", "status", "progress", "message", "created_at", "started_at", "finished_at",
    "n_images", "n_points", "registration_rate", "error", "download_url", "has_drift",
    "drift_severity",
]  # fmt: skip
PROGRESS = {
    "queued": (0, 0),
    "extracting": (10, 30),
    "matching": (30, 70),
    "triangulating": (70, 85),
    "decimating": (85, 100),
    "success": (100, 100),
}
METRICS = [
    "api_requests_total", "api_errors_total", "inference_latency_seconds",
    "registered_images_ratio", "active_jobs_total", "model_server_ready",
    "data_valid_images_total",
]  # fmt: skip
UNKNOWN = "3f7a91b2-1234-5678-abcd-ef0123456789"


def blank(grey=200):
    """Return a picture on which nothing is seen."""
    out = io.BytesIO()
    Image.new("RGB", (320, 240), (grey, grey, grey)).save(out, "JPEG")
    return out.getvalue()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with the document's administrator."""
    folder = tmp_path_factory.mktemp("server")
    admin = {"username": "admin", "password_hash": hashlib.sha256(b"admin").hexdigest()}
    made = Server(folder, accounts=admin, reconstruct={"max_upload_mb": 20})
    made.folder = folder
    yield made
    made.kill()


@pytest.fixture(scope="module")
def photographs(strip):
    """A ZIP of six photographs of a scene."""
    return packed(strip)


def curl(server, lines, **environment):
    """Run a line of the document against the server; return the decoded answer."""
    port = server.url.rpartition(":")[2]
    line = lines.replace("localhost:8000", f"localhost:{port}")
    ran = subprocess.run(
        ["bash", "-c", line.replace("curl ", "curl -sS ", 1)],
        capture_output=True,
        text=True,
        check=True,
        cwd=server.folder,
        env={"PATH": "/usr/bin:/bin", **environment},
    )
    return json.loads(ran.stdout)


@pytest.fixture(scope="module")
def token(server):
    """A token of the administrator, by the document's line."""
    answer = curl(server, LOG_IN)
    assert (answer["token_type"], answer["expires_in"]) == ("bearer", 900)
    server.token = answer["access_token"]
    return server.token


@pytest.fixture(scope="module")
def jobs(server, token, photographs):
    """A job with a model, by the document's line, and one without points; what was seen of them."""
    (server.folder / "photos.zip").write_bytes(photographs)
    accepted = curl(server, UPLOAD, TOKEN=token)
    fog = packed({f"{at}.jpg": blank(at) for at in (200, 201, 202)})
    empty = server.send(fog, scene_name="fog").json
    early = {
        path: server.ask("GET", path.format(empty["job_id"]))
        for path in (
            "/download/jobs/{}", "/download/jobs/{}/csv", "/download/jobs/{}/x.ply",
            "/clusters/{}", "/jobs/{}/insights", "/jobs/{}/report", "/status/{}",
        )
    }  # fmt: skip
    seen = []

    def ended(answer):
        seen.append(answer.json)
        return answer.json["finished_at"] is not None

    done = server.until(f"/status/{accepted['job_id']}", ended).json
    server.until(f"/jobs/{empty['job_id']}", lambda answer: answer.json["finished_at"])
    return SimpleNamespace(
        accepted=accepted, job=accepted["job_id"], empty=empty["job_id"], early=early, seen=seen,
        done=done,
    )  # fmt: skip


def detail(answer):
    """Return the sentence of an error, which is all of it."""
    assert list(answer.json) == ["detail"]
    return answer.json["detail"]


def test_authentication_wrong_password_is_401(server):
    """POST /auth/token: another password is 401 with the document's sentence."""
    body = json.dumps({"username": "admin", "password": "wrong"}).encode()
    kind = {"Content-Type": "application/json"}
    answer = server.ask("POST", "/auth/token", token="", body=body, headers=kind)
    assert (answer.status, detail(answer)) == (401, "Invalid credentials")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/upload"),
        ("GET", f"/status/{UNKNOWN}"),
        ("GET", f"/jobs/{UNKNOWN}"),
        ("GET", f"/download/jobs/{UNKNOWN}"),
        ("GET", f"/download/jobs/{UNKNOWN}/csv"),
        ("GET", f"/download/jobs/{UNKNOWN}/x.ply"),
        ("GET", f"/clusters/{UNKNOWN}"),
        ("GET", f"/jobs/{UNKNOWN}/insights"),
        ("GET", f"/jobs/{UNKNOWN}/report"),
        ("GET", f"/jobs/{UNKNOWN}/photos/0"),
        ("POST", "/drift"),
        ("POST", "/drift/trigger-retrain"),
        ("GET", "/drift/history"),
    ],
)
def test_authentication_is_asked_for(server, method, path):
    """Every route but the probes is 401 without a token and with one that is none, in any form."""
    for shown in ("", "eyJhbGciOiJIUzI1NiJ9.e30.x", "a.b.c", "invalid"):
        answer = server.ask(method, path, token=shown)
        assert answer.status == 401
        assert detail(answer)


def test_health(server):
    """GET /health: ok, a version and the time, for anybody."""
    answer = server.ask("GET", "/health", token="")
    assert answer.status == 200
    assert answer.json["status"] == "ok"
    assert re.fullmatch(r"\d+\.\d+\.\d+", answer.json["version"])
    assert isinstance(answer.json["timestamp"], float)


def test_ready(server):
    """GET /ready: ready and the device, for anybody, once the matcher is loaded."""
    answer = server.until("/ready", lambda found: found.status == 200).json
    assert answer["status"] == "ready"
    assert re.fullmatch(r"CPU \(\d+ cores\)", answer["device"])


def test_metrics(server, jobs):
    """GET /metrics: the document's seven names as text, for anybody, with what happened."""
    answer = server.ask("GET", "/metrics", token="")
    assert answer.headers["Content-Type"].startswith("text/plain")
    text = answer.body.decode()
    for name in METRICS:
        assert re.search(rf"^# TYPE {name} (counter|gauge|histogram)$", text, re.MULTILINE), name
    assert re.search(
        r'^api_requests_total{endpoint="/upload",method="POST",status="202"} 2.0$',
        text,
        re.MULTILINE,
    )
    assert re.search(r'^api_errors_total{endpoint="/download/jobs/{id}"} [1-9]', text, re.MULTILINE)
    assert re.search(r"^inference_latency_seconds_count 2.0$", text, re.MULTILINE)
    assert 'inference_latency_seconds_bucket{le="900.0"}' in text
    assert re.search(r"^model_server_ready 1.0$", text, re.MULTILINE)
    assert re.search(r"^active_jobs_total [01].0$", text, re.MULTILINE)


def test_upload(jobs):
    """POST /upload: 202 with a UUID of version 4 and the document's message."""
    assert set(jobs.accepted) == {"job_id", "message"}
    assert jobs.accepted["message"] == "Pipeline started."
    assert uuid.UUID(jobs.accepted["job_id"]).version == 4


def test_upload_names(server, jobs):
    """POST /upload: the names are custom and scene_01 unless the form or the query has others."""
    spec = server.ask("GET", f"/v1/jobs/{jobs.job}").json["spec"]
    assert (spec["dataset_name"], spec["scene_name"]) == ("custom", "scene_01")
    spec = server.ask("GET", f"/v1/jobs/{jobs.empty}").json["spec"]
    assert (spec["dataset_name"], spec["scene_name"], spec["file"]) == (
        "custom", "fog", "photos.zip",
    )  # fmt: skip
    path = "/upload?dataset_name=church&scene_name=tower"
    job = server.send(packed({"a.jpg": blank()}), path).json["job_id"]
    spec = server.ask("GET", f"/v1/jobs/{job}").json["spec"]
    assert (spec["dataset_name"], spec["scene_name"]) == ("church", "tower")


def test_upload_of_what_is_no_zip_is_400(server, token):
    """POST /upload: 400 with a sentence for what is no ZIP."""
    answer = server.send(b"hello")
    assert answer.status == 400
    assert "not a ZIP" in detail(answer)


def test_an_archive_in_another_field_is_told_which(server, token):
    """POST /upload: 422 that names the field of the archive."""
    answer = server.send(b"", photos="x" * 70_000)
    assert answer.status == 422
    assert detail(answer) == "photos: longer than 65536 bytes; the file's field is file"


def test_upload_over_the_limit_is_413(server, token):
    """POST /upload: 413 over the configured size."""
    answer = server.send(bytes(20_100_000))
    assert answer.status == 413
    assert "limit" in detail(answer)


def test_status(server, jobs):
    """GET /status and /jobs answer alike, with the document's fields in their order."""
    for job in (jobs.job, jobs.empty):
        first, second = (server.ask("GET", f"/{name}/{job}") for name in ("status", "jobs"))
        assert (first.status, first.body) == (200, second.body)
        assert list(first.json) == FIELDS
    done = jobs.done
    assert (done["stage"], done["status"], done["progress"]) == ("success", "success", 100)
    assert done["n_images"] == 6
    assert done["n_points"] > 200
    assert done["registration_rate"] == 1.0
    assert done["created_at"] <= done["started_at"] <= done["finished_at"]
    assert (done["error"], done["download_url"]) == (None, f"/download/jobs/{jobs.job}")
    assert (done["has_drift"], done["drift_severity"]) == (False, "low")
    fog = server.ask("GET", f"/status/{jobs.empty}").json
    assert "photographs have enough details to be matched" in fog["message"]
    waiting = jobs.early["/status/{}"].json
    assert (waiting["stage"], waiting["progress"]) == ("queued", 0)
    assert (waiting["started_at"], waiting["n_images"], waiting["download_url"]) == (None, 0, None)


def test_stages(jobs):
    """The stages come in the table's order, each within its percents, and never fall."""
    order = list(PROGRESS)
    places = [order.index(each["stage"]) for each in jobs.seen]
    assert places == sorted(places)
    assert {"extracting", "matching", "success"} <= {each["stage"] for each in jobs.seen}
    for each in jobs.seen:
        low, high = PROGRESS[each["stage"]]
        assert low <= each["progress"] <= high, each
        assert each["status"] == each["stage"]
        assert each["message"]


def test_failed(server, token, photographs):
    """A job that fails is 200 with its stage, 0 percent and the error; its downloads are 409."""
    job = server.send(photographs, scale="x.jpg:1,2 x.jpg:3,4 5").json["job_id"]
    done = server.until(f"/status/{job}", lambda answer: answer.json["finished_at"]).json
    assert (done["stage"], done["status"], done["progress"]) == ("failed", "failed", 0)
    assert done["error"] == "scale: there is no photograph 'x.jpg' that can be read"
    assert done["download_url"] is None
    for path in (f"/download/jobs/{job}", f"/download/jobs/{job}/csv", f"/clusters/{job}"):
        answer = server.ask("GET", path)
        assert (answer.status, "x.jpg" in detail(answer)) == (409, True), path


def test_download(server, jobs):
    """GET /download/jobs/{id}: a ZIP of every PLY file."""
    answer = server.ask("GET", f"/download/jobs/{jobs.job}")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/zip")
    with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
        names = archive.namelist()
        assert names == [f"cluster0_decimated_model0_{jobs.job[:8]}.ply"]
        xyz, _ = read_ply(archive.read(names[0]))
    assert len(xyz) == jobs.done["n_points"]


def test_downloads_before_the_end_are_409(jobs):
    """Every download, /clusters and /insights are 409 while the job is not done."""
    for path, answer in jobs.early.items():
        if path != "/status/{}":
            assert answer.status == 409, path
            assert "not complete" in detail(answer)


def test_download_without_points_is_404(server, jobs):
    """GET /download/jobs/{id}: 404 where the reconstruction has no points."""
    answer = server.ask("GET", f"/download/jobs/{jobs.empty}")
    assert answer.status == 404
    assert detail(answer).startswith("PLY file not available")
    assert server.ask("GET", f"/status/{jobs.empty}").json["stage"] == "success"


def rows(answer):
    """Return the rows of a CSV."""
    assert (answer.status, answer.headers["Content-Type"][:8]) == (200, "text/csv")
    return list(csv.DictReader(io.StringIO(answer.body.decode())))


def test_csv(server, jobs):
    """GET …/csv: five columns, nine and three numbers; a sixth column where it is asked for."""
    found = rows(server.ask("GET", f"/download/jobs/{jobs.job}/csv"))
    columns = ["dataset", "scene", "image", "rotation_matrix", "translation_vector"]
    assert list(found[0]) == columns
    assert [row["image"] for row in found] == [f"p{at:03d}.jpg" for at in range(6)]
    for row in found:
        assert (row["dataset"], row["scene"]) == ("custom", "cluster0")
        turn = np.array(row["rotation_matrix"].split(";"), float).reshape(3, 3)
        assert turn @ turn.T == pytest.approx(np.eye(3), abs=1e-6)
        assert len(row["translation_vector"].split(";")) == 3
    with_id = rows(server.ask("GET", f"/download/jobs/{jobs.job}/csv?image_id=1"))
    assert list(with_id[0]) == ["image_id", *columns]
    assert server.ask("GET", f"/download/jobs/{jobs.job}/csv?image_id=x").status == 422
    assert server.ask("GET", f"/download/jobs/{jobs.job}/csv?image_id=1&image_id=0").status == 422


def test_photographs_and_their_pairs(server, jobs):
    """GET …/photos/{number} is one as it was worked with; pairs.json names which match which."""
    answer = server.ask("GET", f"/jobs/{jobs.job}/photos/0")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "image/jpeg")
    with Image.open(io.BytesIO(answer.body)) as picture:
        assert max(picture.size) <= 1600
    for number in ("99", "-1", "x", "1e3", "9" * 4400, "%2e%2e"):
        assert server.ask("GET", f"/jobs/{jobs.job}/photos/{number}").status == 404, number
    pairs = server.ask("GET", f"/download/jobs/{jobs.job}/pairs.json").json
    assert pairs
    assert all(each["first"] < each["second"] for each in pairs)
    assert [each["inliers"] for each in pairs] == sorted(
        (each["inliers"] for each in pairs), reverse=True
    )
    assert min(each["inliers"] for each in pairs) >= MIN_INLIERS


def test_csv_of_unregistered_images(server, jobs):
    """GET …/csv: an image without a place has nan values with semicolons between, also all."""
    found = rows(server.ask("GET", f"/download/jobs/{jobs.empty}/csv"))
    assert len(found) == 3
    for row in found:
        assert row["scene"] == "outliers"
        assert row["rotation_matrix"] == ";".join(["nan"] * 9)
        assert row["translation_vector"] == ";".join(["nan"] * 3)


def test_named_file(server, jobs):
    """GET …/{filename}: one PLY as bytes, GLB beside it; 404 for a name that there is not."""
    name = server.ask("GET", f"/clusters/{jobs.job}").json["clusters"][0]["filename"]
    answer = server.ask("GET", f"/download/jobs/{jobs.job}/{name}")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/octet-stream")
    assert answer.body.startswith(b"ply\nformat binary_little_endian 1.0\n")
    solid = server.ask("GET", f"/download/jobs/{jobs.job}/{name[:-3]}glb")
    assert (solid.status, solid.body[:4]) == (200, b"glTF")
    for other in ("x.ply", "..%2f..%2fwork%2fphotos.json", "%2e%2e", "a%00b"):
        assert server.ask("GET", f"/download/jobs/{jobs.job}/{other}").status == 404, other


def test_clusters(server, jobs):
    """GET /clusters/{id}: number, name, points and file of each model."""
    (found,) = server.ask("GET", f"/clusters/{jobs.job}").json["clusters"]
    assert list(found)[:4] == ["id", "name", "num_points3D", "filename"]
    assert (found["id"], found["name"]) == (0, "cluster0_model0")
    assert found["num_points3D"] == jobs.done["n_points"]
    assert (found["unit"], found["scale_error"]) == (None, None)
    assert found["filename"] == f"cluster0_decimated_model0_{jobs.job[:8]}.ply"
    assert server.ask("GET", f"/clusters/{jobs.empty}").json == {"clusters": []}


def test_insights(server, jobs):
    """GET /jobs/{id}/insights: the document's fields, and a sentence to go by."""
    found = server.ask("GET", f"/jobs/{jobs.job}/insights").json
    assert list(found) == [
        "registration_rate", "n_points", "has_drift", "drift_severity", "drift_report",
        "recommendation",
    ]  # fmt: skip
    assert found["registration_rate"] == 1.0
    assert found["n_points"] == jobs.done["n_points"]
    assert (found["has_drift"], found["drift_severity"]) == (False, "low")
    assert list(found["drift_report"])[:3] == ["drift_detected", "severity", "checks"]
    assert found["drift_report"]["status"] == "insufficient_data"
    assert found["recommendation"] == "No action needed."


def test_report(server, jobs):
    """GET /jobs/{id}/report: a page with pictures that fetches nothing and runs nothing."""
    answer = server.ask("GET", f"/jobs/{jobs.job}/report")
    assert (answer.status, answer.headers["Content-Type"][:9]) == (200, "text/html")
    assert answer.body.count(b"<img") == 7
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    fog = server.ask("GET", f"/jobs/{jobs.empty}/report").body.decode()
    told = fog.count("too few details") + fog.count("bare surfaces")
    assert told == 4  # of all three above, and of each in the table


def test_drift(server, token, photographs):
    """POST /drift: a report with a flag and a severity; 400 for what is no ZIP."""
    answer = server.send(photographs, "/drift")
    assert answer.status == 200
    assert (answer.json["drift_detected"], answer.json["severity"]) == (False, "low")
    assert answer.json["n_images"] == 6
    assert isinstance(answer.json["checks"], dict)
    assert server.send(b"hello", "/drift").status == 400


def test_retraining_without_airflow_is_502(server, token):
    """POST /drift/trigger-retrain: 502 where there is no Airflow."""
    answer = server.ask("POST", "/drift/trigger-retrain")
    assert answer.status == 502
    assert "Airflow" in detail(answer)


@pytest.mark.parametrize(
    "path",
    [
        "/status/{}", "/jobs/{}", "/download/jobs/{}", "/download/jobs/{}/csv",
        "/download/jobs/{}/x.ply", "/clusters/{}", "/jobs/{}/insights", "/jobs/{}/report",
    ],
)  # fmt: skip
def test_unknown_jobs_are_404(server, token, path):
    """A job that there is not is 404 on every route, whatever its name."""
    for job in (UNKNOWN, UNKNOWN[:8], "x", "%00", "..%2f.."):
        answer = server.ask("GET", path.format(job))
        assert answer.status == 404, job
        assert detail(answer)


def test_openapi(server):
    """/openapi.json describes every route of the document, with the types of what is answered."""
    document = server.ask("GET", "/openapi.json").json
    for path, method, kind in [
        ("/upload", "post", "Accepted"),
        ("/status/{id}", "get", "Status"),
        ("/jobs/{id}", "get", "Status"),
        ("/clusters/{id}", "get", "Clusters"),
        ("/jobs/{id}/insights", "get", "Insights"),
        ("/drift", "post", "Checked"),
        ("/drift/trigger-retrain", "post", "TriggeredRun"),
    ]:
        answers = document["paths"][path][method]["responses"]
        good = answers.get("200") or answers["202"]
        shown = good["content"]["application/json"]["schema"]
        assert shown["$ref"].endswith(f"/{kind}"), path
    form = document["paths"]["/upload"]["post"]["requestBody"]["content"]["multipart/form-data"]
    assert "dataset_name" in json.dumps(form) or "UploadForm" in json.dumps(form)
