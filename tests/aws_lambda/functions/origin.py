"""An origin made of files, which containers ask and tests look at; and a wall clock that tests set ahead.

The folder is shared by the containers of a function and the test that invokes it: what one side waits for is a file.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path


def wait_until(true, seconds=60.0):
    """Return as soon as `true()`; fail after `seconds`."""
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, "this did not come true in time"
        time.sleep(0.005)


def given(name):
    """What a variable of the environment says, in JSON; nothing where it is not there."""
    return json.loads(os.environ.get(name, "{}"))


class Origin:
    """One value per key. A load has read it before it waits, so that what it brings may be out of date by then."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)

    def put(self, key, value):
        """This is what loads that begin from now on bring."""
        written = self._folder / f"{key}.{os.getpid()}"
        written.write_text(value)
        written.replace(self._folder / f"{key}.value")  # in one step, for who reads meanwhile

    def load(self, key):
        value = (self._folder / f"{key}.value").read_text()
        with (self._folder / f"{key}.asked").open("a") as asked:
            asked.write(f"{os.getpid()}\n")
        takes, gate = self._folder / f"{key}.takes", self._gate(key, len(self.asked(key)))
        time.sleep(float(takes.read_text()) if takes.exists() else 0)
        wait_until(lambda: not gate.exists(), 90.0)
        return value

    def take(self, key, seconds):
        """Each load of `key` takes so long."""
        (self._folder / f"{key}.takes").write_text(str(seconds))

    def shut(self, key, load):
        """This load of `key`, 1 being the first, waits until it is opened."""
        self._gate(key, load).touch()

    def open(self, key, load):
        self._gate(key, load).unlink()

    def _gate(self, key, load):
        return self._folder / f"{key}.{load}.shut"

    def asked(self, key):
        """The processes that have asked for `key`, in order."""
        asked = self._folder / f"{key}.asked"
        return list(map(int, asked.read_text().split())) if asked.exists() else []

    def wait_asked(self, key, times=1):
        """Until so many loads of `key` have begun."""
        wait_until(lambda: len(self.asked(key)) >= times)


class WallClock:
    """The wall clock of all containers, ahead of the true one by as much as the test says. The monotonic one is the true."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._ahead = Path(folder) / "clock.ahead"

    def go_ahead(self, seconds):
        """Let that much time pass, in which nobody did anything."""
        written = self._ahead.with_suffix(".new")
        written.write_text(str(self.ahead + seconds))
        written.replace(self._ahead)

    @property
    def ahead(self):
        return float(self._ahead.read_text()) if self._ahead.exists() else 0.0

    def __call__(self):
        return time.time() + self.ahead

    monotonic = staticmethod(time.monotonic)
