"""The table of a run beside RabbitMQ, and which of the plan's bars are met."""

import statistics

from . import table

MIB = 1 << 20
# A bar that is relative to RabbitMQ is met at so much of the client's ceiling too.
CEILING_SHARE = 0.8


class Ratio:
    """At least so many times RabbitMQ, or the share of the ceiling if that is lower."""

    def __init__(self, times):
        self.times = times

    def told(self, _rounds):
        return f">= {self.times}x"

    def met(self, ours, theirs, limit, _rounds):
        if limit and ours >= CEILING_SHARE * limit:
            return True
        return ours >= self.times * theirs if theirs else None


class Most:
    """At most a number, which may follow from what was measured beside."""

    def __init__(self, number):
        self.number = number

    def value(self, rounds):
        return self.number(rounds) if callable(self.number) else self.number

    def told(self, rounds):
        value = self.value(rounds)
        return "-" if value is None else f"<= {value:.4g}"

    def met(self, ours, _theirs, _limit, rounds):
        value = self.value(rounds)
        return None if value is None else ours <= value


class Least(Most):
    """At least a number."""

    def told(self, rounds):
        value = self.value(rounds)
        return "-" if value is None else f">= {value:.4g}"

    def met(self, ours, _theirs, _limit, rounds):
        value = self.value(rounds)
        return None if value is None else ours >= value


def _disk_ms(rounds, at):
    found = table.figures(rounds, lambda t: t["disk"]["write_and_fdatasync_us"][at] / 1e3)
    return statistics.median(found) if found else None


def _window_1(rounds):
    sync = _disk_ms(rounds, "p50")
    return None if sync is None else 0.8 / (sync + 0.3)


def _latency_p99(rounds):
    sync = _disk_ms(rounds, "p99")
    return None if sync is None else 2 * sync + 2


def _publishing_speed(rounds):
    found = table.figures(rounds, lambda t: t["publish"]["records_per_second"] / 1e3)
    return statistics.median(found) if found else None


# Workload's bar -> figure -> bar.
BARS = {
    "one-queue": {"consume": Ratio(9)},
    "quorum": {"consume": Ratio(8)},
    "publish-alone": {"publish": Ratio(15)},
    "ten-queues": {"consume": Ratio(10)},
    "1-kib": {"consume": Ratio(6)},
    "transient": {"consume": Ratio(7)},
    "window-1": {"publish": Least(_window_1)},
    "latency": {"p99": Most(_latency_p99)},
    "backlog": {"slowdown": Most(10), "consume": Least(_publishing_speed), "memory": Most(200)},
    "idle-queues": {"memory": Most(300), "memory_again": Most(300), "ready": Most(2000)},
    "idle-connections": {"connection": Most(40)},
}


def _records(taken, mode):
    return taken[mode]["records"]


def _latency(at):
    return lambda t: t["consume"]["publish_to_deliver_us"][at] / 1e3


def rows(load):
    """Key, label and unit, how to find it, whether the client's ceiling has it."""
    memory = ("memory", "peak resident, MiB", lambda t: t["memory"]["rss_peak_bytes"] / MIB, False)
    if load["kind"] == "idle-queues":
        return [
            ("queues", "queues", lambda t: t["idle_queues"]["queues"], False),
            ("declare", "declared, k/s", lambda t: t["idle_queues"]["queues_per_second"] / 1e3, False),
            ("memory", "resident, MiB", lambda t: t["memory"]["rss_bytes"] / MIB, False),
            ("ready", "listens after its end, ms", lambda t: t["ready_seconds"] * 1e3, False),
            ("answered", "then all queues answer, ms", lambda t: t["all_answered_seconds"] * 1e3, False),
            ("memory_again", "resident then, MiB", lambda t: t["memory_again"]["rss_bytes"] / MIB, False),
        ]
    if load["kind"] == "idle-connections":
        return [
            ("open", "connections", lambda t: t["idle_connections"]["connections"], False),
            ("connection", "KiB a connection", lambda t: t["bytes_per_connection"] / 1024, False),
            ("memory", "resident, MiB", lambda t: t["memory"]["rss_bytes"] / MIB, False),
        ]
    paced = bool(load["flags"].get("rate"))
    return [
        ("publish", "publish, k/s", lambda t: t["publish"]["records_per_second"] / 1e3, True),
        ("consume", "publish and consume all, k/s" if load["flags"].get("mode") != "backlog" else "then drain, k/s",
         lambda t: t["consume"]["records_per_second"] / 1e3, True),
        *([("p50", "publish to deliver p50, ms", _latency("p50"), False),
           ("p99", "publish to deliver p99, ms", _latency("p99"), False),
           ("disk_p99", "bare write+sync p99, ms",
            lambda t: t["disk"]["write_and_fdatasync_us"]["p99"] / 1e3, False)] if paced else []),
        *([("disk_p50", "bare write+sync p50, ms",
            lambda t: t["disk"]["write_and_fdatasync_us"]["p50"] / 1e3, False)] if load.get("disk") else []),
        ("slowdown", "publishing slows by, %", lambda t: t["publish"]["growth"]["slowdown"] * 100, False),
        ("empty", "then empty after, s", lambda t: t["until_empty"]["seconds"], False),
        ("cpu", "broker CPU a message, us", lambda t: t["broker_cpu_seconds"] * 1e6 / _records(t, "publish"), False),
        ("written", "bytes written per byte", lambda t: t["written_bytes"] / t["publish"]["payload_bytes"], False),
        memory,
    ]


def _middle(values):
    return statistics.median(values) if values else None


def line(report, name, load, row):
    """The cells of a row, or None if nothing was measured."""
    key, label, pick, has_ceiling = row
    rounds = report["rounds"].get(name, {})
    ours, theirs = (table.figures(rounds.get(kind, []), pick) for kind in ("ferrymq", "rabbitmq"))
    if not ours and not theirs:
        return None
    limit = table.figures([report["ceiling"].get(name, {})], pick) if has_ceiling else []
    ratio, bar_told, verdict = "-", "", ""
    # The disk is the same beneath both.
    if ours and theirs and _middle(theirs) and not key.startswith("disk"):
        ratio = f"{_middle(ours) / _middle(theirs):.2f}"
    bar = BARS.get(load.get("bar"), {}).get(key)
    if bar:
        bar_told = bar.told(rounds.get("ferrymq", []))
        met = bar.met(_middle(ours), _middle(theirs), _middle(limit), rounds.get("ferrymq", [])) if ours else None
        verdict = {True: "met", False: "MISSED", None: "-"}[met] + (" (scaled)" if load.get("scaled") else "")
    return name, label, table.told(ours), table.told(theirs), ratio, table.told(limit), bar_told, verdict


def show(report):
    where = report["machine"]
    print(f"FerryMQ {where['commit']}{' (changed)' if where['changed'] else ''} beside {where['rival']}, {where['date']}")
    print(f"{where['cores']} cores of {where['cpu']}, {where['filesystem']}, kernel {where['kernel']}")
    print("Median (lowest to highest). Ratio: FerryMQ / RabbitMQ. A bar of N times RabbitMQ is met at "
          f"{CEILING_SHARE} of the client's ceiling too.\n")
    print(f"{'workload':22} {'figure':28} {'FerryMQ':>24} {'RabbitMQ':>24} {'ratio':>7} {'ceiling':>8} {'bar':>9}  verdict")
    for name, load in report["workloads"].items():
        for row in rows(load):
            cells = line(report, name, load, row)
            if cells:
                name_, label, ours, theirs, ratio, limit, bar, verdict = cells
                print(f"{name_:22} {label:28} {ours:>24} {theirs:>24} {ratio:>7} {limit:>8} {bar:>9}  {verdict}".rstrip())
    for name, of_kind in report["rounds"].items():
        for kind, taken in of_kind.items():
            for found in taken:
                if "error" in found:
                    print(f"failed: {kind} {name}: {found['error']}")
