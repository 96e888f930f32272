"""The servers that are measured, one at a time, each on a fresh directory of the disk that holds the repository."""

import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
CACHE = ROOT / ".cache"
PEER = ROOT / "bench" / "kafka-peer"
PEER_PORT = 19392


class Process:
    """A process of ours: its CPU seconds, its memory and what it wrote to the disk."""

    def __init__(self, pid):
        self.pid = pid

    def _file(self, name):
        return pathlib.Path(f"/proc/{self.pid}/{name}")

    def cpu_seconds(self):
        fields = self._file("stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def forget_peak(self):
        # So that the peak is that of one workload.
        with contextlib.suppress(OSError):
            self._file("clear_refs").write_text("5")

    def memory(self):
        lines = self._file("status").read_text().splitlines()
        values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith("Vm")}
        return {"rss_peak_bytes": values["VmHWM"], "rss_bytes": values["VmRSS"]}

    def written_bytes(self):
        # What it sent towards the disk, page cache included: a server that does not sync writes later, not less.
        with contextlib.suppress(OSError):
            lines = self._file("io").read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))
        return None


def listens(address):
    host, port = address.rsplit(":", 1)
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
        return True
    return False


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def spawn(command, address, log):
    """A child that listens on `address`, and the seconds that took."""
    began = time.monotonic()
    with open(log, "ab") as output:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        while not listens(address):
            if child.poll() is not None or time.monotonic() > began + 60:
                raise RuntimeError(f"did not come up: {' '.join(map(str, command))}; see {log}")
            time.sleep(0.001)
    except BaseException:
        end(child)
        raise
    return child, time.monotonic() - began


def end(child):
    child.terminate()
    try:
        child.wait(60)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
        print(f"had to be killed: pid {child.pid}", file=sys.stderr)


@contextlib.contextmanager
def started(command, address, log):
    """As `spawn`; stopped by SIGTERM at the end."""
    child, _ = spawn(command, address, log)
    try:
        yield Process(child.pid)
    finally:
        end(child)


def drop_page_cache():
    """Whether a start from here on is one with a cold page cache."""
    with contextlib.suppress(OSError):
        os.sync()
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")
        return True
    return False


@contextlib.contextmanager
def directory():
    home = pathlib.Path(tempfile.mkdtemp(prefix="bench.", dir=CACHE))
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


def ferrymq_command(options, home, address):
    return [options.binary, "serve", "--data-dir", home / "data", "--kafka-listen", address, "--amqp-listen", "off",
            "--http-listen", "off", *options.serve]


@contextlib.contextmanager
def ferrymq(options):
    address = free_address()
    with directory() as home:
        with started(ferrymq_command(options, home, address), address, CACHE / "bench-ferrymq.log") as process:
            yield address, process


@contextlib.contextmanager
def kafka(options):
    environment = {**os.environ, "FERRYMQ_PEER_PORT": str(PEER_PORT), "FERRYMQ_PEER_DATA": str(CACHE / "bench-kafka")}

    def peer(*arguments):
        done = subprocess.run([PEER, *arguments], env=environment, stdout=subprocess.PIPE, text=True, check=True)
        return done.stdout.strip()

    peer("wipe")
    try:
        address = peer("start")
        yield address, Process(json.loads(peer("stats"))["pid"])
    finally:
        peer("wipe")


SERVERS = {"ferrymq": ferrymq, "kafka": kafka}
