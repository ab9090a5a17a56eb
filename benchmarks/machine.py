"""What the figures were measured on."""

import os
import platform
import re
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "tiered-cache",
    "redis",
    "hiredis",  # where it is installed, redis-py parses with it
    "msgpack",
    "cachetools",
    "boto3",
    "cachebox",
    "moka-py",
    "theine",
    "dogpile.cache",
    "cashews",
    "aiocache",
    "cachekit",
    "aws-lambda-powertools",
)


def facts():
    """The machine, its load, and the versions of what is compared (None: not installed)."""
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "megahertz": _megahertz(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def line(facts):
    """The facts for people."""
    speed = f" at {facts['megahertz']:.0f} MHz" if facts["megahertz"] else ", of a frequency that it does not tell"
    load = "load unknown" if facts["load"] is None else f"load {facts['load']:.1f}"
    cores = f"{facts['usable_cores'] or facts['cores']} of {facts['cores']} cores"
    versions = ", ".join(f"{name} {found}" for name, found in facts["versions"].items() if found)
    missing = ", ".join(name for name, found in facts["versions"].items() if not found)
    text = f"{facts['python']}, {facts['system']}, {facts['processor']}{speed}, {cores}, {load}; {versions}"
    return f"{text}; not installed: {missing}" if missing else text


def _version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpuinfo(field):
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux
        return None
    found = re.search(rf"^{field}\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else None


def _processor():
    return _cpuinfo("model name") or platform.processor() or "a processor that it does not name"


def _megahertz():
    scaled = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    if scaled.is_file():
        return int(scaled.read_text(encoding="utf-8")) / 1e3
    told = _cpuinfo("cpu MHz")
    return float(told) if told else None
