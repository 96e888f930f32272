"""The table of a run."""

import contextlib
import statistics

MIB = 1 << 20


def figures(rounds, pick):
    found = []
    for taken in rounds:
        with contextlib.suppress(KeyError, TypeError, ZeroDivisionError):
            found.append(pick(taken))
    return [value for value in found if value is not None]


def cpu_per_gigabyte(taken):
    """Written once and read once."""
    return sum(taken[mode]["broker_cpu_seconds"] / (taken[mode]["payload_bytes"] / 1e9) for mode in ("produce", "consume"))


def bare_at_a_pace(taken, at):
    """Before and after the server, the mean of both."""
    return statistics.fmean(found["due_to_synced_us"][at] for found in taken["disk_at_a_pace"]) / 1e3


def percentiles(what):
    return [(f"{what.split('_')[0]} {at}, ms", lambda t, at=at: t["latency"][what][at] / 1e3, False)
            for at in ("p50", "p99", "p99.9")]


def rows(kind):
    """What is shown of a workload: label and unit, how to find it, whether the client has a ceiling for it."""
    memory = ("peak resident, MiB", lambda t: t["memory"]["rss_peak_bytes"] / MIB, False)
    if kind == "throughput":
        return [
            ("produce, k/s", lambda t: t["produce"]["records_per_second"] / 1e3, True),
            ("consume, k/s", lambda t: t["consume"]["records_per_second"] / 1e3, True),
            ("acknowledged p99, ms", lambda t: t["produce"]["ack_latency_us"]["p99"] / 1e3, False),
            ("broker CPU per GB in and out, s", cpu_per_gigabyte, False),
            ("bytes written per byte", lambda t: t["written_bytes"] / t["produce"]["payload_bytes"], False),
            memory,
        ]
    if kind == "latency":
        return [*percentiles("end_to_end_us"),
                ("bare write+sync p50, ms", lambda t: t["disk"]["write_and_fdatasync_us"]["p50"] / 1e3, False),
                ("bare write+sync p99, ms", lambda t: t["disk"]["write_and_fdatasync_us"]["p99"] / 1e3, False),
                *[(f"bare, at this pace {at}, ms", lambda t, at=at: bare_at_a_pace(t, at), False)
                  for at in ("p50", "p99", "p99.9")],
                memory]
    if kind == "beside":
        return [*percentiles("end_to_end_us"),
                ("beside it, k/s", lambda t: t["saturated"]["records_per_second"] / 1e3, False)]
    return [
        ("resident, MiB", lambda t: t["memory"]["rss_bytes"] / MIB, False),
        ("listens, empty, ms", lambda t: t["empty_listening_seconds"] * 1e3, False),
        ("listens after kill -9, ms", lambda t: t["listening_seconds"] * 1e3, False),
        ("all partitions wrote, ms", lambda t: t["every_partition_wrote_seconds"] * 1e3, False),
        ("all partitions read, ms", lambda t: t["every_partition_read_seconds"] * 1e3, False),
    ]


def told(values):
    if not values:
        return "-"
    middle = statistics.median(values)
    digits = 0 if middle >= 100 else 1 if middle >= 10 else 2
    text = f"{middle:.{digits}f}"
    return text if len(values) == 1 else f"{text} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def show(report):
    where = report["machine"]
    print(f"FerryMQ {where['commit']}{' (changed)' if where['changed'] else ''} beside Apache Kafka, {where['date']}")
    print(f"{where['cores']} cores of {where['cpu']}, {where['filesystem']}, kernel {where['kernel']}")
    print("FerryMQ syncs before each acknowledgement (workloads named -os do not), Kafka does not.")
    print("Median (lowest to highest). Ratio: FerryMQ / Kafka.\n")
    print(f"{'workload':22} {'figure':34} {'FerryMQ':>24} {'Kafka':>24} {'ratio':>7} {'ceiling':>9}")
    for name, load in report["workloads"].items():
        for label, pick, has_ceiling in rows(load["kind"]):
            ours, theirs = (figures(report["rounds"].get(name, {}).get(kind, []), pick) for kind in ("ferrymq", "kafka"))
            if not ours and not theirs:
                continue
            ratio = "-"
            if ours and theirs and statistics.median(theirs):
                ratio = f"{statistics.median(ours) / statistics.median(theirs):.2f}"
            limit = figures([report["ceiling"].get(name, {})], pick) if has_ceiling else []
            print(f"{name:22} {label:34} {told(ours):>24} {told(theirs):>24} {ratio:>7} {told(limit):>9}")
    for name, of_kind in report["rounds"].items():
        for kind, taken in of_kind.items():
            for found in taken:
                if "error" in found:
                    print(f"failed: {kind} {name}: {found['error']}")
