"""One way to read from every cache, be it called, called with a loader, or awaited: in a loop, one by one, and all at once."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tiered_cache.benchmarks.harness import each


def in_threads(count, work):
    """Do `work` in so many threads at once, and wait for all: after Ctrl-C, too, for they need what is closed next."""
    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(work) for _ in range(count)]:
            done.result()


class Called:
    """A cache that is read by a call: `get(key)`."""

    def __init__(self, get):
        self.get = get

    def loop(self, keys):
        """A function that reads each of `keys`, with nothing around it."""
        get = self.get

        def read():
            for key in keys:
                get(key)

        return read

    def sampler(self, key):
        """A function that reads `key` so many times and gives the seconds of each."""
        return each(partial(self.get, key))

    def race(self, key, count):
        """Read `key` by so many threads at once."""
        gate = threading.Barrier(count, timeout=60)

        def read():
            gate.wait()
            self.get(key)

        in_threads(count, read)


class WithLoader(Called):
    """A cache that is handed the loader at each read: `get(key, load)`."""

    def __init__(self, get, load):
        super().__init__(lambda key: get(key, load))
        self.given, self.load = get, load

    def loop(self, keys):
        get, load = self.given, self.load

        def read():
            for key in keys:
                get(key, load)

        return read


class Awaited:
    """A cache that is awaited: `await get(key)`, all in one running loop."""

    def __init__(self, get, run):
        self.get, self.run = get, run

    def loop(self, keys):
        async def read():
            get = self.get
            for key in keys:
                await get(key)

        return lambda: self.run(read())

    def sampler(self, key):
        async def sample(calls):
            get, clock, seconds = self.get, time.perf_counter, []
            for _ in range(calls):
                started = clock()
                await get(key)
                seconds.append(clock() - started)
            return seconds

        return lambda calls: self.run(sample(calls))

    def race(self, key, count):
        async def read():
            await asyncio.gather(*(self.get(key) for _ in range(count)))

        self.run(read())
