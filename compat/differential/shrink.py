"""Makes a script that shows a difference small: fewer steps, then simpler ones, still with the same difference."""

import time


def shrink(script, shows, seconds=60.0):
    """`shows(script)` says whether it still differs in the same way. Runs out of time with the best so far."""
    deadline = time.monotonic() + seconds
    best = list(script)

    def attempt(candidate):
        nonlocal best
        if time.monotonic() < deadline and len(candidate) > 0 and shows(candidate):
            best = candidate
            return True
        return False

    changed = True
    while changed and time.monotonic() < deadline:
        changed = _fewer(lambda: best, attempt) | _simpler(lambda: best, attempt)
    return best


def _fewer(best, attempt):
    """Takes steps away: halves first, single ones last."""
    changed, size = False, max(1, len(best()) // 2)
    while size:
        at = len(best()) - size
        while at >= 0:
            script = best()
            changed |= attempt(script[:at] + script[at + size :])
            at -= size
        size //= 2
    return changed


def _simpler(best, attempt):
    """Takes single values of steps away."""
    changed = False
    for index in range(len(best())):
        for path in _paths(best()[index][2]):
            if index >= len(best()):
                return changed
            where, method, values = best()[index]
            smaller = _without(values, path)
            if smaller is not None:
                step = (where, method, smaller)
                changed |= attempt([*best()[:index], step, *best()[index + 1 :]])
    return changed


def _paths(values, above=()):
    """What could be left out. Tags are what a step is about."""
    for name, inner in values.items():
        if name in ("queue", "delivery_tag", "consumer_tag", "body") and not above:
            continue
        yield (*above, name)
        if isinstance(inner, dict) and not any(key.startswith("!") for key in inner):
            yield from _paths(inner, (*above, name))


def _without(values, path):
    first, *rest = path
    if first not in values:
        return None
    if not rest:
        return {name: value for name, value in values.items() if name != first}
    if not isinstance(values[first], dict):
        return None
    inner = _without(values[first], rest)
    return None if inner is None else {**values, first: inner}
