"""Measure `plainunet serve` beside the bare `Predictor`: images/s, CPU time, latency, memory.

    python benchmarks/serve.py CHECKPOINT IMAGES... [--clients 16] [--seconds 10] [--requests 2000]

Three ways take turns on the same image files, each in a process of its own that is idle while the
others run: `Predictor.predict` of decoded images; from file to PNG in one thread, as the server
does it; and the server, with as many clients at a time. CPU time (of all threads of a process; set
OMP_NUM_THREADS=1, because idle threads of a network wait busily) is compared as well: it tells the
cost of serving even if the machine has other work. Then the first request of a server that has
just become ready is compared with the median, and memory is read over many requests.
"""

import argparse
import http.client
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from plainunet.formats.images import read_image
from plainunet.prediction.drawing import encode_mask
from plainunet.prediction.predictor import Predictor
from plainunet.system import keep_freed_memory

ROUNDS = 3


class Server:
    """A server in a process of its own."""

    def __init__(self, checkpoint: Path, flags: Sequence[str]) -> None:
        """Start it, and wait until it is ready."""
        words = [sys.executable, "-m", "plainunet", "serve", checkpoint, "--port", "0", *flags]
        self.process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr
        self.port = 0
        while not self.port:
            url = json.loads(self.process.stderr.readline()).get("url", "")
            self.port = int(url.rpartition(":")[2] or 0)
        threading.Thread(target=self.process.stderr.read, daemon=True).start()
        while self.request("GET", "/readyz")[0] != 200:
            time.sleep(0.1)

    def request(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Send a request on a connection of its own. Returns the status code and the body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        connection.request(method, path, body)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, content

    def cpu(self) -> float:
        """CPU time that it has taken [s]."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """Resident memory [MiB]."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024

    def load(
        self, bodies: Sequence[bytes], clients: int, go_on: Callable[[int], bool]
    ) -> list[float]:
        """Send images with several clients while `go_on(number)`. Returns seconds of each."""
        numbers, seconds = iter(range(10**9)), []
        lock = threading.Lock()

        def ask() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
            while True:
                with lock:
                    number = next(numbers)
                if not go_on(number):
                    return
                begun = time.perf_counter()
                connection.request("POST", "/v1/predict", bodies[number % len(bodies)])
                answer = connection.getresponse()
                answer.read()
                if answer.status != 200:
                    raise SystemExit(f"status {answer.status}")
                seconds.append(time.perf_counter() - begun)

        threads = [threading.Thread(target=ask) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return seconds

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait()


def bare(checkpoint: Path, files: Sequence[Path], seconds: float, device: str) -> None:
    """Predict in this process, for some seconds at each line on standard input."""
    keep_freed_memory()  # as `plainunet predict` and the server
    predictor = Predictor.load(checkpoint, device=device)
    images = [read_image(file) for file in files]
    digest = predictor.digest()

    def from_array(number: int) -> None:
        predictor.predict(images[number % len(images)])

    def from_file(number: int) -> None:
        mask = predictor.predict(read_image(files[number % len(files)]))
        encode_mask(mask, predictor.card.colors, digest)

    for work in (from_array, from_file):
        for number in range(3):
            work(number)
    print("ready", flush=True)
    for line in sys.stdin:
        work = from_file if line.strip() == "file" else from_array
        begun, taken, count = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - begun < seconds:
            work(count)
            count += 1
        rate = count / (time.perf_counter() - begun)
        print(rate, (time.process_time() - taken) / count, flush=True)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--processes", default="1")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.bare:
        bare(given.checkpoint, given.images, given.seconds, given.device)
        return
    print(platform.processor() or platform.machine(), f"{len(given.images)} images")
    other = subprocess.Popen(
        [sys.executable, __file__, *sys.argv[1:], "--bare"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdin
    assert other.stdout
    assert other.stdout.readline() == "ready\n"
    flags = ["--device", given.device, "--processes", given.processes]
    bodies = [image.read_bytes() for image in given.images]
    server = Server(given.checkpoint, flags)
    begun = time.perf_counter()
    server.request("POST", "/v1/predict", bodies[0])
    first = time.perf_counter() - begun
    alone = server.load(bodies, 1, lambda number: number < 30)
    rates: dict[str, list[float]] = {"array": [], "file": [], "server": []}
    costs: dict[str, list[float]] = {way: [] for way in rates}
    latencies: list[float] = []
    for _ in range(ROUNDS):
        for way in ("array", "file"):
            other.stdin.write(f"{way}\n")
            other.stdin.flush()
            rate, cost = map(float, other.stdout.readline().split())
            rates[way].append(rate)
            costs[way].append(cost)
        begun, before = time.perf_counter(), server.cpu()
        until = begun + given.seconds
        done = server.load(bodies, given.clients, lambda number: time.perf_counter() < until)  # noqa: B023
        rates["server"].append(len(done) / (time.perf_counter() - begun))
        costs["server"].append((server.cpu() - before) / len(done))
        latencies += done
    for way, found in rates.items():
        each = ", ".join(f"{rate:.1f}" for rate in found)
        cost = statistics.median(costs[way]) * 1000
        print(f"{way:7} {statistics.median(found):7.1f} images/s  ({each}), CPU {cost:.1f} ms each")
    middle = {way: statistics.median(found) for way, found in rates.items()}
    print(f"server / Predictor on arrays: {middle['server'] / middle['array']:.2f}")
    print(f"server / Predictor from file to PNG: {middle['server'] / middle['file']:.2f}")
    taken = {way: statistics.median(found) for way, found in costs.items()}
    print(f"CPU time, Predictor on arrays / server: {taken['array'] / taken['server']:.2f}")
    ordered = sorted(latencies)
    p50, p99 = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]
    print(f"{given.clients} clients: p50 {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms")
    p50 = statistics.median(alone)
    print(
        f"1 client: p50 {p50 * 1000:.1f} ms, first request {first * 1000:.1f} ms "
        f"({first / p50:.2f} of it)"
    )
    begun_at = server.memory()
    parts = [begun_at]
    for _ in range(5):
        server.load(bodies, given.clients, lambda number: number < given.requests // 5)
        parts.append(server.memory())
    print(
        f"memory over {given.requests} requests [MiB]: " + " ".join(f"{each:.0f}" for each in parts)
    )
    server.stop()
    other.stdin.close()
    other.wait()


if __name__ == "__main__":
    main()
