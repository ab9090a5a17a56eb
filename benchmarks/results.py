"""What was measured, as one document of JSON."""

import json
import sys
from dataclasses import asdict, dataclass, field, fields
from types import UnionType
from typing import get_args, get_origin, get_type_hints

from tiered_cache._units import shown
from tiered_cache.benchmarks import files, machine
from tiered_cache.benchmarks.harness import Result, better_of

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Document:
    """A run: the machine, the results, and why parts have none. seconds: of each part."""

    machine: dict
    quick: bool
    results: list[Result] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def write(document, path):
    content = {"format": FORMAT} | asdict(document)
    files.put(json.dumps(content, indent=1, ensure_ascii=False) + "\n", path)


class Keeper:
    """Writes a run's results into one file, again and again. What prevents it is told, and the measuring goes on.

    has_failed: whether the last of them are not there.
    """

    def __init__(self, path):
        self.path = path
        self.has_failed = False

    def __call__(self, document):
        try:
            write(document, self.path)
        except Exception as error:  # noqa: BLE001  # an hour's figures may still be printed, and written the next time
            print(f"\nThe results so far could not be written: {type(error).__name__}: {error}", file=sys.stderr)
            self.has_failed = True
        else:
            self.has_failed = False


def read(path):
    """The document in that file. Raises ValueError, which says what is wrong with it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        _check(content.pop("format", None) if isinstance(content, dict) else None)
        found = [_result(given) for given in content.pop("results")]
        _check_machine(content["machine"])
        return _of_its_types(Document(results=found, **content))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no results of `tiered-cache bench --json`: {error}") from error


def _check(version):
    if version is None:
        raise ValueError("it is some other JSON")
    if version != FORMAT:
        raise ValueError(f"it is of version {version!r}, and this is {FORMAT}")


def _check_machine(facts):
    """Raises ValueError unless all is there that is shown of it."""
    try:
        machine.line(facts)
        facts["at"].strip()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"its machine is not described as it should be: {type(error).__name__}: {error}") from error


def _of_its_types(made):
    """The same dataclass, if each field holds what it should; a whole number may stand for another."""
    for name, hint in get_type_hints(type(made)).items():
        kinds = tuple(get_origin(kind) or kind for kind in (get_args(hint) if isinstance(hint, UnionType) else (hint,)))
        value = getattr(made, name)
        if not isinstance(value, (*kinds, int) if float in kinds else kinds):
            raise ValueError(f"{name} cannot be {shown(value)}")  # noqa: TRY004  # it is what the file holds
    return made


def _result(given):
    known = {one.name for one in fields(Result)}
    facts = {name: value for name, value in given.items() if name in known}
    facts.setdefault("better", better_of(facts["unit"]))  # which files of earlier versions do not say
    facts["percentiles"] = tuple((level, value) for level, value in facts.get("percentiles", ()))
    return _of_its_types(Result(**facts))
