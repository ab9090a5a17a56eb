"""What is built is what was written: the adapters and examples get into the package, and the link is still a link."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOT_SOURCES = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist of this checkout, and the wheel made from it. In a copy: a build writes where it reads, and another Python's
    tests may build at the same time.
    """
    folder = tmp_path_factory.mktemp("built")
    sources, output = folder / "sources", folder / "output"
    shutil.copytree(ROOT, sources, symlinks=True, ignore=NOT_SOURCES)
    ran = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", output, sources], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    with zipfile.ZipFile(next(output.glob("*.whl"))) as wheel:
        in_wheel = set(wheel.namelist())
    with tarfile.open(next(output.glob("*.tar.gz"))) as sdist:
        in_sdist = {name.split("/", 1)[1] for name in sdist.getnames() if "/" in name}
    return in_sdist, in_wheel, next(output.glob("*.whl"))


def modules(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.py")}


def test_every_module_is_in_the_wheel(built):
    """A new subpackage that nobody wrote into `packages` would be missing in silence."""
    _, in_wheel, _ = built
    package = {f"tiered_cache/{name}" for name in modules(ROOT / "tiered_cache")}
    assert package <= in_wheel
    assert {"tiered_cache/py.typed", "tiered_cache/simulation/prices.toml"} <= in_wheel


def test_adapters_examples_and_benchmarks_are_inside_the_package(built):
    """They stand at the top level of the repository, and must not stand there in a site-packages."""
    _, in_wheel, _ = built
    assert {f"tiered_cache/adapters/{name}" for name in modules(ROOT / "adapters")} <= in_wheel
    assert {f"tiered_cache/benchmarks/{name}" for name in modules(ROOT / "benchmarks")} <= in_wheel
    stand_alone = {name for name in modules(ROOT / "examples") if name.startswith("sam/")}  # is deployed, not imported
    assert {f"tiered_cache/local/examples/{name}" for name in modules(ROOT / "examples") - stand_alone} <= in_wheel
    assert {name.split("/")[0] for name in in_wheel if "dist-info" not in name} == {"tiered_cache"}


@pytest.mark.parametrize("folder", ["adapters", "benchmarks"])
def test_the_sdist_has_what_stands_at_the_top_level(built, folder):
    """The wheel is made from it."""
    in_sdist, _, _ = built
    assert {f"{folder}/{name}" for name in modules(ROOT / folder)} <= in_sdist


@pytest.mark.parametrize("folder", ["adapters", "benchmarks"])
def test_the_link_in_the_package_is_a_link(folder):
    """Without it static tools and a checkout do not find the modules; a copy would make second classes."""
    link = ROOT / "tiered_cache" / folder
    assert link.is_symlink()
    assert link.resolve() == ROOT / folder


def test_the_wheel_works_from_another_directory(built, tmp_path):
    """Unpacked anywhere, with no checkout in sight, it imports and caches, and the command finds its benchmarks."""
    with zipfile.ZipFile(built[2]) as wheel:
        wheel.extractall(tmp_path)
    program = (
        "import tiered_cache, tiered_cache.adapters.s3, pathlib, sys\n"
        "assert pathlib.Path(tiered_cache.__file__).is_relative_to(sys.argv[1]), tiered_cache.__file__\n"
        "cache = tiered_cache.TieredCache()\n"
        "print(cache.get_or_load('key', lambda: 'value'))\n"
        "from tiered_cache._command import main\n"
        "main(['bench', 'list'])\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert ran.stdout.startswith("value\ntiers: "), ran.stderr
