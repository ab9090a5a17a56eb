"""A script: copies of one process with a warm cache, as a snapshot makes them. Each loads a key of its own.

`python copies.py URL COPIES` says in JSON what each copy is, when its load has begun, and ends it with a line of input.
A copy of a snapshot has the pid of the original, and no fork has told it that it is one: its hooks alone do.
"""

import json
import os
import sys

os.getpid = lambda: 1
os.register_at_fork = lambda **_: None

from tiered_cache import MemoryTier, RedisTier, TieredCache  # noqa: E402


def live(cache, key, go_on):
    cache.after_restore()

    def load():
        sys.stdout.write(json.dumps({"key": key, "id": cache.stats().container.id}) + "\n")
        sys.stdout.flush()
        os.read(go_on, 1)
        return key

    assert cache.get_or_load(key, load) == key


def main():
    cache = TieredCache(MemoryTier(ttl=60), RedisTier(sys.argv[1], ttl="1h", timeout=5, jitter=0.9), namespace="copies")
    cache.get_or_load("warm", lambda: 1)
    cache.stats()  # it has an id by now
    cache.before_snapshot()
    go_on, go = os.pipe()
    copies = int(sys.argv[2])
    for number in range(copies):
        if os.fork() == 0:
            status = 1
            try:
                live(cache, f"copy-{number}", go_on)
                status = 0
            finally:
                os._exit(status)
    sys.stdin.readline()
    os.write(go, b"." * copies)
    sys.exit(any(os.wait()[1] for _ in range(copies)))


if __name__ == "__main__":
    main()
