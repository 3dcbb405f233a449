"""The room map: what stands in danlu/, and what ARCHITECTURE.md says of it.

`python -m tests.house.rooms` (make rooms) writes the map in ARCHITECTURE.md anew: a line that is there keeps its words,
a new file gets its docstring's first sentence, a file that is gone loses its line.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURE = ROOT / "ARCHITECTURE.md"
START, END = "<!-- rooms -->", "<!-- end of rooms -->"
FLOORS = (
    "cli",
    "recipes",
    "server",
    "reports",
    "compression",
    "insight",
    "training",
    "evaluation",
    "tasks",
    "inference",
    "kernels",
    "data",
    "models",
)
FLOORS += ("nn", "inputs", "metrics", "security", "base")
LINE = re.compile(r"^( *)(\S+)(?: +(\S.*))?$")


def standing() -> dict[str, str]:
    """Path below danlu/ -> its docstring's first sentence, for every module and data file; a folder's own is its __init__'s."""
    found = {}
    for path in sorted((ROOT / "danlu").rglob("*")):
        name = path.relative_to(ROOT / "danlu").as_posix()
        if "__pycache__" in name or path.name in ("__init__.py", "py.typed"):
            continue
        if path.is_dir():
            own = path / "__init__.py"
            if own.is_file():
                found[f"{name}/"] = first_sentence(own)
        elif path.suffix == ".py":
            found[name] = first_sentence(path)
        elif path.suffix in (".toml", ".html", ".css", ".js", ".cpp"):
            found[name] = ""
    return found


def first_sentence(path: Path) -> str:
    """A module's docstring up to its first line's end."""
    lines = (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").strip().splitlines()
    return lines[0].rstrip(".") if lines else ""


def named(text: str) -> dict[str, str]:
    """Path below danlu/ -> what the map in ARCHITECTURE.md says of it."""
    block = text.partition(START)[2].partition(END)[0]
    found: dict[str, str] = {}
    folders: list[str] = []
    for line in block.splitlines():
        match = LINE.match(line)
        if not match or match[2].startswith("```") or match[2] == "danlu/":
            continue
        depth = len(match[1]) // 2 - 1
        folders = folders[:depth]
        name = "".join(folders) + match[2]
        found[name] = match[3] or ""
        if match[2].endswith("/"):
            folders.append(match[2])
    return found


def drawn(rooms: dict[str, str]) -> str:
    """The map, roof first, one line a room."""

    def place(name: str) -> tuple[int, str]:
        floor = name.split("/")[0].removesuffix(".py")
        return (FLOORS.index(floor) if floor in FLOORS else -1, name)

    lines = ["danlu/"]
    for name in sorted(rooms, key=place):
        parts = name.rstrip("/").split("/")
        shown = "  " * len(parts) + parts[-1] + ("/" if name.endswith("/") else "")
        lines.append(f"{shown:<26} {rooms[name]}".rstrip())
    return "\n".join(lines)


def write() -> None:
    """Bring the map up to date with the disk."""
    text = ARCHITECTURE.read_text("utf-8")
    said = named(text)
    rooms = {name: said.get(name) or sentence for name, sentence in standing().items()}
    before, after = text.partition(START)[0], text.partition(END)[2]
    ARCHITECTURE.write_text(f"{before}{START}\n```\n{drawn(rooms)}\n```\n{END}{after}", "utf-8")


if __name__ == "__main__":
    write()
