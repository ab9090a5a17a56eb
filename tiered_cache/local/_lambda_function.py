"""What a local function is made of, checked once, and the environment its processes see."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from tiered_cache._errors import ConfigurationError
from tiered_cache._options import flag, one_of
from tiered_cache._units import whole
from tiered_cache.local import _clients
from tiered_cache.local._lambda_options import LEAST_MEMORY, MOST_MEMORY, like

Initialization: TypeAlias = Literal["on-demand", "provisioned-concurrency", "snap-start", "lambda-managed-instances"]

ACCOUNT = "123456789012"
VERSION = "$LATEST"


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function and its configuration; `LocalLambda` says what each field means."""

    handler: str
    directory: Path
    containers: int
    timeout: float
    memory: int
    environment: Mapping[str, str]
    inherited: Mapping[str, str]
    initialization: Initialization
    processes: int
    freeze: bool
    still_clock: bool
    extensions: Sequence[Sequence[str]]
    python_version: str | None
    init_timeout: float
    name: str

    def __post_init__(self) -> None:
        like("handler", self.handler, r"\S*[^\s.]\.[^\s.]+", "'module.function'")
        if not self.directory.is_dir():
            raise ConfigurationError(f"directory must be an existing folder; got {str(self.directory)!r}")
        one_of("initialization", self.initialization, get_args(Initialization))
        for option in ("freeze", "still_clock"):
            flag(option, getattr(self, option))
        if self.still_clock and not self.freezes:
            raise ConfigurationError("still_clock=True needs containers that are frozen")
        whole("containers", self.containers, least=1)
        whole("memory", self.memory, least=LEAST_MEMORY, most=MOST_MEMORY)
        whole("processes", self.processes, least=1)
        if self.processes > 1 and not self.managed:
            raise ConfigurationError(
                f'processes means nothing but with initialization="lambda-managed-instances"; got {self.processes}'
            )
        like("name", self.name, r"[a-zA-Z0-9_-]{1,64}", "1 to 64 letters, digits, hyphens and underscores")
        if self.python_version is not None:
            like("python_version", self.python_version, r"3\.[0-9]{1,2}", 'such as "3.13"')

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
        root = str(self.directory.resolve())
        version = self.python_version or f"{sys.version_info.major}.{sys.version_info.minor}"
        variables = {
            **self.inherited,
            "PYTHONPATH": os.pathsep.join(filter(None, (root, self.inherited.get("PYTHONPATH")))),
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
