"""What a local function may be given, checked: each raises an error that names the argument and what is allowed."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tiered_cache._errors import ConfigurationError
from tiered_cache._units import seconds, shown

MOST_BYTES = 6 << 20
"""Of a synchronous invocation's event (Developer Guide, "Lambda quotas")."""
MOST_CONTEXT = 3583
"""Bytes of a client's context in base64 (API reference, Invoke)."""
LONGEST = 900
"""Seconds that an invocation may have at most (ibid.)."""
LEAST_MEMORY, MOST_MEMORY = 128, 10_240
"""Megabytes that a function may have (ibid.)."""
RESERVED = frozenset(
    {
        "AWS_EXECUTION_ENV",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
        "AWS_LAMBDA_FUNCTION_NAME",
        "AWS_LAMBDA_FUNCTION_VERSION",
        "AWS_LAMBDA_INITIALIZATION_TYPE",
        "AWS_LAMBDA_LOG_GROUP_NAME",
        "AWS_LAMBDA_LOG_STREAM_NAME",
        "AWS_LAMBDA_MAX_CONCURRENCY",
        "AWS_LAMBDA_RUNTIME_API",
        "LAMBDA_RUNTIME_DIR",
        "LAMBDA_TASK_ROOT",
        "_HANDLER",
        "_X_AMZN_TRACE_ID",
    }
)
"""Variables that Lambda keeps for itself (Developer Guide, "Defined runtime environment variables"). Credentials and
region, which it keeps too, are a function's own here: they lead to local services.
"""


_INHERITED = ("HOME", "PYTHONDONTWRITEBYTECODE")
_INHERITED_FOLDERS = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH")
"""Of the test's own environment, what a container's processes need to start here; nothing else gets to them."""


def inherited() -> dict[str, str]:
    """What the containers' processes have of this one's environment. Folders are as seen from here: those processes have
    another working directory, and this one may get another.
    """
    kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    for name in _INHERITED_FOLDERS:
        if folders := os.environ.get(name):
            kept[name] = os.pathsep.join(str(Path(one).absolute()) for one in folders.split(os.pathsep))
    return kept


def folder(name: str, given: object) -> Path:
    """A path, as seen from here. Raises ConfigurationError."""
    if isinstance(given, str | os.PathLike):
        return Path(os.fsdecode(given)).absolute()
    raise ConfigurationError(f"{name} must be the path of a folder; got {shown(given)}")


def like(name: str, given: object, pattern: str, described: str) -> str:
    """Text of that pattern. Raises ConfigurationError."""
    if isinstance(given, str) and re.fullmatch(pattern, given):
        return given
    raise ConfigurationError(f"{name} must be text: {described}; got {shown(given)}")


def function_seconds(name: str, given: object) -> float:
    """A duration in seconds. Raises ConfigurationError where no function can have that long."""
    if (number := seconds(name, given)) > LONGEST:
        raise ConfigurationError(f"{name} must be at most {LONGEST} seconds, Lambda's limit; got {shown(given)}")
    return number


def tenant_id(given: object) -> str | None:
    """A tenant's name, or None. Raises ConfigurationError for what Lambda refuses."""
    if given is None:
        return None
    return like("tenant", given, r"[a-zA-Z0-9._:/=+\-@ ]{1,256}", "1 to 256 letters, digits, spaces and ._:/=+-@")


def variables(given: object) -> dict[str, str]:
    """The function's own variables. Raises ConfigurationError for what is none, or would hide one of the platform's."""
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"environment must be a mapping of names to values; got {shown(given)}")
    for name, value in given.items():
        if name in RESERVED:
            raise ConfigurationError(f"environment must not have {name}, which the platform sets itself")
        described = "a letter, then one or more letters, digits and underscores"
        like("each name in environment", name, "[a-zA-Z][a-zA-Z0-9_]+", described)
        if not isinstance(value, str) or "\0" in value:  # which may be a secret, and is not shown
            raise ConfigurationError(f"environment must have text without NUL as values; {name} has not")
    return dict(given)


def commands(given: object) -> list[list[str]]:
    """Commands, each a list of words. Raises ConfigurationError."""
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ConfigurationError(f"extensions must be a list of commands; got {shown(given)}")
    for command in given:
        words: Any = () if isinstance(command, str) or not isinstance(command, Sequence) else command
        if not words or not all(isinstance(word, str | os.PathLike) for word in words):
            raise ConfigurationError(f"each of extensions must be a command as a list of words; got {shown(command)}")
    return [[os.fsdecode(word) for word in command] for command in given]


def encoded(name: str, value: Any) -> bytes:
    """`value` as JSON. Raises TypeError, naming the argument, where JSON cannot carry it; ConfigurationError if too long."""
    try:
        text = json.dumps(value, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be something that JSON can carry: {error}") from error
    if len(text) > MOST_BYTES:
        raise ConfigurationError(f"{name} must be at most {MOST_BYTES} bytes of JSON; got {len(text)}")
    return text


def client_context(given: Any) -> bytes | None:
    """The client's context as JSON, or None. Raises as `encoded` does."""
    text = None if given is None else encoded("client_context", given)
    if text is not None and (sent := len(base64.b64encode(text))) > MOST_CONTEXT:
        raise ConfigurationError(
            f"client_context must be at most {MOST_CONTEXT} bytes of base64, as it is sent; got {sent}, of {len(text)} of JSON"
        )
    return text
