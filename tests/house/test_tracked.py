"""What is committed: nothing that is true of one machine only, nothing third-party, versions that fit together."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from packaging.version import Version

from .pins import plain, requirements
from .rooms import ROOT

# Written in pieces, or this file would be its own finding.
HOSTS = [".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("npmjs", "com"), ("debian", "org"))]
HOSTS += [".".join(("download", "pytorch", "org")), ".".join(("pypi", "tuna")), ".".join(("hf-mirror", "com"))]
PATHS = re.compile("(?<![\\w.$}~*-])/" + "(?:work|root|home/[a-z]+|Users/[a-z]+|tmp/[a-z]+|opt/[a-z]+)(?:/|\\b)")
LARGEST_BYTES = 300_000


def tracked() -> list[Path]:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def test_no_path_of_a_machine_and_no_registry_is_named() -> None:
    found = []
    for path in tracked():
        for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1):
            if PATHS.search(line) or any(host in line for host in HOSTS):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert found == []


def test_the_search_finds_what_it_should() -> None:
    assert PATHS.search("open('/" + "root/x')") and PATHS.search("at /" + "tmp/abc") and PATHS.search("see /" + "work/main")
    assert not PATHS.search("a/work/b") and not PATHS.search("$HOME/" + "work/") and not PATHS.search("work/main")


def test_nothing_large_and_no_weights_are_committed() -> None:
    assert [str(path) for path in tracked() if path.stat().st_size > LARGEST_BYTES] == []
    assert [str(path) for path in tracked() if path.suffix in (".gguf", ".safetensors", ".bin", ".npy", ".pt", ".parquet", ".whl")] == []


def pinned() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.!]*", line) for line in lines), "only NAME==VERSION belongs there"
    return {plain(name): version for name, _, version in (line.partition("==") for line in lines)}


def test_everything_that_is_asked_for_is_pinned_within_its_range() -> None:
    pins = pinned()
    for need in requirements():
        assert plain(need.name) in pins, f"constraints.txt lacks {need.name}: `make constraints`"
        assert need.specifier.contains(Version(pins[plain(need.name)])), f"constraints.txt: {need.name} is outside {need.specifier}"
    assert pins["torch"] == "2.13.0"
    assert "torchvision" not in pins, "it wants another torch"


def test_continuous_integration_runs_what_developers_run() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text() and {"make check", "make test"} <= set(script.read_text().splitlines())


@pytest.mark.parametrize("target", ["setup", "demo", "test", "check", "bench"])
def test_every_target_makes_the_environment_it_needs(target: str, tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    planned = subprocess.run(["make", "--dry-run", target], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "pip install --quiet $(grep '^torch==' constraints.txt)" in planned
    assert planned.index("grep '^torch==") < planned.index("--editable '.[dev]'")
