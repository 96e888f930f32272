"""What the servers are put through. Every workload begins with a fresh server, and ends it."""

import signal
import subprocess
import time

from . import client, servers

RIVAL = "kafka"
GIB = 1 << 30
# Kafka's compiler is given this much before anything is measured.
WARM_BYTES = 3 * 10**9
# The shape itself is repeated until a run is not this much faster than the best before it. Kafka's compiled code
# for one partition count can be several times slower than for another until it is compiled again.
STEADY = 1.15
WARM_RUNS_MAX = 6


def named(options):
    """Name -> settings."""
    short = options.quick or options.short
    shapes = (1, 16) if options.quick else (1, 16, 256, 1000)
    sizes = {"1k": 1024} if options.quick else {"1k": 1024, "100b": 100}
    seconds = 8 if short else 15
    found = {}
    for label, size in sizes.items():
        # The short run leaves the smallest messages at many partitions to the long one.
        for partitions in shapes[:2] if options.short and size < 1024 else shapes:
            found[f"throughput-{label}-{partitions}p"] = {
                "kind": "throughput", "partitions": partitions, "message_bytes": size, "linger_ms": 5, "acks": "all",
                # Enough to fill several files of every log engine involved, unless the time is over first.
                "messages": (4 * GIB if not short else 3 * GIB) // size, "seconds": seconds, "ceiling": True,
            }
    steady = {"kind": "latency", "message_bytes": 1024, "linger_ms": 0, "acks": "all", "rate": 10000, "seconds": seconds}
    for partitions in shapes[:2]:
        found[f"latency-1k-{partitions}p"] = {**steady, "partitions": partitions}
    if not options.quick:
        found["latency-1k-1p-os"] = {**steady, "partitions": 1, "configs": {"ferrymq": ["ferrymq.durability=os"]}}
        # One message a millisecond on a topic of its own, while another is written as fast as it goes.
        found["beside-saturated"] = {
            "kind": "beside", "partitions": 1, "message_bytes": 1024, "linger_ms": 0, "acks": "all", "rate": 1000,
            "seconds": seconds,
            "other": {"partitions": 16, "message_bytes": 1024, "linger_ms": 5, "acks": "all", "seconds": seconds + 4},
        }
        found["idle-10000p"] = {"kind": "idle", "partitions": 10000, "only": "ferrymq"}
        found["start-10gb-1000p"] = {
            "kind": "start", "partitions": 1000, "message_bytes": 1024, "linger_ms": 5, "acks": "all",
            "messages": (2 if short else 10) * 10**9 // 1024, "seconds": 300, "only": "ferrymq",
        }
    return {name: load for name, load in found.items() if name.startswith(options.only)}


def order(options, _load):
    return ["ferrymq", RIVAL, RIVAL, "ferrymq", "ferrymq", RIVAL][: 2 if options.quick else 6]


def budget_seconds(_options):
    """How long a run may go on beginning measurements: as long as it takes."""


def rival_version():
    return "Apache Kafka"


def brief(taken):
    if "latency" in taken:
        found = taken["latency"].get("end_to_end_us", {})
        return f"p50 {found.get('p50', 0) / 1e3:.2f} ms, p99 {found.get('p99', 0) / 1e3:.2f} ms"
    if "produce" in taken:
        return ", ".join(f"{mode} {taken[mode]['records_per_second'] / 1e3:.0f}k/s" for mode in ("produce", "consume"))
    return f"listens after {taken['listening_seconds'] * 1e3:.0f} ms, {taken['memory']['rss_bytes'] >> 20} MiB"


def put_through(options, kind, load):
    """One server, started for it, through one workload."""
    return {"throughput": throughput, "latency": latency, "beside": beside, "idle": idle, "start": start}[load["kind"]](
        options, kind, load)


def warm(options, kind, address):
    """Kafka warm; a compiled program needs none."""
    if kind == "kafka":
        messages = (WARM_BYTES // 3 if options.quick else WARM_BYTES) // 1024
        for mode in ("produce", "consume"):
            client.run(options, address, "--mode", mode, "--topic", "warm", "--partitions", 4, "--messages", messages)


def until_steady(options, address, load, topic):
    """The workload itself, briefly and again, until it no longer becomes faster; the rates seen."""
    rates = []
    while len(rates) < WARM_RUNS_MAX:
        answer = client.run(options, address, "--mode", "produce", *client.flags(load, topic, seconds=2))
        rates.append(answer["results"][0]["throughput"]["records_per_second"])
        if len(rates) > 1 and rates[-1] < STEADY * max(rates[:-1]):
            break
    return rates


def throughput(options, kind, load):
    with servers.SERVERS[kind](options) as (address, process):
        warm(options, kind, address)
        client.create_topic(options, address, "load", load["partitions"])
        taken = {"warm_up_records_per_second": until_steady(options, address, load, "load")}
        process.forget_peak()
        written = process.written_bytes()
        for mode in ("produce", "consume"):
            cpu = process.cpu_seconds()
            # All that is there is consumed, however long it takes.
            bounds = {} if mode == "produce" else {"messages": 10**12, "seconds": 600}
            answer = client.run(options, address, "--mode", mode, *client.flags(load, "load", **bounds))
            taken[mode] = client.measured(answer, process.cpu_seconds() - cpu)
        if written is not None:
            taken["written_bytes"] = process.written_bytes() - written
        taken["memory"] = process.memory()
        return taken


def latency(options, kind, load):
    taken = {"disk": client.disk(options), "disk_at_a_pace": [client.disk_at_a_pace(options, load)]}
    with servers.SERVERS[kind](options) as (address, process):
        warm(options, kind, address)
        configs = load.get("configs", {}).get(kind, ())
        client.create_topic(options, address, "load", load["partitions"], configs)
        client.run(options, address, "--mode", "latency", *client.flags(load, "load", seconds=4))
        cpu = process.cpu_seconds()
        answer = client.run(options, address, "--mode", "latency", *client.flags(load, "load"))
        taken["latency"] = client.measured(answer, process.cpu_seconds() - cpu)
        taken["memory"] = process.memory()
    taken["disk_at_a_pace"].append(client.disk_at_a_pace(options, load))
    return taken


def beside(options, kind, load):
    with servers.SERVERS[kind](options) as (address, process):
        warm(options, kind, address)
        other = load["other"]
        client.create_topic(options, address, "saturated", other["partitions"])
        until_steady(options, address, other, "saturated")
        client.create_topic(options, address, "load", load["partitions"])
        cpu = process.cpu_seconds()
        begun = client.start(options, address, "--mode", "produce", *client.flags(other, "saturated"))
        time.sleep(2)
        answer = client.run(options, address, "--mode", "latency", *client.flags(load, "load"))
        beside_it = client.finish(begun)
        taken = {"latency": client.measured(answer, process.cpu_seconds() - cpu)}
        taken["saturated"] = client.measured(beside_it, None)
        taken["memory"] = process.memory()
        return taken


def ready_again(options, home, address, load):
    """Killed, with a cold page cache where we may drop it; the seconds until it listens and every partition answers."""
    cold = servers.drop_page_cache()
    # The program itself is no part of the question.
    subprocess.run([options.binary, "--version"], stdout=subprocess.DEVNULL, check=True)
    began = time.monotonic()
    child, listening = servers.spawn(servers.ferrymq_command(options, home, address), address,
                                     servers.CACHE / "bench-ferrymq.log")
    try:
        taken = {"listening_seconds": listening, "cold_page_cache": cold}
        if load["kind"] == "start":
            every = {"messages": load["partitions"], "linger_ms": 0}
            client.run(options, address, "--mode", "produce", *client.flags(load, "load", **every))
            taken["every_partition_wrote_seconds"] = time.monotonic() - began
            every = {"messages": 4 * load["partitions"], "fetch_partition_bytes": "16k", "fetch_bytes": "64m"}
            client.run(options, address, "--mode", "consume", *client.flags(load, "load", **every))
            taken["every_partition_read_seconds"] = time.monotonic() - began
    except BaseException:
        # Nobody else knows it yet.
        servers.end(child)
        raise
    return child, taken


def killed_and_started(options, load, fill):
    address = servers.free_address()
    with servers.directory() as home:
        child, listening = servers.spawn(servers.ferrymq_command(options, home, address), address,
                                         servers.CACHE / "bench-ferrymq.log")
        taken = {"empty_listening_seconds": listening}
        try:
            client.create_topic(options, address, "load", load["partitions"])
            fill(address)
            time.sleep(5)
            taken["memory"] = servers.Process(child.pid).memory()
            child.send_signal(signal.SIGKILL)
            child.wait()
            child, again = ready_again(options, home, address, load)
            taken.update(again)
        finally:
            servers.end(child)
        return taken


def idle(options, _kind, load):
    return killed_and_started(options, load, lambda _address: None)


def start(options, _kind, load):
    return killed_and_started(options, load, lambda address: client.run(
        options, address, "--mode", "produce", *client.flags(load, "load")))


def ceiling(options, load):
    """What the client itself can do: the same against a responder that stores nothing."""
    address = servers.free_address()
    words = [options.binary, "bench", "null-responder", "--listen", address, "--partitions", str(load["partitions"]),
             "--message-bytes", str(load["message_bytes"])]
    taken = {}
    with servers.started(words, address, servers.CACHE / "bench-null.log"):
        for mode in ("produce", "consume"):
            bounds = {"seconds": 5} if mode == "produce" else {"messages": taken["produce"]["records"], "seconds": 60}
            answer = client.run(options, address, "--mode", mode, *client.flags(load, "load", **bounds))
            taken[mode] = client.measured(answer, None)
    return taken
