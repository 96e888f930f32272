"""Writes golden vectors of every method that pamqp knows: `hex of the frame <tab> what we should see in it`.

    pip install pamqp==4.0.1
    python crates/amqp-codec/vectors/pamqp_vectors.py > crates/amqp-codec/vectors/pamqp.txt

pamqp is a Python codec written from the specification by somebody else. What we should see is the struct as
`{:?}` prints it. Class access is not in it.
"""

from pamqp import commands, frame

NAMES = {"exchange_type": "kind", "global_": "global"}
TABLE = {"a": "text", "b": True, "c": 1 << 40, "d": {"e": None}}
TABLE_DEBUG = (
    '{"a": LongString([116, 101, 120, 116]), "b": Bool(true), "c": I64(1099511627776), "d": Table({"e": Void})}'
)
# Fields that pamqp wants to be as the specification has them.
FIXED = {
    "ticket": 0, "capabilities": "", "insist": False, "known_hosts": "", "out_of_band": "0",
    "channel_id": "0", "cluster_id": "", "prefetch_size": 0, "no_local": True,
}


def value_of(kind, number):
    return {
        "bit": number % 2 == 1, "octet": number, "short": 256 + number, "long": 65536 * number + 7,
        "longlong": (1 << 40) + number, "shortstr": "short%d" % number, "longstr": "long%d" % number,
        "table": TABLE,
    }[kind]


def debug(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return "[%s]" % ", ".join(str(byte) for byte in value.encode())
    return TABLE_DEBUG if isinstance(value, dict) else str(value)


def camel(name):
    return "".join(part.capitalize() for part in name.split("_"))


def write(method):
    fields, seen = {}, []
    for number, field in enumerate(method.attributes(), start=1):
        value = FIXED[field] if field in FIXED else value_of(getattr(method, "_" + field), number)
        fields[field] = value
        seen.append("%s: %s" % (NAMES.get(field, field), debug(value)))
    bytes_ = frame.marshal(method(**fields), 3)
    class_name, name = method.name.split(".")
    inner = "%s { %s }" % (name, ", ".join(seen)) if seen else name
    print("%s\t%s%s(%s)" % (bytes_.hex(), class_name, name, inner))


for _, method in sorted(commands.INDEX_MAPPING.items()):
    write(method)
