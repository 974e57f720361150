"""What docs/cluster.md installs on several machines: checked by the tools that know them."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import subprocess
import sys

import aiohttp
import pytest
import yaml

from conftest import FAKES, register
from fresh_environment import ROOT
from mataserver import config
from mataserver.config import needs
from stream_peers import PNG, eventually
from test_behind_nginx import NGINX, free_port, listening
from test_frontends import front, sees

PACKAGING = ROOT / "packaging"
CLUSTER = PACKAGING / "cluster"
PROGRAMS = ("/opt/mataserver/bin/mataserver", "/opt/mataserver/bin/ray")

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here"
)
needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


def settings(variables, folder):
    """Return the settings that variables make; one that is no setting of ours fails."""
    own = {name: value for name, value in variables.items() if name.startswith(config.PREFIX)}
    known = {f"{config.PREFIX}{name.upper()}" for name in config.Settings.__struct_fields__}
    assert own.keys() <= known
    return config.load(environ=own, directory=folder)


# systemd


def unit_variables(text):
    """Return the variables that a unit sets."""
    lines = re.findall(r"^Environment=(.*)$", text, re.MULTILINE)
    return dict(word.split("=", 1) for line in lines for word in line.split())


def test_the_drop_in_makes_a_front_end(tmp_path):
    """Its variables are settings; the directory that they share can be written."""
    text = (CLUSTER / "frontend.conf").read_text()
    made = settings(unit_variables(text.replace("%H", "gpu-1")), tmp_path)
    assert made.frontend_address == "http://gpu-1:8110"
    assert f"ReadWritePaths={made.shared_dir}" in text.splitlines()


@needs_systemd
def test_systemd_accepts_the_units(tmp_path):
    """``systemd-analyze verify`` finds nothing to say of both, with the drop-in."""
    for source in (PACKAGING / "mataserver.service", CLUSTER / "ray-node.service"):
        text = source.read_text()
        for program in PROGRAMS:
            text = text.replace(program, sys.executable)
        (tmp_path / source.name).write_text(text)
    folder = tmp_path / "mataserver.service.d"
    folder.mkdir()
    shutil.copy(CLUSTER / "frontend.conf", folder)
    command = ["systemd-analyze", "verify", "--man=no", *map(str, tmp_path.glob("*.service"))]
    environment = {"SYSTEMD_UNIT_PATH": f"{tmp_path}:", "PATH": "/usr/bin:/bin"}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (ran.returncode, ran.stdout + ran.stderr) == (0, "")


# compose


@pytest.fixture(scope="module")
def compose():
    """The services of the compose file."""
    return yaml.safe_load((CLUSTER / "compose.yaml").read_text())["services"]


def test_compose_runs_two_front_ends(compose, tmp_path):
    """Each is reached by its own name, and both have one directory, which is a volume."""
    made = {name: settings(compose[name]["environment"], tmp_path) for name in ("one", "two")}
    for name, each in made.items():
        assert each.frontend_address == f"http://{name}:8110"
        assert each.trust_proxy
        assert f"shared:{each.shared_path.parent}" in compose[name]["volumes"]
    assert made["one"].shared_dir == made["two"].shared_dir


def test_the_balancer_of_compose_knows_both():
    """Requests go to the names that the services have."""
    upstream = re.findall(r"^    server (\S+)", (CLUSTER / "nginx.conf").read_text(), re.MULTILINE)
    assert upstream == ["one:8110", "two:8110"]


# Kubernetes


def test_the_manifest_fits_together(tmp_path):
    """The front-ends are settings of ours, join the head by its service, and share a claim."""
    found = {
        each["kind"]: each for each in yaml.safe_load_all((CLUSTER / "kuberay.yaml").read_text())
    }
    pod = found["Deployment"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    variables = {each["name"]: each.get("value", "10.0.0.7") for each in container["env"]}
    address = variables["MATA_SERVER_FRONTEND_ADDRESS"]
    variables["MATA_SERVER_FRONTEND_ADDRESS"] = address.replace("$(POD_IP)", variables["POD_IP"])
    made = settings(variables, tmp_path)
    assert made.frontend_address == "http://10.0.0.7:8110"
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert str(made.shared_path).startswith(mounts["shared"])
    volumes = {each["name"]: each for each in pod["volumes"]}
    claim = found["PersistentVolumeClaim"]
    assert volumes["shared"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    head = f"{found['RayCluster']['metadata']['name']}-head-svc:6379"
    assert f"--address={head} " in container["args"][0]
    file = tmp_path / "config.yaml"
    file.write_text(found["ConfigMap"]["data"]["config.yaml"])
    read = config.load(file, environ={}, directory=tmp_path)
    assert (read.ray_address, read.models[0].needs) == (head, needs.Needs(cpu=1))
    assert found["Service"]["spec"]["selector"] == pod_labels(found["Deployment"])


def pod_labels(deployment):
    """Return the labels of a deployment's pods."""
    return deployment["spec"]["template"]["metadata"]["labels"]


# nginx

HTTP = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {balancer}
}}
"""


@contextlib.asynccontextmanager
async def balanced(folder, one, two):
    """Run nginx with the balancer's file before two front-ends; yield an HTTP session there."""
    port = free_port()
    text = (CLUSTER / "nginx.conf").read_text().replace("ip_hash;", "")  # a turn each
    for name, each in (("one:8110", one), ("two:8110", two)):
        text = text.replace(f"server {name} ", f"server {each.served.url.removeprefix('http://')} ")
    text = text.replace("listen 8110;", f"listen 127.0.0.1:{port};")
    (folder / "nginx.conf").write_text(HTTP.format(folder=folder, balancer=text))
    command = [NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf")]
    with subprocess.Popen([*command, "-e", str(folder / "error.log")]) as nginx:
        try:
            headers = one.served.headers
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", headers=headers) as http:
                await listening(port)
                yield http
        finally:
            nginx.terminate()


@needs_nginx
async def test_a_client_of_the_balancer_sees_one_server(tmp_path):
    """Sessions, their streams and their end, whichever front-end each request comes to."""
    register(tmp_path / "shared", {f"fake-{task}": task for task in FAKES})
    options = {"trust_proxy": True}
    async with (
        front(tmp_path, "one", **options) as one,
        front(tmp_path, "two", **options) as two,
    ):
        await eventually(lambda: sees(one, 2))
        await eventually(lambda: sees(two, 2))
        async with balanced(tmp_path, one, two) as http:
            made = []
            for _ in range(4):
                async with http.post("/v1/sessions", json={"model": "fake-detect"}) as response:
                    made.append(await response.json())
            assert len({each["session_id"][5:9] for each in made}) == 2  # both were asked
            await asyncio.gather(*(streamed(http, each["ws_url"]) for each in made))
            for each in made:
                async with http.delete(f"/v1/sessions/{each['session_id']}") as response:
                    assert response.status == 204
            for _ in range(2):
                async with http.get("/v1/sessions") as response:
                    assert await response.json() == []


async def streamed(http, url):
    """Have a frame answered at a session's URL."""
    async with http.ws_connect(url) as ws:
        await ws.send_bytes(PNG)
        assert (await ws.receive_json(timeout=20))["frame_id"] == 0
