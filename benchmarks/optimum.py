"""What no cache can beat: it would have to know the future."""

from heapq import heappop, heappush

NEVER = 1 << 60


def belady(keys, capacity):
    """Hits of the clairvoyant cache of `capacity` entries: what is needed last goes first (Belady's MIN).

    That may be what has just been loaded: some caches refuse to keep it, and they cannot beat this one either.
    """
    following = next_uses(keys)
    held, farthest, hits = {}, [], 0
    for number, key in enumerate(keys):
        hits += key in held
        held[key] = following[number]
        heappush(farthest, (-following[number], key))
        while len(held) > capacity:
            at, doomed = heappop(farthest)
            if held.get(doomed) == -at:
                del held[doomed]
    return hits


def bound(keys, weights, capacity, worth):
    """The most that hits can be worth together in a cache of `capacity` weights, each hit `worth[key]`.

    With sizes the optimum itself is out of reach (NP-hard). This is PFOO-L (Berger, Beckmann and Harchol-Balter, 2018): to
    hit, a value must be held from the access before, which takes its weight times that long of the capacity times the
    length of the trace. The most worthwhile are taken until that is spent, whether or not they fit at each moment.
    """
    following = next_uses(keys)
    spans = [
        (weights[key] * (following[number] - number), worth[key])
        for number, key in enumerate(keys)
        if following[number] < NEVER and weights[key] <= capacity
    ]
    spans.sort(key=lambda span: span[0] / max(span[1], 1))
    left, total = capacity * len(keys), 0.0
    for takes, gives in spans:
        if takes > left:
            return total + gives * left / takes
        left -= takes
        total += gives
    return total


def next_uses(keys):
    """For each access the number of the next one to the same key, NEVER for the last."""
    following, seen = [NEVER] * len(keys), {}
    for number in range(len(keys) - 1, -1, -1):
        key = keys[number]
        following[number] = seen.get(key, NEVER)
        seen[key] = number
    return following
