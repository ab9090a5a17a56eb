"""What a local function is made of, checked once, and the environment its processes see."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from tiered_cache._errors import ConfigurationError
from tiered_cache.local import _clients

Initialization: TypeAlias = Literal["on-demand", "provisioned-concurrency", "snap-start", "lambda-managed-instances"]

ACCOUNT = "123456789012"
VERSION = "$LATEST"
MOST_BYTES = 6 << 20
"""Of a synchronous invocation's event (Developer Guide, "Lambda quotas")."""
_INHERITED = ("PATH", "HOME", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
"""Of the test's own environment, what a container's processes need to start here; nothing else gets to them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function and its configuration; `LocalLambda` says what each field means."""

    handler: str
    directory: Path
    containers: int
    timeout: float
    memory: int
    environment: Mapping[str, str]
    initialization: Initialization
    processes: int
    freeze: bool
    still_clock: bool
    extensions: Sequence[Sequence[str]]
    python_version: str | None
    init_timeout: float
    name: str

    def __post_init__(self) -> None:
        if "." not in self.handler.strip("."):
            raise ConfigurationError(f"handler must be 'module.function'; got {self.handler!r}")
        if not self.directory.is_dir():
            raise ConfigurationError(f"directory must be an existing folder; got {str(self.directory)!r}")
        if self.initialization not in get_args(Initialization):
            allowed = ", ".join(map(repr, get_args(Initialization)))
            raise ConfigurationError(f"initialization must be one of {allowed}; got {self.initialization!r}")
        for name, value in dict[Any, Any](self.environment).items():
            if not (isinstance(name, str) and isinstance(value, str)):
                raise ConfigurationError(f"environment must have text for names and values; {name!r} has not")
        for command in self.extensions:
            if isinstance(command, str) or not command:
                raise ConfigurationError(f"each of extensions must be a command as a list of words; got {command!r}")
        if self.still_clock and not self.freezes:
            raise ConfigurationError("still_clock=True needs containers that are frozen")
        self._check_numbers()

    def _check_numbers(self) -> None:
        for name, least in (("containers", 1), ("memory", 128), ("processes", 1)):
            if not isinstance(given := getattr(self, name), int) or given < least:
                raise ConfigurationError(f"{name} must be a whole number of at least {least}; got {given!r}")
        for name in ("timeout", "init_timeout"):
            checked_seconds(name, getattr(self, name))

    @property
    def managed(self) -> bool:
        """True on Managed Instances: several processes, never frozen, no timeout that is enforced."""
        return self.initialization == "lambda-managed-instances"

    @property
    def freezes(self) -> bool:
        """True if containers are stopped between invocations."""
        return self.freeze and not self.managed

    @property
    def concurrency(self) -> int:
        """Invocations that a container takes at once."""
        return self.processes if self.managed else 1

    @property
    def arn(self) -> str:
        return f"arn:aws:lambda:{_clients.REGION}:{ACCOUNT}:function:{self.name}"

    @property
    def command(self) -> list[str]:
        """What starts the runtime: the client that the managed Python runtimes have."""
        return [sys.executable, "-m", "awslambdaric", self.handler]

    def variables(self, *, address: str, scratch: Path, stream: str) -> dict[str, str]:
        """The environment of a container's processes, `environment` on top of what Lambda sets."""
        kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        root = str(self.directory.resolve())
        version = self.python_version or f"{sys.version_info.major}.{sys.version_info.minor}"
        variables = {
            **kept,
            "PYTHONPATH": os.pathsep.join(filter(None, (root, kept.get("PYTHONPATH")))),
            "LANG": "en_US.UTF-8",
            "TZ": ":UTC",
            "TMPDIR": str(scratch),
            "AWS_LAMBDA_RUNTIME_API": address,
            "AWS_LAMBDA_INITIALIZATION_TYPE": self.initialization,
            "AWS_LAMBDA_FUNCTION_NAME": self.name,
            "AWS_LAMBDA_FUNCTION_VERSION": VERSION,
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(self.memory),
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{self.name}",
            "AWS_LAMBDA_LOG_STREAM_NAME": stream,
            "AWS_EXECUTION_ENV": f"AWS_Lambda_python{version}",
            "AWS_REGION": _clients.REGION,
            "AWS_DEFAULT_REGION": _clients.REGION,
            "AWS_ACCESS_KEY_ID": _clients.ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": _clients.SECRET_KEY,
            "LAMBDA_TASK_ROOT": root,
            "_HANDLER": self.handler,
        }
        if self.managed:
            variables["AWS_LAMBDA_MAX_CONCURRENCY"] = str(self.processes)
        return variables | dict(self.environment)


def checked_seconds(name: str, given: float) -> float:
    """`given`. Raises ConfigurationError where no function can have that long."""
    if not 0 < given <= 900:
        raise ConfigurationError(f"{name} must be seconds above 0 and at most 900; got {given!r}")
    return given


def encoded(name: str, value: Any) -> bytes:
    """`value` as JSON. Raises TypeError, naming the argument, where JSON cannot carry it; ConfigurationError if too long."""
    try:
        text = json.dumps(value).encode()
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be something that JSON can carry: {error}") from error
    if len(text) > MOST_BYTES:
        raise ConfigurationError(f"{name} must be at most {MOST_BYTES} bytes of JSON; got {len(text)}")
    return text
