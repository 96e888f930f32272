"""AMQP 0-9-1 by hand: frames, methods, tables and one connection, with nothing hidden from the comparison.

A client library would drop what it does not understand, answer by itself and choose types; here every frame
that a broker sends becomes an event and every value keeps its type.
"""

import decimal
import json
import re
import socket
import struct
import time

HEADER = b"AMQP\x00\x00\x09\x01"
METHOD, CONTENT, BODY, HEARTBEAT = 1, 2, 3, 8
END = b"\xce"

# name: (class, method, fields, name of the answer or None)
METHODS = {}
BY_ID = {}


def _method(class_id, method_id, name, fields="", answer=None):
    parsed = [tuple(field.split(":")) for field in fields.split()]
    METHODS[name] = (class_id, method_id, parsed, answer)
    BY_ID[class_id, method_id] = name


def _methods():
    define = _method
    define(10, 10, "connection.start", "major:B minor:B server_properties:F mechanisms:S locales:S")
    define(10, 11, "connection.start-ok", "client_properties:F mechanism:s response:S locale:s")
    define(10, 30, "connection.tune", "channel_max:H frame_max:I heartbeat:H")
    define(10, 31, "connection.tune-ok", "channel_max:H frame_max:I heartbeat:H")
    define(10, 40, "connection.open", "vhost:s reserved:s insist:b", "connection.open-ok")
    define(10, 41, "connection.open-ok", "reserved:s")
    define(10, 50, "connection.close", "code:H text:s class:H method:H", "connection.close-ok")
    define(10, 51, "connection.close-ok")
    define(10, 60, "connection.blocked", "reason:s")
    define(10, 61, "connection.unblocked")
    define(20, 10, "channel.open", "reserved:s", "channel.open-ok")
    define(20, 11, "channel.open-ok", "reserved:S")
    define(20, 20, "channel.flow", "active:b", "channel.flow-ok")
    define(20, 21, "channel.flow-ok", "active:b")
    define(20, 40, "channel.close", "code:H text:s class:H method:H", "channel.close-ok")
    define(20, 41, "channel.close-ok")
    declare = "ticket:H exchange:s type:s passive:b durable:b auto_delete:b internal:b nowait:b arguments:F"
    define(40, 10, "exchange.declare", declare, "exchange.declare-ok")
    define(40, 11, "exchange.declare-ok")
    define(40, 20, "exchange.delete", "ticket:H exchange:s if_unused:b nowait:b", "exchange.delete-ok")
    define(40, 21, "exchange.delete-ok")
    bind = "ticket:H destination:s source:s routing_key:s nowait:b arguments:F"
    define(40, 30, "exchange.bind", bind, "exchange.bind-ok")
    define(40, 31, "exchange.bind-ok")
    define(40, 40, "exchange.unbind", bind, "exchange.unbind-ok")
    define(40, 51, "exchange.unbind-ok")
    declare = "ticket:H queue:s passive:b durable:b exclusive:b auto_delete:b nowait:b arguments:F"
    define(50, 10, "queue.declare", declare, "queue.declare-ok")
    define(50, 11, "queue.declare-ok", "queue:s messages:I consumers:I")
    define(50, 20, "queue.bind", "ticket:H queue:s exchange:s routing_key:s nowait:b arguments:F", "queue.bind-ok")
    define(50, 21, "queue.bind-ok")
    define(50, 30, "queue.purge", "ticket:H queue:s nowait:b", "queue.purge-ok")
    define(50, 31, "queue.purge-ok", "messages:I")
    define(50, 40, "queue.delete", "ticket:H queue:s if_unused:b if_empty:b nowait:b", "queue.delete-ok")
    define(50, 41, "queue.delete-ok", "messages:I")
    define(50, 50, "queue.unbind", "ticket:H queue:s exchange:s routing_key:s arguments:F", "queue.unbind-ok")
    define(50, 51, "queue.unbind-ok")
    define(60, 10, "basic.qos", "prefetch_size:I prefetch_count:H global:b", "basic.qos-ok")
    define(60, 11, "basic.qos-ok")
    consume = "ticket:H queue:s consumer_tag:s no_local:b no_ack:b exclusive:b nowait:b arguments:F"
    define(60, 20, "basic.consume", consume, "basic.consume-ok")
    define(60, 21, "basic.consume-ok", "consumer_tag:s")
    define(60, 30, "basic.cancel", "consumer_tag:s nowait:b", "basic.cancel-ok")
    define(60, 31, "basic.cancel-ok", "consumer_tag:s")
    define(60, 40, "basic.publish", "ticket:H exchange:s routing_key:s mandatory:b immediate:b")
    define(60, 50, "basic.return", "code:H text:s exchange:s routing_key:s")
    define(60, 60, "basic.deliver", "consumer_tag:s delivery_tag:Q redelivered:b exchange:s routing_key:s")
    define(60, 70, "basic.get", "ticket:H queue:s no_ack:b", "basic.get-ok")
    define(60, 71, "basic.get-ok", "delivery_tag:Q redelivered:b exchange:s routing_key:s messages:I")
    define(60, 72, "basic.get-empty", "cluster_id:s")
    define(60, 80, "basic.ack", "delivery_tag:Q multiple:b")
    define(60, 90, "basic.reject", "delivery_tag:Q requeue:b")
    define(60, 100, "basic.recover-async", "requeue:b")
    define(60, 110, "basic.recover", "requeue:b", "basic.recover-ok")
    define(60, 111, "basic.recover-ok")
    define(60, 120, "basic.nack", "delivery_tag:Q multiple:b requeue:b")
    define(85, 10, "confirm.select", "nowait:b", "confirm.select-ok")
    define(85, 11, "confirm.select-ok")
    for number, name in enumerate(["select", "commit", "rollback"]):
        define(90, 10 + 10 * number, f"tx.{name}", "", f"tx.{name}-ok")
        define(90, 11 + 10 * number, f"tx.{name}-ok")


_methods()

# In the order of their flags, from the highest.
PROPERTIES = [
    ("content_type", "s"), ("content_encoding", "s"), ("headers", "F"), ("delivery_mode", "B"), ("priority", "B"),
    ("correlation_id", "s"), ("reply_to", "s"), ("expiration", "s"), ("message_id", "s"), ("timestamp", "Q"),
    ("type", "s"), ("user_id", "s"), ("app_id", "s"), ("cluster_id", "s"),
]  # fmt: skip
WITH_CONTENT = {"basic.return", "basic.deliver", "basic.get-ok"}
NUMBERS = {"b": ">b", "B": ">B", "s": ">h", "u": ">H", "I": ">i", "i": ">I", "l": ">q", "f": ">f", "d": ">d", "T": ">Q"}


def short(text):
    raw = text.encode("utf-8", "surrogateescape")
    return bytes([len(raw)]) + raw


def long(raw):
    return struct.pack(">I", len(raw)) + raw


def encode_value(value):
    """A value of a script: JSON; `{"!TYPE": VALUE}` names the type on the wire where JSON leaves a choice."""
    if isinstance(value, dict) and len(value) == 1 and next(iter(value)).startswith("!"):
        ((kind, inner),) = value.items()
        kind = kind[1:]
        if kind in NUMBERS:
            return kind.encode() + struct.pack(NUMBERS[kind], inner)
        if kind == "D":
            scale, number = inner
            return b"D" + struct.pack(">Bi", scale, number)
        assert kind == "x", kind
        return b"x" + long(bytes.fromhex(inner))
    if value is None:
        return b"V"
    if isinstance(value, bool):
        return b"t" + bytes([value])
    if isinstance(value, int):
        small = -(2**31) <= value < 2**31
        return (b"I" if small else b"l") + struct.pack(">i" if small else ">q", value)
    if isinstance(value, float):
        return b"d" + struct.pack(">d", value)
    if isinstance(value, str):
        return b"S" + long(value.encode("utf-8", "surrogateescape"))
    if isinstance(value, list):
        return b"A" + long(b"".join(map(encode_value, value)))
    return b"F" + encode_table(value)


def encode_table(table):
    return long(b"".join(short(name) + encode_value(value) for name, value in (table or {}).items()))


def encode_fields(fields, values):
    out, bits, bit = b"", 0, 0
    for name, kind in fields:
        value = values.get(name)
        if kind == "b":
            bits, bit = bits | bool(value) << bit, bit + 1
            continue
        if bit:
            out, bits, bit = out + bytes([bits]), 0, 0
        if kind == "s":
            out += short(value or "")
        elif kind == "S":
            out += long(value or b"")
        elif kind == "F":
            out += encode_table(value)
        else:
            out += struct.pack(">" + kind, value or 0)
    return out + (bytes([bits]) if bit else b"")


class Reader:
    """Takes values off the front of some bytes."""

    def __init__(self, raw):
        self.raw, self.at = raw, 0

    def take(self, count):
        self.at += count
        assert self.at <= len(self.raw), "a truncated frame"
        return self.raw[self.at - count : self.at]

    def number(self, kind):
        return struct.unpack(">" + kind, self.take(struct.calcsize(">" + kind)))[0]

    def short(self):
        return self.take(self.number("B")).decode("utf-8", "surrogateescape")

    def long(self):
        return self.take(self.number("I"))

    def table(self):
        inner, found = Reader(self.long()), []
        while inner.at < len(inner.raw):
            name = inner.short()
            found.append([name, inner.value()])
        return found

    def value(self):
        """`TYPE:VALUE`; a list for an array, a list of pairs after `F` for a table."""
        kind = self.take(1).decode("latin-1")
        if kind in NUMBERS:
            return f"{kind}:{self.number(NUMBERS[kind][1:])}"
        if kind == "t":
            return f"t:{bool(self.number('B'))}"
        if kind == "V":
            return "V"
        if kind == "S":
            return "S:" + self.long().decode("utf-8", "surrogateescape")
        if kind == "x":
            return "x:" + self.long().hex()
        if kind == "D":
            scale, number = self.number("B"), self.number("i")
            return f"D:{decimal.Decimal(number).scaleb(-scale)}"
        if kind == "F":
            return ["F", self.table()]
        assert kind == "A", f"a value of type {kind!r}"
        inner, found = Reader(self.long()), []
        while inner.at < len(inner.raw):
            found.append(inner.value())
        return ["A", found]


def decode_method(payload):
    reader = Reader(payload)
    name = BY_ID[reader.number("H"), reader.number("H")]
    values, bits, bit = {}, 0, 8
    for field, kind in METHODS[name][2]:
        if kind == "b":
            if bit == 8:
                bits, bit = reader.number("B"), 0
            values[field] = bool(bits >> bit & 1)
            bit += 1
            continue
        bit = 8
        if kind == "s":
            values[field] = reader.short()
        elif kind == "S":
            values[field] = reader.long()
        elif kind == "F":
            values[field] = reader.table()
        else:
            values[field] = reader.number(kind)
    return name, values


def encode_properties(properties):
    flags, out = 0, b""
    for index, (name, kind) in enumerate(PROPERTIES):
        if name not in properties:
            continue
        flags |= 1 << (15 - index)
        value = properties[name]
        if kind == "s":
            out += short(value)
        elif kind == "F":
            out += encode_table(value)
        else:
            out += struct.pack(">" + kind, value)
    return struct.pack(">H", flags) + out


def decode_properties(raw):
    reader, found = Reader(raw), []
    flags = reader.number("H")
    for index, (name, kind) in enumerate(PROPERTIES):
        if flags >> (15 - index) & 1:
            read = {"s": reader.short, "F": reader.table}.get(kind)
            found.append([name, read() if read else reader.number(kind)])
    assert reader.at == len(raw), "properties with a tail"
    return found


class Gone(Exception):
    """The broker closed the socket."""


class Connection:
    """A socket that turns frames into events: `(channel, name, values, properties, body)`."""

    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.raw = bytearray()
        self.partial = {}
        self.events = []
        self.gone = False

    def open(self):
        self.socket.sendall(HEADER)
        self.wait(lambda event: event[1] == "connection.start")
        understood = ["consumer_cancel_notify", "authentication_failure_close", "publisher_confirms", "basic.nack",
                      "exchange_exchange_bindings", "connection.blocked"]  # fmt: skip
        client = {"capabilities": dict.fromkeys(understood, True)}
        login = {"client_properties": client, "mechanism": "PLAIN", "response": b"\0guest\0guest", "locale": "en_US"}
        self.send(0, "connection.start-ok", login)
        self.wait(lambda event: event[1] == "connection.tune")
        self.send(0, "connection.tune-ok", {"channel_max": 2047, "frame_max": 131072, "heartbeat": 0})
        self.send(0, "connection.open", {"vhost": "/"})
        self.wait(lambda event: event[1] == "connection.open-ok")
        self.events.clear()
        return self

    @staticmethod
    def frame(kind, channel, payload):
        return struct.pack(">BHI", kind, channel, len(payload)) + payload + END

    def encode(self, channel, name, values, properties=None, body=None):
        class_id, method_id, fields, _ = METHODS[name]
        out = self.frame(METHOD, channel, struct.pack(">HH", class_id, method_id) + encode_fields(fields, values))
        if name == "basic.publish":
            head = struct.pack(">HHQ", 60, 0, len(body)) + encode_properties(properties or {})
            out += self.frame(CONTENT, channel, head)
            if body:
                out += self.frame(BODY, channel, body)
        return out

    def send(self, channel, name, values, properties=None, body=None):
        self.write(self.encode(channel, name, values, properties, body))

    def write(self, raw):
        if self.gone:
            return
        try:
            self.socket.sendall(raw)
        except OSError:
            # What it said before it hung up is read by whoever waits.
            pass

    def pump(self, seconds):
        """Reads what is there, waiting for something up to `seconds`."""
        if self.gone:
            return
        self.socket.settimeout(max(seconds, 0.000001))
        try:
            raw = self.socket.recv(262144)
        except (TimeoutError, BlockingIOError):
            return
        except OSError:
            raw = b""
        if not raw:
            self.gone = True
            self.socket.close()
            return
        self.raw += raw
        self._split()

    def _split(self):
        at = 0
        while len(self.raw) - at >= 8:
            kind, channel, size = struct.unpack_from(">BHI", self.raw, at)
            if len(self.raw) - at < size + 8:
                break
            payload = bytes(self.raw[at + 7 : at + 7 + size])
            assert self.raw[at + 7 + size] == 0xCE, "a frame without its end"
            at += size + 8
            self._frame(kind, channel, payload)
        del self.raw[:at]

    def _frame(self, kind, channel, payload):
        if kind == METHOD:
            name, values = decode_method(payload)
            assert channel not in self.partial, "a method inside a message"
            if name in WITH_CONTENT:
                self.partial[channel] = [name, values, None, None, b""]
            else:
                self.events.append((channel, name, values, None, None))
        elif kind == CONTENT:
            part = self.partial[channel]
            part[2], part[3] = struct.unpack_from(">Q", payload, 4)[0], decode_properties(payload[12:])
        elif kind == BODY:
            self.partial[channel][4] += payload
        if kind in (CONTENT, BODY):
            name, values, size, properties, body = self.partial[channel]
            if len(body) >= size:
                del self.partial[channel]
                self.events.append((channel, name, values, properties, body))

    def wait(self, wanted, seconds=10.0, start=0):
        """The first event from `start` on that is wanted; `None` when the time is over or the socket closed."""
        deadline, at = time.monotonic() + seconds, start
        while True:
            while at < len(self.events):
                if wanted(self.events[at]):
                    return self.events[at]
                at += 1
            left = deadline - time.monotonic()
            if self.gone or left <= 0:
                return None
            self.pump(left)

    def close(self):
        if not self.gone:
            self.gone = True
            self.socket.close()


def parse_step(line):
    """`WHERE METHOD name=JSON ...`"""
    where, method, *rest = line.split(None, 2)
    values, text = {}, rest[0] if rest else ""
    while text:
        found = re.match(r"(\w+)=", text)
        assert found, f"not a step: {line}"
        value, end = json.JSONDecoder().raw_decode(text[found.end() :])
        values[found[1]] = value
        text = text[found.end() + end :].lstrip()
    return where, method, values


def format_step(step):
    where, method, values = step
    return " ".join([where, method, *(f"{name}={json.dumps(value)}" for name, value in values.items())])
