"""Plays a script against one broker, a step at a time, and says what a client saw of each.

A step is over when a barrier says so, not when time has passed: every queue is asked for its counts by a passive
declare and every channel for an answer, until two rounds in a row bring nothing new. What is compared leaves out
what the protocol leaves open: the order between consumers, and between deliveries, confirms and answers.
"""

import re
import time

from wire import METHODS, Connection

PROBE = 99
NAME = re.compile(r"(?<![\w.])[qx]\d+(?![\w.])")
# Names that the server makes.
MADE = re.compile(r"amq\.(?:gen|ctag)-[\w-]+")


class Channel:
    def __init__(self):
        self.confirming = False
        self.published = 0
        self.confirmed = 0
        self.last_tag = 0
        # [tag, where from, number of the step]
        self.outstanding = []
        self.in_tx = None
        self.no_ack = {}
        # Of publishes with confirms: what was answered, and the bodies that have no answer yet.
        self.settled = set()
        self.bodies = {}


class Player:
    """One broker's side of a script."""

    def __init__(self, address, prefix, break_with=None):
        self.address, self.prefix, self.break_with = address, prefix, break_with
        self.connections, self.channels = {}, {}
        self.owners, self.made, self.counts = {}, {}, {}
        self.step, self.seen, self.broken, self.held = 0, {}, [], False
        self.waiting = self.touched = None
        self.changed_at = time.monotonic()

    # Names.

    def to_wire(self, value):
        """Names of a script as they are on the wire: this run's own."""
        if isinstance(value, dict):
            return {name: self.to_wire(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [self.to_wire(inner) for inner in value]
        if not isinstance(value, str):
            return value
        if value.startswith("$"):
            return next((real for real, alias in self.made.items() if alias == value), value)
        return NAME.sub(lambda found: self.prefix + found[0], value)

    def to_script(self, value):
        if isinstance(value, dict):
            return {name: self.to_script(inner) for name, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.to_script(inner) for inner in value]
        if isinstance(value, bytes):
            return value.decode("utf-8", "surrogateescape")
        if not isinstance(value, str):
            return value
        return MADE.sub(self._alias, value.replace(self.prefix, ""))

    def _alias(self, found):
        kind = "c" if found[0].startswith("amq.ctag") else "s"
        count = sum(alias.startswith("$" + kind) for alias in self.made.values())
        return self.made.setdefault(found[0], f"${kind}{count + 1}")

    # Connections and channels.

    def connection(self, number):
        connection = self.connections.get(number)
        if connection is None or connection.gone:
            connection = self.connections[number] = Connection(self.address).open()
            connection.cursor = 0
            connection.closing = False
            for key in [key for key in self.channels if key[0] == number]:
                del self.channels[key]
            self._open(connection, PROBE)
        return connection

    def _open(self, connection, number):
        start = len(connection.events)
        connection.send(number, "channel.open", {})
        answer = connection.wait(lambda event: event[0] == number and event[1] == "channel.open-ok", start=start)
        assert answer or connection.gone, f"no channel.open-ok for {number}"

    def channel(self, where):
        number, channel = map(int, where.split("."))
        connection = self.connection(number)
        if (number, channel) not in self.channels:
            self._open(connection, channel)
            self.channels[number, channel] = Channel()
        return connection, self.channels[number, channel], channel

    # Steps.

    def begin(self, step):
        """Sends a step."""
        where, method, values = step
        self.step += 1
        self.seen = {"control": {}, "deliver": {}, "confirm": {}, "cancel": {}}
        self.waiting = None
        self.changed_at = time.monotonic()
        self.held = False
        values = self.to_wire(values)
        self.touched = values.get("queue")
        if method == "drop":
            self._drop(int(where))
        elif method == "close" and "." not in where:
            self._close_connection(int(where))
        elif method == "pause":
            time.sleep(values["ms"] / 1000)
        else:
            self._send(where, method, values)

    def _drop(self, number):
        if number in self.connections:
            self.connections[number].close()
            self._forget(number)

    def _close_connection(self, number):
        connection = self.connections.get(number)
        if connection is None or connection.gone:
            return
        self._collect(connection)
        connection.send(0, "connection.close", {"code": 200})
        connection.wait(lambda event: event[1] == "connection.close-ok", start=connection.cursor)
        connection.close()
        self._forget(number)

    def _forget(self, number):
        for key in [key for key in self.channels if key[0] == number]:
            del self.channels[key]

    def _send(self, where, method, values):
        connection, channel, number = self.channel(where)
        if method == "publish":
            self._publish(connection, channel, number, values)
            return
        if method == "close":
            method, values = "channel.close", {"code": 200}
        if "delivery_tag" in values:
            values = {**values, "delivery_tag": self._tag(channel, values, method)}
            if values["delivery_tag"] is None:
                self._control(where, ["nothing outstanding", {}])
                return
        if method in ("basic.recover", "basic.recover-async"):
            channel.outstanding.clear()
        if method == "queue.declare" and values.get("queue"):
            self.owners.setdefault(values["queue"], connection)
            self.counts.setdefault(values["queue"], None)
        answer = METHODS[method][3] if not values.get("nowait") else None
        if method == "basic.consume" and not answer:
            channel.no_ack[values["consumer_tag"]] = values.get("no_ack", False)
        elif method == "confirm.select" and not answer:
            # On a channel with transactions it is refused, and the channel is closed.
            channel.confirming = channel.in_tx is None
        if answer:
            self.waiting = (connection, number, answer, method, values)
        connection.send(number, method, values)

    def _publish(self, connection, channel, number, values):
        values = dict(values)
        count, body = values.pop("count", 1), values.pop("body", "")
        properties = values.pop("properties", {})
        raw = b""
        for index in range(count):
            text = f"{body}.{index}" if count > 1 else body
            raw += connection.encode(number, "basic.publish", values, properties, text.encode())
            if channel.confirming:
                channel.published += 1
                channel.bodies[text] = channel.published
        connection.write(raw)

    def _tag(self, channel, values, method):
        """`#K`: the Kth of what is outstanding, by where it came from. With `multiple`, all of that one's step too."""
        wanted = values["delivery_tag"]
        if not isinstance(wanted, str):
            return wanted
        order = sorted(channel.outstanding, key=lambda entry: (entry[1], entry[0]))
        if not order:
            return None
        tag, _, step = order[int(wanted[1:]) % len(order)]
        taken = [[tag, *rest] for found, *rest in channel.outstanding if found == tag]
        if values.get("multiple"):
            tag = max(found for found, _, when in channel.outstanding if when == step)
            taken = [entry for entry in channel.outstanding if entry[0] <= tag]
        channel.outstanding = [entry for entry in channel.outstanding if entry not in taken]
        if channel.in_tx is not None:
            channel.in_tx += taken
        return tag

    def finish(self, seconds=10.0):
        """Waits for the step's answer, if it has one."""
        if not self.waiting:
            return
        connection, number, answer, method, values = self.waiting
        ends = {answer, "basic.get-empty"} if method == "basic.get" else {answer}

        def is_end(event):
            own = event[0] == number and (event[1] in ends or event[1] == "channel.close")
            return own or event[1] == "connection.close"

        found = connection.wait(is_end, seconds, connection.cursor)
        self._collect(connection)
        if found is None:
            self._control(f"{self._number(connection)}.{number}", ["no answer", {"gone": connection.gone}])
        elif found[1] in ends:
            self._answered(connection, number, method, values, found)

    def _number(self, connection):
        return next(number for number, known in self.connections.items() if known is connection)

    def _answered(self, connection, number, method, values, found):
        key = (self._number(connection), number)
        channel = self.channels.get(key)
        if method == "channel.close":
            self.channels.pop(key, None)
        elif channel is None:
            return
        elif method == "confirm.select":
            channel.confirming = True
        elif method == "tx.select":
            channel.in_tx = channel.in_tx or []
        elif method == "tx.commit":
            channel.in_tx = []
        elif method == "tx.rollback":
            channel.outstanding = sorted(channel.outstanding + (channel.in_tx or []))
            channel.in_tx = []
        elif method == "queue.declare":
            name = found[2]["queue"]
            self.counts.setdefault(name, None)
            if not values.get("passive"):
                self.owners[name] = connection

    # What comes.

    def _control(self, where, event):
        self.seen["control"].setdefault(where, []).append(self.to_script(event))

    def _collect(self, connection):
        """Sorts what has come on a connection since the last time."""
        connection.pump(0)
        if connection not in self.connections.values():
            return
        number = self._number(connection)
        while connection.cursor < len(connection.events):
            event = connection.events[connection.cursor]
            connection.cursor += 1
            if event[0] == PROBE or event[1] in ("channel.flow-ok", "channel.open-ok"):
                continue
            self.changed_at = time.monotonic()
            self._take(connection, number, event)
        if connection.cursor > 4000:
            del connection.events[: connection.cursor]
            connection.cursor = 0

    def _take(self, connection, number, event):
        on, name, values, properties, body = event
        where = f"{number}.{on}"
        channel = self.channels.get((number, on))
        if self.break_with:
            event = self.break_with(event)
            if event is None:
                return
            on, name, values, properties, body = event
        if name == "connection.close":
            connection.send(0, "connection.close-ok", {})
            self._control(where, [name, values])
            self._forget(number)
            connection.close()
        elif name == "channel.close":
            connection.send(on, "channel.close-ok", {})
            self._control(where, [name, values])
            self.channels.pop((number, on), None)
        elif name in ("basic.deliver", "basic.get-ok"):
            self._delivered(where, channel, name, dict(values), properties, body)
        elif name in ("basic.ack", "basic.nack"):
            self._confirmed(where, channel, name, values)
        elif name == "basic.cancel":
            self.seen["cancel"].setdefault(where, []).append(self.to_script(values["consumer_tag"]))
        elif name == "basic.consume-ok":
            channel.no_ack[values["consumer_tag"]] = bool(self.waiting and self.waiting[4].get("no_ack"))
            self._control(where, [name, values])
        elif name == "basic.return":
            if channel and channel.bodies.get(body.decode()) in channel.settled:
                self.broken.append(f"{body.decode()} returned on {where} after its confirm")
            self._control(where, [name, values, properties, body])
        else:
            self._control(where, [name, values])

    def _delivered(self, where, channel, name, values, properties, body):
        tag = values.pop("delivery_tag")
        if channel is None:
            self.broken.append(f"a delivery on {where}, which is closed")
            return
        if tag != channel.last_tag + 1:
            self.broken.append(f"delivery tag {tag} after {channel.last_tag} on {where}")
        channel.last_tag = tag
        if name == "basic.deliver":
            source = values.pop("consumer_tag")
            shown = self.to_script(source)
            message = [values["redelivered"], values["exchange"], values["routing_key"], properties, body]
            self.seen["deliver"].setdefault(f"{where}/{shown}", []).append(self.to_script(message))
            if not channel.no_ack.get(source, False):
                channel.outstanding.append([tag, shown, self.step])
        else:
            self._control(where, [name, values, properties, body])
            if not (self.waiting and self.waiting[4].get("no_ack")):
                channel.outstanding.append([tag, "get", self.step])

    def _confirmed(self, where, channel, name, values):
        if channel is None or not channel.confirming:
            self.broken.append(f"a confirm on {where}, which has none")
            return
        confirms = self.seen["confirm"].setdefault(where, {})
        until = values["delivery_tag"]
        settled = channel.settled
        first = min(set(range(1, until + 1)) - settled, default=until) if values.get("multiple") else until
        for tag in range(first, until + 1):
            if tag in settled:
                if not values.get("multiple"):
                    self.broken.append(f"{tag} confirmed twice on {where}")
                continue
            settled.add(tag)
            channel.confirmed += 1
            confirms[tag] = name

    # The barrier.

    def round(self):
        """Asks every queue and every channel something, and collects what has come."""
        for connection in list(self.connections.values()):
            self._collect(connection)
        self._probe_queues()
        flows = []
        for (number, channel), _ in list(self.channels.items()):
            connection = self.connections[number]
            flows.append((connection, channel, len(connection.events)))
            connection.send(channel, "channel.flow", {"active": True})
        for connection, channel, start in flows:
            connection.wait(
                lambda event, channel=channel: (
                    (event[0] == channel and event[1] in ("channel.flow-ok", "channel.close"))
                    or event[1] == "connection.close"
                ),
                start=start,
            )
        for connection in list(self.connections.values()):
            self._collect(connection)

    def _probe_queues(self):
        for name in list(self.counts):
            if self.counts[name] == "gone" and name != self.touched:
                continue
            count = self._probe(name)
            # Whether something was there, if only on its way somewhere else.
            self.held |= any(isinstance(one, list) and one[0] > 0 for one in (count, self.counts.get(name)))
            if count is not None and count != self.counts.get(name):
                self.counts[name] = count
                self.changed_at = time.monotonic()

    def _probe(self, name):
        owner = self.owners.get(name)
        tried = [owner] if owner and not owner.gone and owner in self.connections.values() else []
        tried += [one for one in self.connections.values() if not one.gone and one not in tried]
        if not tried:
            tried = [self.connection(1)]
        connection = tried[0]
        start = len(connection.events)
        connection.send(PROBE, "queue.declare", {"queue": name, "passive": True})

        def is_end(event):
            return event[0] == PROBE and event[1] in ("queue.declare-ok", "channel.close")

        found = connection.wait(lambda event: is_end(event) or event[1] == "connection.close", start=start)
        if found is None or found[1] == "connection.close":
            return None
        if found[1] == "queue.declare-ok":
            return [found[2]["messages"], found[2]["consumers"]]
        connection.send(PROBE, "channel.close-ok", {})
        self._open(connection, PROBE)
        return {404: "gone", 405: "locked"}.get(found[2]["code"], found[2]["text"])

    def unconfirmed(self):
        return sum(channel.published - channel.confirmed for channel in self.channels.values() if channel.confirming)

    def summary(self):
        """What is compared: events of this step and how the queues stand."""
        queues = {self.to_script(name): count for name, count in self.counts.items()}
        return {
            **{kind: dict(sorted(self.seen[kind].items())) for kind in ("control", "deliver", "confirm")},
            "cancel": {where: sorted(tags) for where, tags in sorted(self.seen["cancel"].items())},
            "queues": dict(sorted(queues.items())),
        }

    def end(self):
        """Takes everything away again."""
        for number in list(self.connections):
            self._close_connection(number)
        connection = Connection(self.address).open()
        connection.cursor = 0
        self._open(connection, 1)
        for name in {*self.counts, *(self.prefix + f"q{number}" for number in range(1, 9))}:
            self._remove(connection, "queue.delete", {"queue": name})
        for number in range(1, 9):
            self._remove(connection, "exchange.delete", {"exchange": f"{self.prefix}x{number}"})
        connection.send(0, "connection.close", {"code": 200})
        connection.wait(lambda event: event[1] == "connection.close-ok")
        connection.close()

    def _remove(self, connection, method, values):
        connection.send(1, method, values)
        found = connection.wait(lambda event: event[1] in (METHODS[method][3], "channel.close"))
        connection.events.clear()
        if found and found[1] == "channel.close":
            connection.send(1, "channel.close-ok", {})
            self._open(connection, 1)
