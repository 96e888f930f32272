"""Replays scripts against RabbitMQ and FerryMQ and compares what a client sees. `run --help` says how."""

import argparse
import pathlib
import random
import sys
import time

import breaks
import differences
import generate
from compare import Tally, play
from shrink import shrink
from wire import format_step, parse_step

HERE = pathlib.Path(__file__).parent
THEMES = sorted(generate.THEMES)
# Of each sequence, at least; a run that compares less proves nothing.
LEAST = {"succeeded": 8.0, "deliveries": 1.5, "confirms": 1.0, "returns": 0.2, "refused": 0.3, "dead_letters": 0.1}


def read(path):
    lines = (line.strip() for line in pathlib.Path(path).read_text().splitlines())
    return [parse_step(line) for line in lines if line and not line.startswith("#")]


def report(name, script, difference):
    print(f"FAILED {name}: step {difference.index + 1} of {len(script)}, {format_step(difference.step)}")
    print(difference, flush=True)


class Run:
    def __init__(self, options):
        self.options = options
        self.addresses = (options.rabbitmq, options.ferrymq)
        self.break_with = breaks.BREAKS[options.break_with]() if options.break_with else None
        self.tally = Tally()
        self.failures = []

    def play(self, script, tally=None, **settings):
        return play(self.addresses, script, tally, self.break_with, **settings)

    def corpus(self):
        """The scripts that are kept; those of a known difference must show it."""
        for path in sorted((HERE / "corpus").glob("*.txt")):
            before = dict(self.tally.known)
            difference = self.play(read(path), self.tally)
            wanted = differences.wanted(path.stem)
            if difference:
                report(path.name, read(path), difference)
                self.failures.append(path.name)
            elif wanted and self.tally.known.get(wanted, 0) == before.get(wanted, 0):
                print(f"FAILED {path.name}: the difference {wanted} is not seen; is it gone?")
                self.failures.append(path.name)
        missing = differences.names() - {differences.wanted(path.stem) for path in (HERE / "corpus").glob("*.txt")}
        if missing:
            print(f"FAILED differences without a script that shows them: {sorted(missing)}")
            self.failures += sorted(missing)

    def sequences(self):
        """Random ones until the number or the time is used up."""
        options, end = self.options, time.monotonic() + self.options.seconds
        for number in range(options.sequences):
            late = time.monotonic() > end and number >= options.least
            if late or len(self.failures) >= options.failures:
                break
            seed = f"{options.seed}/{number}"
            script = generate.script(seed, options.length, options.theme or THEMES[number % len(THEMES)])
            difference = self.play(script, self.tally)
            if difference:
                self.failures.append(seed)
                report(f"seed {seed}", script, difference)
                self.shrunk(seed, script, difference)

    def shrunk(self, seed, script, difference):
        key = difference.key()

        def shows(candidate):
            found = self.play(candidate, patience=0.7)
            return found is not None and found.key() == key

        if not shows(script):
            print("  it was not seen again; the whole script:")
            small = script
        else:
            small = shrink(script, shows, self.options.shrink)
            print(f"  {len(small)} of {len(script)} steps show it:")
        text = "\n".join(map(format_step, small))
        print(text, flush=True)
        if self.options.save:
            folder = pathlib.Path(self.options.save)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{seed.replace('/', '-')}.txt").write_text(f"# {difference}\n".replace("\n", "\n# ") + "\n" + text + "\n")

    def self_test(self):
        """Whether each way of being wrong is noticed, within as many sequences as a short run has."""
        for name, make in sorted(breaks.BREAKS.items()):
            self.break_with = make()
            for number in range(self.options.least):
                script = generate.script(f"self/{number}", theme=THEMES[number % len(THEMES)])
                difference = self.play(script, self.tally, patience=0.5)
                if difference:
                    print(f"{name}: noticed in sequence {number + 1}, {format_step(difference.step)}", flush=True)
                    break
            else:
                print(f"FAILED {name}: not noticed")
                self.failures.append(name)

    def enough(self):
        """Whether what was compared is worth the name."""
        if self.options.theme:
            return
        for name, least in LEAST.items():
            count = getattr(self.tally, name)
            if count < least * self.tally.sequences:
                print(f"FAILED only {count} {name} in {self.tally.sequences} sequences: too little was compared")
                self.failures.append(name)


def arguments():
    parser = argparse.ArgumentParser(prog="compat/differential/run", description=__doc__)
    parser.add_argument("rabbitmq", metavar="RABBITMQ")
    parser.add_argument("ferrymq", metavar="FERRYMQ")
    parser.add_argument("--seed", default=str(random.SystemRandom().randrange(10**9)))
    parser.add_argument("--sequences", type=int, default=1_000_000, help="how many at most")
    parser.add_argument("--seconds", type=float, default=60.0, help="for how long random sequences are begun")
    parser.add_argument("--least", type=int, default=36, help="so many however long they take")
    parser.add_argument("--length", type=int, help="steps of a sequence (12 to 40)")
    parser.add_argument("--theme", choices=THEMES)
    parser.add_argument("--script", action="append", help="replay this script and nothing else")
    parser.add_argument("--no-corpus", action="store_true")
    parser.add_argument("--self-test", action="store_true", help="is each way of --break noticed?")
    parser.add_argument("--failures", type=int, default=3, help="stop after so many")
    parser.add_argument("--shrink", type=float, default=30.0, help="seconds to make a failing script smaller")
    parser.add_argument("--save", help="write failing scripts into this folder")
    parser.add_argument("--break", dest="break_with", choices=sorted(breaks.BREAKS), help="make FerryMQ seem to fail")
    return parser.parse_args()


def main():
    options = arguments()
    run = Run(options)
    if options.self_test:
        run.self_test()
    elif options.script:
        for path in options.script:
            script = read(path)
            difference = run.play(script, run.tally)
            if difference:
                report(path, script, difference)
                run.failures.append(path)
    else:
        if not options.no_corpus:
            run.corpus()
        run.sequences()
        run.enough()
    print(f"seed {options.seed}: {run.tally}")
    known = ", ".join(f"{name} {count}" for name, count in sorted(run.tally.known.items()))
    print(f"known differences seen: {known or 'none'}")
    print(f"{run.tally.sequences - len(run.failures)} passed, {len(run.failures)} failed")
    return 1 if run.failures else 0


if __name__ == "__main__":
    sys.exit(main())
