"""Write constraints.txt: the exact versions of all that the installed extras need, and of nothing else."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
HEAD = """\
# Exact versions of everything Danlu is developed and tested with; pyproject.toml says which ranges it works with.
# Written after an update by: make constraints
"""


def plain(name: str) -> str:
    """A package's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements() -> list[Requirement]:
    """What pyproject.toml asks for: to build, to run, and all extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lines = project["build-system"]["requires"] + project["project"]["dependencies"]
    lines += [line for extra in project["project"]["optional-dependencies"].values() for line in extra]
    return [need for need in map(Requirement, lines) if need.name != "danlu"]


def pins() -> dict[str, str]:
    """Name -> version of the closure of `requirements`, as installed here."""
    found: dict[str, str] = {}
    seen: set[tuple[str, tuple[str, ...]]] = set()
    todo = requirements()
    while todo:
        need = todo.pop()
        extras = ("", *sorted(need.extras))
        if (plain(need.name), extras) in seen:
            continue
        seen.add((plain(need.name), extras))
        installed = importlib.metadata.distribution(need.name)
        found[plain(need.name)] = installed.version.partition("+")[0]  # 2.13.0+cpu is 2.13.0 for another machine
        for line in installed.requires or []:
            inner = Requirement(line)
            if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append(inner)
    return found


if __name__ == "__main__":
    print(HEAD + "".join(f"{name}=={version}\n" for name, version in sorted(pins().items())), end="")
