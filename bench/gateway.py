"""What the gateway adds to a request, beside a bare relay of the bytes and, if installed, nginx.

Run as ``python bench/gateway.py``; it prints Markdown tables. The server behind answers at once, or
after 5 ms, so that what is left is the way there and back. The ways take turns, so that a machine
whose speed drifts favours none; figures are medians over the rounds, and medians of the ratios that
were measured within one round. CPU is that of the process in the middle alone. The gateway is there
twice: with 100,000 keys and 1,000 routes, and with ten of each.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil

from gateway_parts import FEW, MANY, SECONDS, Way, ask, running

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

ROUNDS = int(os.environ.get("ROUNDS", "5"))
SIZES = {"60 KB": 60_000, "3 MB": 3_000_000}
CONNECTIONS = (1, 16, 64)
NGINX = """
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/log crit;
events {{ worker_connections 1024; }}
http {{ access_log off; client_max_body_size 0; client_body_temp_path {folder};
  proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder};
  scgi_temp_path {folder}; client_body_buffer_size 8m;
  upstream up {{ server 127.0.0.1:{upstream}; keepalive 128; }}
  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://up;
    proxy_http_version 1.1; proxy_set_header Connection ""; }} }} }}
"""


class Turn(NamedTuple):
    """One turn: milliseconds of CPU in the middle and of a round trip, requests a second."""

    cpu: float
    trip: float
    rate: float


@contextlib.contextmanager
def nginx(upstream_port: int) -> Iterator[Way | None]:
    """Run nginx with one worker, where it is installed (or named by ``NGINX``)."""
    program = os.environ.get("NGINX") or shutil.which("nginx")
    if program is None:
        yield None
        return
    port = upstream_port - 1000 if upstream_port > 20_000 else upstream_port + 1000
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "nginx.conf")
        file.write_text(NGINX.format(folder=folder, upstream=upstream_port, port=port))
        process = subprocess.Popen([program, "-p", folder, "-c", file])
        time.sleep(0.5)
        try:
            yield Way(port, psutil.Process(process.pid).children()[0])
        finally:
            process.terminate()
            process.wait()


def turn(way: Way, size: int, connections: int) -> Turn:
    """Ask by one way for a while."""
    before = cpu(way)
    begun = time.perf_counter()
    told = ask(way, size, connections)
    spent = time.perf_counter() - begun
    count = max(1, int(told[0]))
    return Turn((cpu(way) - before) / count * 1e3, float(told[1]), count / min(spent, SECONDS))


def cpu(way: Way) -> float:
    """Return the CPU seconds of the process in the middle so far."""
    if way.process is None:
        return 0.0
    times = way.process.cpu_times()
    return times.user + times.system


def ways(stack: contextlib.ExitStack, pause: str) -> dict[str, Way]:
    """Run everything; return the ways by name, "direct" among them."""
    behind = stack.enter_context(running("upstream", pause))
    found = {"direct": Way(behind.port, None)}
    where = {"UPSTREAM": str(behind.port)}
    found["gateway"] = stack.enter_context(running("gateway", **where, **MANY))
    found["gateway of ten"] = stack.enter_context(running("gateway", **where, **FEW))
    found["relay"] = stack.enter_context(running("relay", str(behind.port)))
    other = stack.enter_context(nginx(behind.port))
    return {**found, "nginx": other} if other is not None else found


def table(pause: str, cases: list[tuple[str, int]]) -> None:
    """Measure some cases and print a table."""
    with contextlib.ExitStack() as stack:
        every = ways(stack, pause)
        middle = [name for name in every if name != "direct"]
        print("| body | connections | " + " | ".join(f"CPU of {n}" for n in middle), end=" | ")
        over = [each for each in ("relay", "nginx") if each in middle]
        print(" | ".join(f"CPU over {each}" for each in over), end=" | ")
        print("p50 direct | p50 gateway | p50 ratio | rate ratio |")
        print("|---" * (len(middle) + len(over) + 6) + "|")
        for size, connections in cases:
            turns = [
                {name: turn(way, SIZES[size], connections) for name, way in every.items()}
                for _ in range(ROUNDS)
            ]
            row(size, connections, turns, middle, over)


def row(
    size: str,
    connections: int,
    turns: list[dict[str, Turn]],
    middle: Sequence[str],
    over: Sequence[str],
) -> None:
    """Print the medians of one case."""

    def median(value: Any) -> float:
        return float(statistics.median(map(value, turns)))

    cells = [f"{median(lambda t, n=name: t[n].cpu):.3f} ms" for name in middle]
    cells += [f"{median(lambda t, n=n: t['gateway'].cpu / max(t[n].cpu, 1e-6)):.2f}" for n in over]
    cells += [f"{median(lambda t, n=n: t[n].trip):.2f} ms" for n in ("direct", "gateway")]
    cells.append(f"{median(lambda t: t['gateway'].trip / t['direct'].trip):.2f}")
    cells.append(f"{median(lambda t: t['gateway'].rate / t['direct'].rate):.2f}")
    print(f"| {size} | {connections} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Measure and print."""
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, ")
    busy = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print(f"median of {ROUNDS} rounds of {SECONDS:g} s; load before: {busy}\n")
    print("A server that answers at once:\n")
    table("0", [(size, connections) for size in SIZES for connections in CONNECTIONS])
    print("\nA server that takes 5 ms:\n")
    table("0.005", [("60 KB", connections) for connections in (1, 16)])


if __name__ == "__main__":
    main()
