"""The written list: what RabbitMQ 4.3, which FerryMQ follows, does otherwise than 3.10, and what nobody promises.

Each entry says why and where that can be read (paths are those of rabbitmq-server at v4.3.5), and has a script in
`corpus/known-NAME.txt` that shows it: an entry that is no longer seen fails the run. An entry makes the two sides
equal only where they differ in just the way that it says. Those in `ENDS` leave the two in different states: a
sequence ends there.
"""

import copy
import re

KNOWN = {
    "x-last-death": (
        "dead letters have x-last-death-queue, -reason and -exchange since 3.13",
        "deps/rabbit/src/mc.erl, record_death",
    ),
    "order-of-headers": (
        "a message that died has its headers in another order: they are no longer sorted at each death",
        "deps/rabbit/src/mc_amqpl.erl, deaths_to_headers; 3.10: rabbit_dead_letter.erl, update_x_death_header",
    ),
    "order-of-deaths": (
        "x-death tells the newest death first; 3.10 turns the older ones round each time",
        "deps/rabbit/src/mc_amqpl.erl, deaths_to_headers; 3.10: rabbit_dead_letter.erl, group_by_queue_and_reason",
    ),
    "acquired-count": (
        "quorum queues tell x-acquired-count, how often a message came back, and x-delivery-count, how often of that it "
        "failed, both only if it did; 3.10 has x-delivery-count from 0 on for the former",
        "deps/rabbit/src/rabbit_fifo_client.erl, add_delivery_count_header",
    ),
    "user-id-last": (
        "of a publish with another user's id and a wrong expiration, CC or BCC the id is told last; 3.10 told it first",
        "deps/rabbit/src/rabbit_channel.erl, handle_method(#'basic.publish'{}); 3.10: the same",
    ),
    "get-is-no-consumer": (
        "3.10 counts whoever got a message of a quorum queue and has not settled it as a consumer",
        "deps/rabbit/src/rabbit_fifo.erl, query_consumer_count",
    ),
    "whose-turn": (
        "which of several equal consumers is next is promised by nobody; what they get together is compared",
        "no source: the specification leaves it open",
    ),
    "several-ways": (
        "letters of several queues meet in one in any order: each queue sends its own",
        "no source: order is promised for one path",
    ),
    "channel-after-channel": (
        "when a connection ends its channels give back what they had one after the other: a message may expire, or go to "
        "somebody, in between, also to a consumer without acknowledgements of the connection that ends; of a quorum queue that "
        "is counted",
        "no source: the order of channels is promised by nobody",
    ),
    "returned-beyond-limit": (
        "what comes back to a full queue goes to a consumer that waits, in RabbitMQ it is counted, and the head dropped, "
        "before consumers are looked at",
        "deps/rabbit/src/rabbit_amqqueue_process.erl, requeue_and_run",
    ),
    "order-of-returns": (
        "what comes back to a quorum queue keeps the order in which it came back, in FerryMQ its place in the queue: only what "
        "came back may change places, the oldest is first in FerryMQ, and what is dropped of it is the oldest",
        "deps/rabbit/src/rabbit_fifo.erl, take_next_msg; docs/adr/0006-queues-are-logs-with-an-ack-subscription.md",
    ),
}
KNOWN["atomic-commit"] = (
    "a commit is one step: what a transaction gave back is in its old place when what it published is seen; RabbitMQ "
    "publishes first and settles then",
    "deps/rabbit/src/rabbit_channel.erl, handle_method(#'tx.commit'{}); docs/adr/0008-joint-commits.md",
)
KNOWN["refused-commit"] = (
    "a commit that a full queue refuses does nothing and says why; RabbitMQ has done a part and says that",
    "deps/rabbit/src/rabbit_channel.erl, complete_tx; docs/adr/0008-joint-commits.md",
)
KNOWN["type-that-was-not-said"] = (
    "since 4.0 a queue that names no type is written down with its virtual host's default, so a declaration that differs from "
    "it is told two types; 3.10 is told of none",
    "deps/rabbit/src/rabbit_amqqueue.erl, augment_declare_args",
)
# What the generator leaves out, because nothing that is compared later would mean anything.
AVOIDED = {
    "circles": (
        "whether a letter goes round in a circle is told by the order of its deaths, which 3.10 turns round: with three "
        "deaths or more it drops letters that 4.3 and FerryMQ deliver",
        "deps/rabbit/src/mc.erl, is_death_cycle; 3.10: rabbit_dead_letter.erl, group_by_queue_and_reason",
    ),
    "default-delivery-limit": (
        "a quorum queue without a limit has one of 20; without one 3.10 puts what comes back last: one is always given",
        "deps/rabbit/src/rabbit_fifo.erl, handle_aux of #return{}",
    ),
    "exclusive-consumers-of-quorum-queues": (
        "RabbitMQ does not keep others from a quorum queue that has an exclusive consumer, 4.3 neither; FerryMQ does",
        "deps/rabbit/src/rabbit_quorum_queue.erl, consume",
    ),
    "unknown-exchange-type": (
        "406 for the channel; before 4.3 it was 503 for the connection",
        "deps/rabbit/src/rabbit_exchange.erl, check_type",
    ),
    "windows-beyond-reject-publish": (
        "messages on their way to the disk count as ready in FerryMQ, also where a consumer waits: one at a time",
        "docs/status.md, known gaps",
    ),
    "expired-and-too-many": (
        "of a message that may neither stay nor wait RabbitMQ says maxlen, FerryMQ expired",
        "deps/rabbit/src/rabbit_amqqueue_process.erl, deliver_or_enqueue",
    ),
    "server-named-queues-of-no-type": (
        "a server-named queue of a type that is none: RabbitMQ, 4.3 too, fails with 541 while it asks whether the type may have "
        "one; FerryMQ tells 406, as both do of a queue with a name",
        "deps/rabbit/src/rabbit_queue_type.erl, discover",
    ),
    "reject-publish-of-quorum-queues": (
        "RabbitMQ's quorum queues, 4.3 too, take one message more than their limit before they refuse, and refuse until they are "
        "well below it; in FerryMQ the limit is the limit",
        "deps/rabbit/src/rabbit_fifo.erl, is_over_limit and is_below_soft_limit",
    ),
    "letters-to-queues-that-refuse": (
        "a dead letter that a full queue refuses waits where it was; RabbitMQ, 4.3 too, drops it (but from quorum queues with "
        "x-dead-letter-strategy at-least-once)",
        "deps/rabbit/src/rabbit_dead_letter.erl, publish; docs/adr/0008-joint-commits.md",
    ),
    "priorities-of-quorum-queues": (
        "quorum queues know priorities since 4.0: all messages have the one that counts as none",
        "deps/rabbit/src/rabbit_fifo.erl, msg_priority; docs/adr/0009-priorities.md",
    ),
    "global-prefetch": (
        "a channel's common prefetch is kept by the door in FerryMQ: each queue may send that many ahead",
        "docs/status.md, known gaps",
    ),
}
# After these the two hold different messages.
ENDS = {"channel-after-channel", "returned-beyond-limit", "whose-turn", "several-ways", "order-of-returns", "atomic-commit", "refused-commit"}
REFUSED_COMMIT = ("partial tx completion", "the transaction was not committed")


class Facts:
    """What a script said so far that entries need to know."""

    def __init__(self):
        self.quorum, self.ranked, self.consumed, self.limited = set(), set(), {}, False
        self.quorum_limited = set()
        self.timed = self.greedy = False
        self.channels = set()

    def learn(self, step):
        where, method, values = step
        self.channels.add(where)
        arguments, queue = values.get("arguments") or {}, values.get("queue")
        if arguments.get("x-queue-type") == "quorum":
            self.quorum.add(queue)
            if any(name in arguments for name in ("x-max-length", "x-max-length-bytes")):
                self.quorum_limited.add(queue)
        self.timed |= "x-message-ttl" in arguments or "expiration" in (values.get("properties") or {})
        self.limited |= any(name in arguments for name in ("x-max-length", "x-max-length-bytes"))
        if "x-priority" in arguments or "x-single-active-consumer" in arguments:
            self.ranked.add(queue)
        if method == "basic.consume":
            self.last = (where, queue)
            self.greedy |= bool(values.get("no_ack"))

    def answered(self, summary):
        """The tags that brokers make are known by their answers."""
        for where, events in summary["control"].items():
            for event in events:
                if event[0] == "basic.consume-ok":
                    self.consumed[f"{where}/{event[1]['consumer_tag']}"] = self.last[1]


def names():
    """Those that can be shown at will."""
    return set(KNOWN) - {"several-ways", "channel-after-channel"}


def wanted(stem):
    """The entry that a script of the corpus is for."""
    return stem.removeprefix("known-") if stem.startswith("known-") else None


def normalised(step, theirs, ours, known, facts):
    """Both sides less what is known to differ; names of entries that were needed go into `known`."""
    theirs, ours = copy.deepcopy(theirs), copy.deepcopy(ours)
    for side in (theirs, ours):
        _closing(side)
    for one, other in _pairs(theirs, ours):
        _deaths(one, other, known)
        _counts(one, other, known)
    _user_id(step, theirs, ours, known)
    _refused_commit(step, theirs, ours, known)
    _type_not_said(step, theirs, ours, known)
    _get_consumers(step, theirs, ours, known, facts)
    facts.answered(ours)
    if theirs != ours:
        _turns(step, theirs, ours, known, facts)
    if theirs != ours and (facts.timed or facts.greedy):
        _channels(step, theirs, ours, known)
    _counted_between(step, ours, known, facts)
    if theirs != ours and facts.limited:
        _beyond_limit(step, theirs, ours, known)
    if theirs != ours and step[2].get("queue") in facts.quorum and step[1] == "basic.get":
        _returns(theirs, ours, known)
    if theirs != ours and facts.quorum_limited:
        _dropped_returns(step, theirs, ours, known, facts)
    return theirs, ours


def _closing(summary):
    """What is still delivered on what is being closed is nobody's promise."""
    for where, events in summary["control"].items():
        names = {event[0] for event in events}
        ends = where.split(".")[0] + "." if "connection.close" in names else where + "/"
        if names & {"connection.close", "channel.close"}:
            for source in [source for source in summary["deliver"] if source.startswith(ends)]:
                del summary["deliver"][source]


def _pairs(theirs, ours):
    """The properties of each message on both sides: what was answered in turn, deliveries by what they are."""
    for where, events in theirs["control"].items():
        for one, other in zip(events, ours["control"].get(where, [])):
            if len(one) > 2 and len(other) > 2:
                yield one[2], other[2]
    # In their order if that is the same. Bodies are of one publish; another consumer may have got it.
    waiting = {}
    for source, events in ours["deliver"].items():
        for place, event in enumerate(events):
            waiting.setdefault(str((event[1], event[2], event[4])), []).append(((source, place), event[3]))
    for source, events in theirs["deliver"].items():
        for place, event in enumerate(events):
            equal = waiting.get(str((event[1], event[2], event[4])))
            if equal:
                best = min(range(len(equal)), key=lambda at: equal[at][0] != (source, place))
                yield event[3], equal.pop(best)[1]


def _user_id(step, theirs, ours, known):
    """A publish that is wrong twice: both refuse it, for another reason."""
    properties = step[2].get("properties") or {}
    if step[1] != "publish" or properties.get("user_id") in (None, "guest"):
        return
    for where, events in theirs["control"].items():
        for one, other in zip(events, ours["control"].get(where, [])):
            if one[0] == other[0] == "channel.close" and one[1]["code"] == other[1]["code"] == 406:
                if "user_id property" in one[1]["text"] and "user_id property" not in other[1]["text"]:
                    one[1]["text"] = other[1]["text"]
                    known.add("user-id-last")


def _type_not_said(step, theirs, ours, known):
    """The type of a queue that named none is told as classic."""
    if step[1] != "queue.declare":
        return
    said = re.compile(r"(inequivalent arg 'x-queue-type' .*): received (.*) but current is (.*)$")
    for where, events in theirs["control"].items():
        for one, other in zip(events, ours["control"].get(where, [])):
            if one[0] == other[0] == "channel.close" and one[1]["text"] != other[1]["text"]:
                found = said.search(one[1]["text"])
                if found and "none" in found.groups():
                    types = ["classic" if told == "none" else told.split("'")[1] for told in found.groups()[1:]]
                    start = one[1]["text"][: found.end(1)]
                    one[1]["text"] = f"{start}: received '{types[0]}' but current is '{types[1]}'"
                    known.add("type-that-was-not-said")


def _refused_commit(step, theirs, ours, known):
    """What RabbitMQ did of it is there, and may have been delivered."""
    if step[1] != "tx.commit":
        return
    for where, events in theirs["control"].items():
        for one, other in zip(events, ours["control"].get(where, [])):
            if one[0] == other[0] == "channel.close" and one[1]["code"] == other[1]["code"] == 406:
                told = one[1]["text"], other[1]["text"].partition(": ")[0]
                if told == tuple(f"PRECONDITION_FAILED - {why}" for why in REFUSED_COMMIT):
                    one[1]["text"] = other[1]["text"]
                    for part in ("deliver", "queues"):
                        theirs[part] = copy.deepcopy(ours[part])
                    known.add("refused-commit")


def _get_consumers(step, theirs, ours, known, facts):
    for name, count in theirs["queues"].items():
        other = ours["queues"].get(name)
        if isinstance(count, list) and isinstance(other, list) and name in facts.quorum and count[1] > other[1]:
            count[1] = other[1]
            known.add("get-is-no-consumer")
    if step[1] == "queue.declare" and step[2].get("queue") in facts.quorum:
        for where, events in theirs["control"].items():
            for one, other in zip(events, ours["control"].get(where, [])):
                if one[0] == other[0] == "queue.declare-ok" and one[1]["consumers"] > other[1]["consumers"]:
                    one[1]["consumers"] = other[1]["consumers"]
                    known.add("get-is-no-consumer")


def _turns(step, theirs, ours, known, facts):
    """Makes what the consumers of a queue got the same, if they got the same together."""
    sides = (theirs["deliver"], ours["deliver"])
    queues = {facts.consumed.get(source) for side in sides for source in side}
    for queue in queues - {None}:
        of_queue = [[source for source in side if facts.consumed.get(source) == queue] for side in sides]
        got = [[message for source in sources for message in side[source]]
               for side, sources in zip(sides, of_queue)]  # fmt: skip
        if sorted(map(str, got[0])) != sorted(map(str, got[1])):
            continue
        mixed = len({str(_death_of(message)) for message in got[0]}) > 1
        consumers = [source for source, of in facts.consumed.items() if of == queue]
        same_each = all(sides[0].get(source) == sides[1].get(source) for source in {*of_queue[0], *of_queue[1]})
        commit = step[1] == "tx.commit"
        equals = len(consumers) > 1 and queue not in facts.ranked
        if same_each or not (mixed or commit or queue in facts.quorum or equals):
            continue
        name = "several-ways" if mixed else "atomic-commit" if commit else "whose-turn" if equals else "order-of-returns"
        both = ((sides[0].get(source, []), sides[1].get(source, [])) for source in {*of_queue[0], *of_queue[1]})
        if name == "order-of-returns" and not all(_only_returns_moved(*of_one) for of_one in both):
            continue
        known.add(name)
        for source in of_queue[0]:
            del sides[0][source]
        for source in of_queue[1]:
            sides[0][source] = copy.deepcopy(sides[1][source])
    theirs["deliver"] = dict(sorted(theirs["deliver"].items()))


def _beyond_limit(step, theirs, ours, known):
    """Messages came back to a queue with a limit: only who has them, and how many are left, may differ."""
    closed = any(event[0].endswith(".close") for events in ours["control"].values() for event in events)
    returned = step[2].get("requeue") or step[1] in ("basic.recover", "basic.recover-async", "close", "drop")
    # Who got one must have got it back.
    again = any(message[0] for side in (theirs, ours) for got in side["deliver"].values() for message in got)
    if (closed or returned) and again:
        _same_holders(theirs, ours, known, "returned-beyond-limit")


def _channels(step, theirs, ours, known):
    """A connection ended: only who has its messages, and how many are left, may differ."""
    closed = any(event[0] == "connection.close" for events in ours["control"].values() for event in events)
    if closed or step[1] in ("close", "drop") and "." not in step[0]:
        _same_holders(theirs, ours, known, "channel-after-channel")


def _counted_between(step, ours, known, facts):
    """The same of a quorum queue: RabbitMQ counts what went to a channel that was about to end, and it comes back later."""
    ended = {where.split(".")[0] for where, events in ours["control"].items() if any(event[0] == "connection.close" for event in events)}
    if step[1] in ("close", "drop") and "." not in step[0]:
        ended.add(step[0])
    for number in ended:
        consumes = any(
            source.startswith(number + ".") and queue in facts.quorum for source, queue in facts.consumed.items()
        )
        if consumes and sum(where.startswith(number + ".") for where in facts.channels) > 1:
            known.add("channel-after-channel")


def _same_holders(theirs, ours, known, name):
    if all(theirs[part] == ours[part] for part in ("control", "confirm", "cancel")):
        for part in ("deliver", "queues"):
            theirs[part] = copy.deepcopy(ours[part])
        known.add(name)


def _death_of(message):
    """Where and why it died last, if it did."""
    deaths = _death_tables(_headers(message[3]) or [])
    return [entry for entry in deaths[0][1] if entry[0] in ("queue", "reason")] if deaths else None


def _age(message):
    """When it was published, of all messages of the script; None of a letter, which came into its queue later."""
    *_, properties, body = message
    if _death_tables(_headers(properties) or []):
        return None
    number, _, copy_of = body.removeprefix("m").partition(".")
    return int(number), int(copy_of or 0)


def _by_age(messages):
    ages = [_age(message) for message in messages]
    return None in ages or ages == sorted(ages)


def _only_returns_moved(theirs, ours):
    """What is new is in its place on both sides, and of what came back the oldest is first here."""
    moved = [(one, other) for one, other in zip(theirs, ours) if one != other]
    all_back = all(one[0] and other[0] for one, other in moved)
    return len(theirs) == len(ours) and all_back and _by_age([other for other in ours if other[0]])


def _returns(theirs, ours, known, dropped=False):
    """Another returned message of the same quorum queue came first: here an older one, unless that was dropped."""
    for where, events in theirs["control"].items():
        for index, (one, other) in enumerate(zip(events, ours["control"].get(where, []))):
            if one[0] != "basic.get-ok" or other[0] != "basic.get-ok":
                continue
            left = one[1]["messages"] == other[1]["messages"]
            older = dropped or _by_age([other, one]) and _age(other) != _age(one)
            if one != other and left and one[1]["redelivered"] and other[1]["redelivered"] and older:
                events[index] = copy.deepcopy(other)
                known.add("order-of-returns")


def _dropped_returns(step, theirs, ours, known, facts):
    """Of what came back to a quorum queue with a limit the head was dropped: here the oldest, there what came back first."""
    for source in {*theirs["deliver"], *ours["deliver"]}:
        if facts.consumed.get(source) in facts.quorum_limited:
            sides = [side["deliver"].get(source, []) for side in (theirs, ours)]
            ages = [sorted(filter(None, map(_age, side))) for side in sides]
            newer = all(other >= one for one, other in zip(*ages)) and _by_age(sides[1])
            came_back = all(message[0] for side in sides for message in side)
            if len(sides[0]) == len(sides[1]) and came_back and newer and sides[0] != sides[1]:
                theirs["deliver"][source] = copy.deepcopy(sides[1])
                known.add("order-of-returns")
    if step[1] == "basic.get" and step[2].get("queue") in facts.quorum_limited:
        _returns(theirs, ours, known, dropped=True)


def _headers(properties):
    return next((value for name, value in properties if name == "headers"), None)


def _deaths(theirs, ours, known):
    one, other = _headers(theirs), _headers(ours)
    for headers in (one, other):
        for death in _death_tables(headers or []):
            for entry in death[1]:
                if entry[0] == "time" and entry[1].startswith("T:"):
                    # When it died is not the same for both.
                    entry[1] = "T:*"
    if one is None or other is None or not any(name == "x-death" for name, _ in other):
        return
    last = {name: value for name, value in other if name.startswith("x-last-death-")}
    # The newest table is of the newest death, but for its exchange, which is the first one's.
    newest = dict(_death_tables(other)[0][1]) if _death_tables(other) else {}
    if last and all(last.get(f"x-last-death-{what}") == newest.get(what) for what in ("queue", "reason")):
        if not any(name.startswith("x-last-death-") for name, _ in one):
            other[:] = [entry for entry in other if entry[0] not in last]
            known.add("x-last-death")
    if one != other:
        for headers in (one, other):
            for death in _death_tables(headers):
                death[1].sort(key=lambda entry: entry[0])
            headers.sort(key=lambda entry: entry[0])
        if one != other:
            before = [_older_sorted(headers) for headers in (one, other)]
            if before[0] == before[1]:
                one[:] = other
                known.add("order-of-deaths")
        if one == other:
            known.add("order-of-headers")


def _older_sorted(headers):
    """Headers with the deaths but for the newest in an order of their own."""
    headers = copy.deepcopy(headers)
    for name, value in headers:
        if name == "x-death" and value[0] == "A":
            value[1][1:] = sorted(value[1][1:], key=str)
    return headers


def _counts(theirs, ours, known):
    """Of quorum queues: 3.10's x-delivery-count is 4.3's x-acquired-count."""
    one, other = _headers(theirs), _headers(ours)
    count = next((value for name, value in one or [] if name == "x-delivery-count"), None)
    if count is None or any(name == "x-delivery-count" and value == "l:0" for name, value in other or []):
        return
    acquired = next((value for name, value in other or [] if name == "x-acquired-count"), "l:0")
    if acquired != count:
        return
    for properties, headers, names in ((theirs, one, ["x-delivery-count"]),
                                       (ours, other, ["x-delivery-count", "x-acquired-count"])):  # fmt: skip
        headers = [entry for entry in headers or [] if entry[0] not in names]
        properties[:] = [entry for entry in properties if entry[0] != "headers"]
        if headers:
            properties.insert(0, ["headers", sorted(headers, key=lambda entry: entry[0])])
        # An empty table may have been none.
        properties.sort(key=lambda entry: entry[0])
    known.add("acquired-count")


def _death_tables(headers):
    found = next((value for name, value in headers if name == "x-death"), None)
    if not (isinstance(found, list) and found[0] == "A"):
        return []
    return [death for death in found[1] if isinstance(death, list) and death[0] == "F"]
