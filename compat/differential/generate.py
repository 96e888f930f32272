"""Random scripts: what clients do, mostly right and sometimes wrong, from a seed.

A script keeps to a theme, so that its few steps meet each other. The generator remembers only what it asked
for, never what came of it: a broker may have refused any of it.

Deliberately absent: what `differences.py` says cannot be compared, and times that run out by themselves other
than short ones that the player waits for.
"""

import random

SHORT_TTL = 20
LONG_TTL = 600_000
KINDS = ["direct", "fanout", "topic", "headers"]
KEYS = ["a", "b", "a.b", "a.b.c", "b.c", "", "q1", "q2"]
PATTERNS = ["a", "b", "a.b", "a.*", "#", "*.b.#", "#.c", "*", "", "a.#.c"]
THEMES = {
    "routing": {"declare_exchange": 5, "declare_queue": 3, "bind": 9, "publish": 12, "unbind": 3, "exchange_bind": 4,
                "get": 3, "delete_exchange": 2, "delete_queue": 1, "exchange_unbind": 1},
    "settling": {"publish": 8, "consume": 4, "get": 4, "settle": 14, "qos": 3, "recover": 2, "cancel": 2,
                 "close": 2, "purge": 1},
    "letters": {"publish": 10, "consume": 2, "get": 8, "settle": 12, "bind": 1, "purge": 1, "declare_queue": 1},
    "limits": {"declare_queue": 3, "publish": 12, "get": 4, "consume": 2, "settle": 6, "confirm": 2, "purge": 1},
    "time": {"declare_queue": 3, "publish": 10, "get": 3, "consume": 2, "settle": 4, "qos": 1},
    "tx": {"publish": 9, "tx": 9, "get": 4, "consume": 2, "settle": 7, "recover": 1, "close": 1, "confirm": 1},
    "declaring": {"declare_queue": 10, "declare_exchange": 8, "bind": 4, "unbind": 3, "delete_queue": 4,
                  "delete_exchange": 4, "exchange_bind": 3, "exchange_unbind": 2, "passive": 5, "publish": 3,
                  "consume": 2, "cancel": 1, "close": 2, "purge": 2},
    "consumers": {"consume": 8, "publish": 10, "settle": 7, "cancel": 4, "qos": 2, "close": 2, "delete_queue": 1,
                  "get": 1, "drop": 1},
    "priorities": {"publish": 10, "consume": 2, "get": 6, "settle": 8, "qos": 1, "cancel": 1, "recover": 1, "purge": 1,
                   "close": 1, "declare_queue": 1},
    "quorum": {"publish": 8, "consume": 3, "get": 4, "settle": 9, "purge": 1, "cancel": 1, "declare_queue": 1},
}  # fmt: skip


class Writer:
    """Writes one script."""

    def __init__(self, seed, theme=None):
        self.random = random.Random(seed)
        self.theme = theme or self.random.choice(sorted(THEMES))
        self.steps, self.messages = [], 0
        self.queues, self.exchanges, self.tags, self.made = [], [], [], 0
        self.bindings = []
        # Two thirds of all scripts are of one connection and few channels.
        self.channels = self.random.choice([["1.1"], ["1.1"], ["1.1", "1.2"], ["1.1", "1.2", "2.1"]])
        # Queues that refuse, or dead letters: see `differences.AVOIDED`.
        self.refusing = self.theme != "letters" and self.chance(0.5)
        # Channels that may have something to settle, and queues that may hold something.
        self.takers, self.filled = [], []

    def chance(self, of):
        return self.random.random() < of

    def pick(self, things):
        return self.random.choice(things)

    def put(self, where, method, **values):
        # What the server is to name has to be told.
        if method in UNANSWERED and values.get(UNANSWERED[method], True) and self.chance(0.08):
            values["nowait"] = True
        self.steps.append((where, method, {name: value for name, value in values.items() if value not in (None, False)}))

    def where(self):
        return self.pick(self.channels)

    def queue(self):
        if self.chance(0.02):
            return "q8"
        if self.made and self.chance(0.15):
            return f"$s{self.random.randint(1, self.made)}"
        return self.pick(self.queues or ["q1"])

    def source(self):
        """A queue to take from."""
        return self.pick(self.filled) if self.filled and self.chance(0.75) else self.queue()

    def exchange(self):
        if self.chance(0.02):
            return "x8"
        standard = ["", "amq.direct", "amq.fanout", "amq.topic", "amq.headers"]
        return self.pick(self.exchanges * 3 + standard)

    def write(self, length):
        self.prepare()
        weights = THEMES[self.theme]
        while len(self.steps) < length:
            (what,) = self.random.choices(list(weights), list(weights.values()))
            getattr(self, what)()
        return self.steps

    def prepare(self):
        if self.theme == "letters":
            self.chain()
        for _ in range(0 if self.theme == "letters" else self.random.randint(1, 3)):
            self.declare_queue()
        if self.theme == "routing" or self.chance(0.3):
            self.declare_exchange()
            self.bind()
        if self.theme == "tx":
            self.put("1.1", "tx.select")
        elif self.chance(0.6):
            self.confirm(self.pick(self.channels))

    def chain(self):
        """Queues whose dead letters go to the next, or there and back."""
        round_trip = self.chance(0.2)
        for name, following in (("q1", "q2"), ("q2", "q1" if round_trip else "q3"), ("q3", None)):
            arguments = {}
            if following and self.chance(0.9):
                arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": following}
            if self.chance(0.25):
                arguments["x-message-ttl"] = self.pick([0, SHORT_TTL])
            if self.chance(0.25) and not round_trip:
                arguments["x-max-length"] = self.pick([1, 2])
            if name == "q1" and len(arguments) < 3:
                limits = [] if round_trip else [{"x-max-length": 0}, {"x-max-length": 1}]
                arguments |= self.pick([{"x-message-ttl": 0}, *limits])
            self.put("1.1", "queue.declare", queue=name, arguments=arguments or None, durable=self.chance(0.5))
            self.queues.append(name)
            # Letters are to be looked at more than what became none.
            self.filled += [name] if name == "q1" else [name] * 4

    # What is declared.

    def declare_queue(self):
        name = f"q{self.random.randint(1, 4)}"
        again = [step for step in self.steps if step[1] == "queue.declare" and step[2].get("queue") == name]
        if again and self.chance(0.75):
            # Most that declare a queue twice mean the same.
            self.put(self.where(), "queue.declare", **self.pick(again)[2])
            return
        arguments = self.arguments(name)
        few = 0.1 if self.theme in ("declaring", "routing") else 0.03
        flags = {"durable": self.chance(0.5), "exclusive": self.chance(few), "auto_delete": self.chance(few)}
        if self.theme == "quorum" and name != "q4":
            # Without a limit 3.10 puts what comes back behind the others; 4.3, where 20 is the default, in front.
            arguments |= {"x-queue-type": "quorum", "x-delivery-limit": 20}
            if arguments.get("x-overflow") == "reject-publish":
                del arguments["x-overflow"]
            flags = {"durable": True}
        if self.chance(0.06) and self.theme != "quorum":
            self.made += 1
            if arguments.get("x-queue-type") != "classic":
                arguments.pop("x-queue-type", None)
            self.put(self.where(), "queue.declare", arguments=arguments or None, **flags)
            return
        self.put(self.where(), "queue.declare", queue=name, arguments=arguments or None, **flags)
        if name not in self.queues:
            self.queues.append(name)

    def arguments(self, name):
        """Of a queue."""
        found = {}
        if self.theme in ("letters", "limits") or self.chance(0.1):
            if self.chance(0.7):
                found["x-dead-letter-exchange"] = self.pick(["", "", *self.exchanges, "amq.fanout", "x8"])
                if self.chance(0.6) or found["x-dead-letter-exchange"] == "":
                    found["x-dead-letter-routing-key"] = self.pick(["q1", "q2", "q3", "a.b"])
        if self.theme == "limits" or self.chance(0.08):
            if self.chance(0.7):
                found["x-max-length"] = self.pick([0, 1, 2, 3])
            if self.chance(0.3):
                found["x-max-length-bytes"] = self.pick([0, 5, 10])
            if self.chance(0.5):
                found["x-overflow"] = self.pick(["drop-head", "reject-publish"])
        if self.theme == "time" or self.chance(0.04) and self.theme != "priorities":
            if self.chance(0.6):
                found["x-message-ttl"] = self.pick([0, SHORT_TTL, SHORT_TTL, LONG_TTL])
        if self.theme == "priorities" and self.chance(0.85):
            found["x-max-priority"] = self.pick([1, 2, 5, 10])
        if self.theme == "consumers" and self.chance(0.25):
            found["x-single-active-consumer"] = True
        if self.chance(0.04 if self.theme != "declaring" else 0.3):
            wrong, value = self.pick(WRONG_ARGUMENTS)
            found[wrong] = value
        for letters in ["x-dead-letter-exchange", "x-dead-letter-routing-key"] if self.refusing else []:
            found.pop(letters, None)
        if not self.refusing and found.get("x-overflow") == "reject-publish":
            del found["x-overflow"]
        if 0 in (found.get("x-max-length"), found.get("x-max-length-bytes")) and found.get("x-message-ttl") == 0:
            del found["x-message-ttl"]
        return found

    def declare_exchange(self):
        name = f"x{self.random.randint(1, 4)}"
        arguments = {}
        if self.chance(0.25):
            arguments["alternate-exchange"] = self.pick(["x1", "x2", "x3", "amq.fanout", "amq.direct"])
        if self.chance(0.02):
            arguments["alternate-exchange"] = 5
        flags = {"durable": self.chance(0.5), "auto_delete": self.chance(0.12), "internal": self.chance(0.08)}
        if self.chance(0.03):
            name = self.pick(["amq.new", "amq.direct", ""])
        self.put(self.where(), "exchange.declare", exchange=name, type=self.pick(KINDS), arguments=arguments or None, **flags)
        if name not in self.exchanges and name.startswith("x"):
            self.exchanges.append(name)

    def passive(self):
        if self.chance(0.5):
            self.put(self.where(), "queue.declare", queue=self.queue(), passive=True)
        else:
            self.put(self.where(), "exchange.declare", exchange=self.exchange(), type="direct", passive=True)

    def binding(self):
        arguments = {}
        if self.chance(0.4):
            arguments = self.pick([{"h": 1}, {"h": "v", "k": 2}, {"h": 1, "k": "w"}, {"h": None}, {"x-h": 1, "k": 2}])
            match = self.pick(["all", "any", None, "all", "any", "all-with-x", "any-with-x", "some"])
            if match and not (match == "some" and self.chance(0.7)):
                arguments = {"x-match": match, **arguments}
        return self.pick(PATTERNS + ["q1"]), arguments or None

    def bind(self):
        key, arguments = self.binding()
        bound = {"queue": self.queue(), "exchange": self.exchange(), "routing_key": key, "arguments": arguments}
        self.bindings.append(bound)
        self.put(self.where(), "queue.bind", **bound)

    def unbind(self):
        if self.bindings and self.chance(0.85):
            self.put(self.where(), "queue.unbind", **self.pick(self.bindings))
        else:
            key, arguments = self.binding()
            bound = {"queue": self.queue(), "exchange": self.exchange(), "routing_key": key, "arguments": arguments}
            self.put(self.where(), "queue.unbind", **bound)

    def exchange_bind(self, method="exchange.bind"):
        key, arguments = self.binding()
        # What is bound to an exchange that stays would stay.
        ends = {"destination": self.pick([*self.exchanges, "x1", "x8", ""]), "source": self.exchange()}
        self.put(self.where(), method, routing_key=key, arguments=arguments, **ends)

    def exchange_unbind(self):
        bound = [step for step in self.steps if step[1] == "exchange.bind"]
        if bound and self.chance(0.85):
            self.put(self.where(), "exchange.unbind", **self.pick(bound)[2])
        else:
            self.exchange_bind("exchange.unbind")

    def delete_queue(self):
        flags = {"if_unused": self.chance(0.3), "if_empty": self.chance(0.3)}
        self.put(self.where(), "queue.delete", queue=self.queue(), **flags)

    def delete_exchange(self):
        self.put(self.where(), "exchange.delete", exchange=self.exchange(), if_unused=self.chance(0.4))

    def purge(self):
        self.put(self.where(), "queue.purge", queue=self.queue())

    # Messages.

    def publish(self):
        self.messages += 1
        exchange, key = self.exchange(), self.pick(KEYS)
        if self.theme not in ("routing", "declaring") and self.chance(0.7) or exchange == "":
            exchange, key = "", self.queue()
            self.filled.append(key)
            if self.theme == "letters":
                exchange, key = "", "q1" if self.chance(0.7) else key
        properties = self.properties()
        count = self.pick([1, 1, 1, 2, 3, 5])
        if any("reject-publish" in str(step) for step in self.steps):
            # What is on its way to the disk counts as ready here: a known gap.
            count = 1
        self.put(
            self.where(), "publish", exchange=exchange or None, routing_key=key, body=f"m{self.messages}",
            count=count if count > 1 else None, mandatory=self.chance(0.25), properties=properties or None,
        )  # fmt: skip

    def properties(self):
        found = {}
        if self.chance(0.4):
            found["delivery_mode"] = self.pick([1, 2, 2])
        if self.chance(0.35):
            found["headers"] = self.headers()
        # Among priorities RabbitMQ looks for what has expired when it is asked next, not when it becomes the first.
        if self.chance(0.25 if self.theme == "time" else 0.03) and self.theme != "priorities":
            found["expiration"] = self.pick(["0", str(SHORT_TTL), str(LONG_TTL)])
        if self.theme == "priorities" and self.chance(0.8):
            found["priority"] = self.pick([0, 1, 2, 3, 5, 9, 10, 11, 255])
        if self.chance(0.02):
            found["expiration"] = self.pick(["", "x", "-1", "1.5", " 5", "99999999999"])
        for name, value in PLAIN_PROPERTIES:
            if self.chance(0.04):
                found[name] = value
        if self.chance(0.02):
            found["user_id"] = self.pick(["guest", "other"])
        return found

    def headers(self):
        found = dict(self.random.sample(HEADERS, self.random.randint(0, 3)))
        # In several queues at once a letter may come back to one by several ways, in any order.
        if self.chance(0.2) and self.theme not in ("letters", "limits", "time"):
            found[self.pick(["CC", "BCC"])] = self.pick([["q1"], ["q2", "a.b"], [], ["q1", 5]])
        if self.chance(0.02):
            found[self.pick(["CC", "BCC"])] = "q1"
        return found

    def get(self):
        where, no_ack = self.where(), self.chance(0.2)
        self.put(where, "basic.get", queue=self.source(), no_ack=no_ack)
        if not no_ack:
            self.takers.append(where)

    def consume(self):
        tag = self.pick(["", "c1", "c2", "c3", "c4", "c5"])
        arguments = {}
        if self.chance(0.3 if self.theme == "consumers" else 0.05):
            arguments["x-priority"] = self.pick([-1, 0, 1, 5])
        if self.chance(0.02):
            arguments["x-priority"] = self.pick(["5", 1.5, None])
        self.tags.append(tag or f"$c{1 + sum(known.startswith('$') for known in self.tags)}")
        flags = {"no_ack": self.chance(0.25), "exclusive": self.theme != "quorum" and self.chance(0.05)}
        where = self.where()
        if not flags["no_ack"]:
            self.takers += [where] * 3
        self.put(where, "basic.consume", queue=self.source(), consumer_tag=tag, arguments=arguments or None, **flags)

    def cancel(self):
        self.put(self.where(), "basic.cancel", consumer_tag=self.pick([*self.tags, "c9"]))

    def settle(self):
        if self.chance(0.35 if self.takers else 0.9):
            where = self.where()
            self.put(where, "basic.get", queue=self.source())
            self.takers.append(where)
        tag = f"#{self.random.randint(0, 5)}" if self.chance(0.97) else self.pick([0, 999])
        method = self.pick(["basic.ack", "basic.ack", "basic.nack", "basic.nack", "basic.reject"])
        values = {"delivery_tag": tag}
        if method != "basic.reject":
            values["multiple"] = self.chance(0.3)
        if method != "basic.ack":
            values["requeue"] = self.chance(0.4 if self.theme == "letters" else 0.6)
        self.put(self.pick(self.takers[-8:] or self.channels), method, **values)

    def recover(self):
        method = self.pick(["basic.recover", "basic.recover", "basic.recover-async"])
        self.put(self.where(), method, requeue=self.chance(0.97))

    def qos(self):
        size = 1 if self.chance(0.02) else 0
        self.put(self.where(), "basic.qos", prefetch_count=self.pick([0, 1, 1, 2, 3]), prefetch_size=size or None)

    # Channels and connections.

    def confirm(self, where=None):
        self.put(where or self.where(), "confirm.select")

    def tx(self):
        self.put(self.where() if self.chance(0.2) else "1.1", self.pick(["tx.commit", "tx.commit", "tx.rollback", "tx.select"]))

    def close(self):
        where = self.where()
        self.put(where if self.chance(0.7) else where.split(".")[0], "close")

    def drop(self):
        self.put(self.where().split(".")[0], "drop")


# Methods that need no answer, and which value they then have to have.
UNANSWERED = {
    "exchange.declare": "type", "exchange.delete": "exchange", "exchange.bind": "source", "exchange.unbind": "source",
    "queue.declare": "queue", "queue.bind": "exchange", "queue.delete": "queue", "queue.purge": "queue",
    "basic.consume": "consumer_tag", "basic.cancel": "consumer_tag", "confirm.select": "",
}  # fmt: skip
# A quorum queue takes a message without a priority for one of this.
QUORUM_NORMAL = 4
PLAIN_PROPERTIES = [
    ("content_type", "text/plain"), ("content_encoding", "gzip"), ("priority", QUORUM_NORMAL), ("correlation_id", "7"),
    ("reply_to", "somewhere"), ("message_id", "id"), ("timestamp", 1700000000), ("type", "kind"), ("app_id", "app"),
    ("cluster_id", "c"),
]  # fmt: skip
HEADERS = [
    ("h", 1), ("h", "v"), ("k", 2), ("k", "w"), ("x-h", 1), ("f", 1.5), ("n", None), ("l", [1, "two", {"deep": True}]),
    ("t", {"a": {"!s": 5}}), ("d", {"!D": [2, 314]}), ("T", {"!T": 1700000000}), ("y", {"!x": "00ff"}),
    ("b", {"!b": -5}), ("h", {"!l": 1}),
]  # fmt: skip
# Also right ones that say nothing to a classic queue.
WRONG_ARGUMENTS = [
    ("x-message-ttl", "5"), ("x-message-ttl", -1), ("x-message-ttl", 5.5), ("x-message-ttl", 99_999_999_999),
    ("x-expires", 0), ("x-expires", "1"), ("x-expires", -1), ("x-max-length", -1), ("x-max-length", "3"),
    ("x-max-length-bytes", -1), ("x-overflow", "drop"), ("x-overflow", 5), ("x-dead-letter-exchange", 5),
    ("x-dead-letter-routing-key", "k"), ("x-dead-letter-routing-key", 5), ("x-single-active-consumer", "yes"),
    ("x-single-active-consumer", False), ("x-queue-type", "classic"), ("x-queue-type", "other"), ("x-queue-type", 5),
    ("x-unknown", 5), ("x-max-length", {"!s": 3}), ("x-message-ttl", {"!l": LONG_TTL}), ("x-max-length", None),
    ("x-expires", LONG_TTL),
]  # fmt: skip


def script(seed, length=None, theme=None):
    writer = Writer(seed, theme)
    return writer.write(length or writer.random.randint(12, 40))
