"""Ways in which FerryMQ is made to seem wrong, to show that the comparison would notice."""


def _counting(name, change, every=7):
    """Changes each `every`th event of one name."""

    def make():
        seen = [0]

        def broken(event):
            if event[1] != name:
                return event
            seen[0] += 1
            return change(event) if seen[0] % every == 0 else event

        return broken

    return make


def _with(**changed):
    def change(event):
        on, name, values, properties, body = event
        return on, name, {**values, **changed}, properties, body

    return change


def _body(event):
    return (*event[:4], event[4] + b"!")


def _headers(event):
    on, name, values, properties, body = event
    return on, name, values, [one for one in properties if one[0] != "headers"], body


BREAKS = {
    "redelivered": _counting("basic.deliver", _with(redelivered=True)),
    "lost-delivery": _counting("basic.deliver", lambda event: None),
    "body": _counting("basic.get-ok", _body),
    "headers": _counting("basic.get-ok", _headers, every=1),
    "nacked": _counting("basic.ack", lambda event: (event[0], "basic.nack", *event[2:])),
    "lost-confirm": _counting("basic.ack", lambda event: None),
    "text": _counting("channel.close", _with(text="PRECONDITION_FAILED"), every=1),
    "lost-return": _counting("basic.return", lambda event: None),
    "count": _counting("queue.purge-ok", _with(messages=0), every=1),
}
