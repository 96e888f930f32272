"""The client both servers are driven with, `ferrymq bench`: its flags and its answers."""

import json
import subprocess
import sys
import time

from . import servers


# How often the disk is tried before it is taken as it is, and the longest sync of a calm one.
SETTLE_RUNS_MAX = 12
CALM_US = 20_000


def note(text):
    print(text, file=sys.stderr, flush=True)


def command(options, address, *arguments):
    return [options.binary, "bench", "kafka", "--bootstrap", address, *map(str, arguments)]


def outcome(words, done):
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, words))}: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout)


def run(options, address, *arguments):
    """Runs it and gives its JSON."""
    words = command(options, address, *arguments)
    return outcome(words, subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900))


def start(options, address, *arguments):
    """Starts it beside another; give what comes back to `finish`."""
    words = command(options, address, *arguments)
    return words, subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True)


def finish(begun):
    words, child = begun
    stdout, stderr = child.communicate(timeout=900)
    return outcome(words, subprocess.CompletedProcess(words, child.returncode, stdout, stderr))


def flags(load, topic, **changed):
    wanted = {"topic": topic, "partitions": load["partitions"], "message-bytes": load["message_bytes"],
              "linger-ms": load["linger_ms"], "acks": load["acks"], "seconds": load["seconds"]}
    for name in ("messages", "rate"):
        if name in load:
            wanted[name] = load[name]
    wanted.update((name.replace("_", "-"), value) for name, value in changed.items())
    return [part for name, value in wanted.items() for part in (f"--{name}", value)]


def measured(answer, broker_cpu):
    """What is kept of an answer."""
    result = answer["results"][0]
    kept = {name: result["throughput"][name] for name in (
        "records", "payload_bytes", "seconds", "records_per_second", "mb_per_second", "client_cpu_seconds")}
    kept["broker_cpu_seconds"] = broker_cpu
    kept["client_settings"] = answer["settings"]
    for latency in ("ack_latency_us", "end_to_end_us"):
        if result.get(latency):
            kept[latency] = result[latency]
    return kept


def create_topic(options, address, topic, partitions, configs=()):
    """Creates a topic and waits until it can be described: Kafka answers before its metadata shows it."""
    def ferrymq_topic(*arguments):
        words = [options.binary, "topic", *arguments, "--bootstrap", address]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    settings = [part for config in configs for part in ("--config", config)]
    made = ferrymq_topic("create", topic, "--partitions", str(partitions), *settings)
    limit = time.monotonic() + 30
    while ferrymq_topic("describe", topic).returncode != 0:
        if time.monotonic() > limit:
            raise RuntimeError(f"topic {topic} did not appear: {made.stderr.strip()}")
        time.sleep(0.1)
    # Leaders of many partitions take a moment longer.
    time.sleep(0.5 + partitions / 500)


def disk_at_a_pace(options, load):
    """A bare loop that is given what a server is given: so many messages a second, all that are due in one write and sync.

    Each is timed from when it was due, as a server's are. The loop that writes one after the other counts a disk that stands
    still, or a processor that is taken away, for a while as one slow sync among tens of thousands.
    """
    with servers.directory() as home:
        words = [options.binary, "bench", "disk", "--dir", home, "--rate", str(load["rate"]),
                 "--write-bytes", str(load["message_bytes"]), "--seconds", str(load["seconds"])]
        found = outcome(words, subprocess.run(words, capture_output=True, text=True, check=False))
    found["settings"].pop("dir")
    return found


def disk(options):
    """A bare loop of write and fdatasync: what a durable acknowledgement costs here at least.

    Again until the disk has settled: it gives back the space of the workload before this one, of whichever server, for
    some ten seconds, and syncs take 30 to 80 ms meanwhile.
    """
    with servers.directory() as home:
        words = [options.binary, "bench", "disk", "--dir", home, "--seconds", "5"]
        calm = 0
        for run in range(1, SETTLE_RUNS_MAX + 1):
            found = outcome(words, subprocess.run(words, capture_output=True, text=True, check=False))
            calm = calm + 1 if found["write_and_fdatasync_us"]["max"] < CALM_US else 0
            if calm == 2:
                break
    # Where the repository lies on this machine is nobody's business.
    found.get("settings", {}).pop("dir", None)
    found["settling"] = {"runs": run, "settled": calm == 2}
    return found
