"""A handler that reads the clocks, and threads that wait by them while the process is frozen."""

import ctypes
import os
import select
import socket
import threading
import time

ended = {}


def read():
    return {
        "monotonic": time.monotonic(),
        "perf_counter": time.perf_counter(),
        "raw": time.clock_gettime(time.CLOCK_MONOTONIC_RAW),
        "coarse": time.clock_gettime(6),  # CLOCK_MONOTONIC_COARSE, which Python has no name for
        "wall": time.time(),
        "boot": time.clock_gettime(time.CLOCK_BOOTTIME),
    }


def on_socket(seconds):
    ours, theirs = socket.socketpair()
    ours.settimeout(seconds)
    try:
        ours.recv(1)
    except TimeoutError:
        theirs.close()


def on_epoll(seconds):
    with select.epoll() as epoll:
        epoll.poll(seconds)


def on_condition(seconds):
    with (condition := threading.Condition()):
        condition.wait(seconds)


def on_lock(seconds):
    lock = threading.Lock()
    lock.acquire()
    lock.acquire(timeout=seconds)


C = ctypes.CDLL(None)
MONOTONIC = 1


class Timespec(ctypes.Structure):
    _fields_ = [("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long)]


def on_c_condition(seconds, *, by_clock):
    """C's own conditions, on which the interpreter's lock and other libraries wait: they may wake early, but not often."""
    condition, mutex, attribute = (ctypes.create_string_buffer(64) for _ in range(3))
    C.pthread_condattr_init(attribute)
    C.pthread_condattr_setclock(attribute, MONOTONIC)
    C.pthread_cond_init(condition, None if by_clock else attribute)
    C.pthread_mutex_init(mutex, None)
    C.pthread_mutex_lock(mutex)
    end = time.monotonic_ns() + int(seconds * 1e9)
    until = ctypes.byref(Timespec(end // 1_000_000_000, end % 1_000_000_000))
    clock = (MONOTONIC,) if by_clock else ()
    wait = C.pthread_cond_clockwait if by_clock else C.pthread_cond_timedwait
    for _ in range(5):
        if wait(condition, mutex, *clock, until):
            break
    C.pthread_mutex_unlock(mutex)


WAITS = {
    "sleep": time.sleep,
    "event": lambda seconds: threading.Event().wait(seconds),
    "condition": on_condition,
    "lock": on_lock,
    "select": lambda seconds: select.select([], [], [], seconds),
    "poll": lambda seconds: select.poll().poll(seconds * 1000),
    "epoll": on_epoll,
    "socket": on_socket,
    "timedwait": lambda seconds: on_c_condition(seconds, by_clock=False),
    "clockwait": lambda seconds: on_c_condition(seconds, by_clock=True),
}


def wait(name, seconds):
    before = time.monotonic()
    WAITS[name](seconds)
    ended[name] = time.monotonic() - before


def handler(event, context):
    if "wait" in event:
        for name in WAITS:
            threading.Thread(target=wait, args=(name, event["wait"]), daemon=True).start()
    time.sleep(event.get("sleep", 0.0))
    return {"clocks": read(), "ended": ended, "preloaded": os.environ.get("LD_PRELOAD", "")}
