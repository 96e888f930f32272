"""What the AMQP doors of FerryMQ and RabbitMQ are put through. Every workload begins with a fresh server, and ends it."""

import contextlib
import json
import os
import select
import signal
import subprocess
import time

from . import client, servers

RIVAL = "rabbitmq"
# Of the client: nothing moved for so long, and it gives up.
PATIENCE_SECONDS = 30
# What servers are warmed with, before the workload's own settings for so long.
WARM_SECONDS = 3
# Until servers have settled after many declarations.
SETTLE_SECONDS = 3
# The short run begins no measurement after the first and ends what is under way at the second.
SHORT_BEGIN_SECONDS = 23 * 60
SHORT_END_SECONDS = 24.5 * 60
BEGAN = time.monotonic()


def named(options):
    """Name -> settings. What stands first is measured first: a run that is out of time has the bars' workloads."""
    seconds = 2 if options.quick else 6 if options.short else 15
    found = dict(_of_the_bars(options, seconds))
    # RabbitMQ's other standard shapes have no bar; brief runs leave them out unless they are asked for.
    if options.only or not (options.quick or options.short):
        found.update(_shapes(options, seconds))
    if options.quick and not options.only:
        found = {name: load for name, load in found.items() if name in ("one-queue", "window-1", "latency")}
    return {name: load for name, load in found.items() if name.startswith(options.only)}


def _flow(seconds, **flags):
    """Publishing for so long, and consuming what was published. FLAGS are the client's."""
    return {"kind": "flow", "flags": {"message_bytes": 100, "ack_every": 100, "window": 20000, **flags},
            "seconds": seconds, "ceiling": True}


def _of_the_bars(options, seconds):
    small = options.quick or options.short
    yield "one-queue", {**_flow(seconds), "bar": "one-queue"}
    yield "one-queue-quorum", {**_flow(seconds, queue_type="quorum"), "bar": "quorum"}
    yield "publish-alone", {**_flow(seconds, mode="publish"), "bar": "publish-alone"}
    yield "ten-queues", {**_flow(seconds, queues=10), "bar": "ten-queues"}
    yield "1-kib", {**_flow(seconds, message_bytes=1024), "bar": "1-kib"}
    yield "transient", {**_flow(seconds, transient=True, no_ack=True), "bar": "transient"}
    yield "window-1", {**_flow(seconds, window=1), "bar": "window-1", "disk": True}
    yield "latency", {**_flow(seconds, rate=5000, ack_every=1), "bar": "latency", "disk": True, "ceiling": False}
    messages = {"ferrymq": 5_000_000, "rabbitmq": 5_000_000}
    if options.short:
        messages = {"ferrymq": 2_000_000, "rabbitmq": 300_000}
    if options.quick:
        messages = {"ferrymq": 50_000, "rabbitmq": 30_000}
    yield "backlog", {
        "kind": "flow", "bar": "backlog", "rounds": 1, "scaled": small, "ceiling": False, "timeout": 900,
        "flags": {"mode": "backlog", "message_bytes": 100, "ack_every": 100, "window": 20000}, "messages": messages,
    }
    queues = {"ferrymq": 2000, "rabbitmq": 200} if options.quick else {
        "ferrymq": 100_000, "rabbitmq": 2000 if options.short else 10_000}
    yield "idle-queues", {"kind": "idle-queues", "bar": "idle-queues", "rounds": 1, "queues": queues,
                          "scaled": options.quick}
    yield "idle-connections", {"kind": "idle-connections", "bar": "idle-connections", "rounds": 1,
                               "connections": 200 if options.quick else 5000, "channels": 2}
    yield "one-queue-4000", {**_flow(seconds, window=4000), "rounds": 1 if small else 3}


def _shapes(options, seconds):
    few = 10 if options.quick else 100
    shapes = {
        "fan-out": {"fan_out": True, "queues": 10, "window": 2000},
        "fan-in": {"publishers": few, "window": 100},
        # A thousand queues at ten a second each, by RabbitMQ's own list.
        "many-queues": {"queues": few * 10, "rate": few * 100, "ack_every": 1},
        "five-queues-paced": {"queues": 5, "rate": 50_000},
        "two-publishers-growth": {"mode": "publish", "publishers": 2},
        "backlog-influx": {"mode": "backlog", "consumers": 10, "messages": few * 5000},
        "single-active": {"consumers": 2, "queue_argument": "x-single-active-consumer=true"},
        "priorities": {"priorities": 5, "queue_argument": "x-max-priority=5"},
        "ttl-storm": {"mode": "publish", "expiration": 1000, "until_empty": True},
        "nack-storm": {"nack": True, "window": 2000},
    }
    for name, flags in shapes.items():
        yield name, {**_flow(None if "messages" in flags else seconds, **flags), "ceiling": False,
                     "rounds": 1 if options.quick else 3}


def order(options, load):
    rounds = 1 if options.quick else load.get("rounds", 3)
    return ["ferrymq", RIVAL, RIVAL, "ferrymq", "ferrymq", RIVAL][: 2 * rounds]


def budget_seconds(options):
    """How long a run may go on beginning measurements; None for as long as it takes."""
    return SHORT_BEGIN_SECONDS if options.short or options.quick else None


def brief(taken):
    told = []
    for mode in ("publish", "consume"):
        if taken.get(mode, {}).get("records"):
            told.append(f"{mode} {taken[mode]['records_per_second'] / 1e3:.1f}k/s")
    latency = taken.get("consume", {}).get("publish_to_deliver_us")
    if latency:
        told.append(f"p50 {latency['p50'] / 1e3:.2f} ms, p99 {latency['p99'] / 1e3:.2f} ms")
    if "ready_seconds" in taken:
        told.append(f"ready again after {taken['ready_seconds'] * 1e3:.0f} ms")
    if "bytes_per_connection" in taken:
        told.append(f"{taken['bytes_per_connection'] / 1024:.1f} KiB a connection")
    memory = taken.get("memory")
    return ", ".join([*told, *([f"peak {memory['rss_peak_bytes'] >> 20} MiB"] if memory else [])])


# The servers.

def _ferrymq_command(options, home, address):
    return [options.binary, "serve", "--data-dir", home / "data", "--kafka-listen", "127.0.0.1:0", "--amqp-listen",
            address, "--http-listen", "off", *options.serve]


@contextlib.contextmanager
def _ferrymq(options):
    address = servers.free_address()
    with servers.directory() as home:
        command = _ferrymq_command(options, home, address)
        with servers.started(command, address, servers.CACHE / "bench-ferrymq.log") as process:
            yield address, process


def _peer(*arguments):
    environment = {**os.environ, "FERRYMQ_RABBITMQ_PORT": "19492",
                   "FERRYMQ_RABBITMQ_HOME": str(servers.CACHE / "bench-rabbitmq")}
    words = [servers.ROOT / "compat" / "rabbitmq-peer", *arguments]
    done = subprocess.run(words, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                          check=True, timeout=300)
    return done.stdout.strip()


@contextlib.contextmanager
def _rabbitmq(_options):
    _peer("wipe")
    try:
        address = _peer("start")
        yield address, servers.Process(int(_peer("pid")))
    finally:
        _peer("wipe")


SERVERS = {"ferrymq": _ferrymq, RIVAL: _rabbitmq}


def rival_version():
    return f"RabbitMQ {_peer('version')}"


# The client.

def _words(options, address, flags):
    words = [options.binary, "bench", "amqp", "--address", address, "--patience-seconds", str(PATIENCE_SECONDS)]
    for name, value in flags.items():
        if value is True:
            words.append(f"--{name.replace('_', '-')}")
        elif value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def _run(options, address, flags, timeout):
    words = _words(options, address, flags)
    if budget_seconds(options):
        timeout = max(1, min(timeout, SHORT_END_SECONDS - (time.monotonic() - BEGAN)))
    return client.outcome(words, subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                                timeout=timeout))


def _flags(load, kind):
    """The client's flags for a workload on this server."""
    bounds = {"seconds": load.get("seconds")}
    if "messages" in load:
        bounds["messages"] = load["messages"][kind]
    return {**load["flags"], **bounds}


def _timeout(load):
    """Publishing, and consuming far more slowly than that."""
    return load.get("timeout") or 90 + 10 * (load.get("seconds") or 30)


# The workloads.

def put_through(options, kind, load):
    """One server, started for it, through one workload."""
    return {"flow": _flow_through, "idle-queues": _idle_queues, "idle-connections": _idle_connections}[load["kind"]](
        options, kind, load)


def _flow_through(options, kind, load):
    taken = {"disk": client.disk(options)} if load.get("disk") else {}
    with SERVERS[kind](options) as (address, process):
        _run(options, address, _warm(load), 120)
        process.forget_peak()
        cpu, written = process.cpu_seconds(), process.written_bytes()
        answer = _run(options, address, _flags(load, kind), _timeout(load))
        taken["broker_cpu_seconds"] = process.cpu_seconds() - cpu
        if written is not None:
            taken["written_bytes"] = process.written_bytes() - written
        taken.update(_kept(answer))
        taken["memory"] = process.memory()
    return taken


def _warm(load):
    """The same workload for a moment, both ways, on queues of its own."""
    flags = {name: value for name, value in load["flags"].items()
             if name not in ("mode", "until_empty", "expiration", "messages")}
    return {**flags, "queue": "warm", "seconds": WARM_SECONDS}


def _kept(answer):
    """Of a client's answer, without where on this machine things were."""
    kept = {name: value for name, value in answer.items() if name not in ("tool", "version")}
    kept["settings"].pop("address", None)
    return kept


def _idle_queues(options, kind, load):
    declare = {"mode": "idle-queues", "queues": load["queues"][kind], "queue": "idle", "connections": 64}
    address = servers.free_address()
    with contextlib.ExitStack() as stack:
        if kind == RIVAL:
            _peer("wipe")
            stack.callback(_peer, "wipe")
            address = _peer("start")
            process = servers.Process(int(_peer("pid")))
        else:
            home = stack.enter_context(servers.directory())
            command = _ferrymq_command(options, home, address)
            log = servers.CACHE / "bench-ferrymq.log"
            child, _ = servers.spawn(command, address, log)
            # The one that runs at the end, not the one that began.
            running = [child]
            stack.callback(lambda: servers.end(running[0]))
            process = servers.Process(child.pid)
        taken = {"memory_empty": process.memory()}
        taken.update(_kept(_run(options, address, declare, 900)))
        time.sleep(SETTLE_SECONDS)
        taken["memory"] = process.memory()
        if kind == RIVAL:
            _peer("stop")
            taken["cold_page_cache"] = servers.drop_page_cache()
            began = time.monotonic()
            _peer("resume")
            taken["ready_seconds"] = time.monotonic() - began
            process = servers.Process(int(_peer("pid")))
        else:
            child.send_signal(signal.SIGKILL)
            child.wait()
            taken["cold_page_cache"] = servers.drop_page_cache()
            # The program itself is no part of the question.
            subprocess.run([options.binary, "--version"], stdout=subprocess.DEVNULL, check=True)
            running[0], taken["ready_seconds"] = servers.spawn(command, address, log)
            process = servers.Process(running[0].pid)
        # Every queue is there again.
        began = time.monotonic()
        _run(options, address, {**declare, "passive": True}, 300)
        taken["all_answered_seconds"] = time.monotonic() - began
        taken["memory_again"] = process.memory()
        return taken


def _idle_connections(options, kind, load):
    flags = {"mode": "idle-connections", "connections": load["connections"], "channels": load["channels"]}
    with SERVERS[kind](options) as (address, process):
        _run(options, address, {**flags, "connections": 10}, 60)
        before = process.memory()["rss_bytes"]
        words = _words(options, address, flags)
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            try:
                # It reports when all are open and holds them until its stdin ends.
                answer = _report_of(child, words, 180)
                time.sleep(SETTLE_SECONDS)
                memory = process.memory()
            finally:
                child.stdin.close()
                servers.end(child)
    per_connection = (memory["rss_bytes"] - before) / load["connections"]
    return {**_kept(answer), "memory": memory, "rss_before_bytes": before, "bytes_per_connection": per_connection}


def _report_of(child, words, timeout):
    """The JSON that a child prints while it goes on."""
    text = b""
    limit = time.monotonic() + timeout
    while time.monotonic() < limit:
        if not select.select([child.stdout], [], [], 1)[0]:
            continue
        some = os.read(child.stdout.fileno(), 1 << 16)
        if not some:
            said = child.stderr.read().decode(errors="replace").strip()
            raise RuntimeError(f"{' '.join(map(str, words))}: {said[-500:]}")
        text += some
        with contextlib.suppress(json.JSONDecodeError):
            return json.loads(text)
    raise RuntimeError(f"no report within {timeout} s")


def ceiling(options, load):
    """What the client itself can do: the same against a responder that stores nothing."""
    address = servers.free_address()
    words = [options.binary, "bench", "amqp-null-responder", "--listen", address]
    with servers.started(words, address, servers.CACHE / "bench-null.log"):
        seconds = min(load["seconds"], 5)
        return _kept(_run(options, address, {**_flags(load, "ferrymq"), "seconds": seconds}, _timeout(load)))
