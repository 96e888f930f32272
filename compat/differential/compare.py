"""Plays one script against both brokers in lockstep and says where they first differ."""

import itertools
import json
import time

import differences
from player import Player

# How long what differs may still become the same, in seconds.
PATIENCE = 3.0
PREFIXES = itertools.count(1)
SHORT_MS = 500


class Tally:
    """How much was compared; a run that compared too little proves nothing."""

    def __init__(self):
        self.sequences = self.steps = self.succeeded = self.refused = 0
        self.deliveries = self.returns = self.confirms = self.nacks = self.dead_letters = 0
        self.known = {}

    def add(self, summary):
        self.steps += 1
        for events in summary["control"].values():
            for event in events:
                if event[0] in ("channel.close", "connection.close"):
                    self.refused += 1
                elif event[0] == "basic.return":
                    self.returns += 1
                else:
                    self.succeeded += event[0] not in ("nothing outstanding", "no answer")
                    self.deliveries += event[0] == "basic.get-ok"
        self.deliveries += sum(map(len, summary["deliver"].values()))
        for confirms in summary["confirm"].values():
            self.confirms += sum(name == "basic.ack" for name in confirms.values())
            self.nacks += sum(name == "basic.nack" for name in confirms.values())
        self.dead_letters += json.dumps(summary).count('"x-death"')

    def __str__(self):
        return (
            f"{self.sequences} sequences, {self.steps} steps, {self.succeeded} answers, {self.refused} refusals, "
            f"{self.deliveries} deliveries, {self.dead_letters} with deaths, {self.returns} returns, "
            f"{self.confirms} acks and {self.nacks} nacks of publishes"
        )


class Difference:
    """Where the brokers went apart."""

    def __init__(self, index, step, theirs, ours):
        self.index, self.step = index, step
        self.parts = {kind: (theirs.get(kind), ours.get(kind)) for kind in ours if theirs.get(kind) != ours.get(kind)}

    def key(self):
        """What a smaller script must still show: the same method differs in the same kind of thing."""
        kinds = set(self.parts)
        for side in self.parts.get("control", ()):
            for events in side.values():
                kinds.update(event[0] for event in events)
        return self.step[1], frozenset(kinds)

    def __str__(self):
        lines = []
        for kind, (theirs, ours) in self.parts.items():
            for where in sorted({*theirs, *ours}) if isinstance(ours, dict) else [""]:
                one, other = (theirs.get(where), ours.get(where)) if where else (theirs, ours)
                if one != other:
                    lines += [f"  {kind} {where}", f"    RabbitMQ: {one}", f"    FerryMQ:  {other}"]
        return "\n".join(lines)


def short_ms(step):
    """The longest time of a step that is to run out while we look on."""
    found = [0]

    def look(value):
        if isinstance(value, dict):
            for name, inner in value.items():
                number = inner
                if name == "expiration" and isinstance(inner, str) and inner.isdecimal():
                    number = int(inner)
                if name in ("expiration", "x-message-ttl") and isinstance(number, int) and 0 < number <= SHORT_MS:
                    found.append(number)
                look(inner)

    look(step[2])
    return max(found)


class Pair:
    """Both brokers, for one script."""

    def __init__(self, addresses, break_with=None, patience=PATIENCE):
        self.patience, self.quiet = patience, 0.0
        self.facts = differences.Facts()
        prefix = f"d{next(PREFIXES)}-"
        self.players = [Player(addresses[0], prefix), Player(addresses[1], prefix, break_with)]

    def step(self, step):
        self.quiet = max(self.quiet, short_ms(step) * 1.5 / 1000 + (0.02 if short_ms(step) else 0))
        self.facts.learn(step)
        for player in self.players:
            player.begin(step)
        for player in self.players:
            player.finish()
        return self.settle(step)

    def settle(self, step):
        """Waits until both are still and the same, or until it is too late for that."""
        deadline = time.monotonic() + self.patience
        while True:
            now = time.monotonic()
            for player in self.players:
                player.round()
            still = all(player.changed_at < now - self.need_quiet(player) for player in self.players)
            known = set()
            theirs, ours = differences.normalised(step, *(player.summary() for player in self.players), known, self.facts)
            waiting = any(player.unconfirmed() for player in self.players)
            if still and not waiting and theirs == ours:
                return theirs, ours, known
            if now > deadline + self.quiet:
                return theirs, ours, known
            if still:
                # The answer to come is on its way through another process: leave it the core.
                time.sleep(0.002)

    def need_quiet(self, player):
        return self.quiet if player.held else 0.0

    def end(self):
        for player in self.players:
            player.end()


def play(addresses, script, tally=None, break_with=None, patience=PATIENCE):
    """The first difference, or None."""
    pair = Pair(addresses, break_with, patience)
    tally = tally or Tally()
    tally.sequences += 1
    try:
        for index, step in enumerate(script):
            theirs, ours, known = pair.step(step)
            for name in known:
                tally.known[name] = tally.known.get(name, 0) + 1
            # What the protocol promises is not compared: RabbitMQ need not keep it.
            ours["broken"] = pair.players[1].broken
            theirs["broken"] = []
            for side, player in zip((theirs, ours), pair.players):
                side["unconfirmed"] = player.unconfirmed()
            if theirs != ours or theirs["unconfirmed"]:
                return Difference(index, step, theirs, ours)
            tally.add(ours)
            if any(name in differences.ENDS for name in known):
                return None
        return None
    finally:
        pair.end()
