"""Draw docs/pictures/demo.svg from the summary of a demonstration: python docs/pictures/draw.py runs/demo/summary.json."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

from rich.console import Console

from danlu.recipes.demo import Summary, table_of


def main() -> None:
    """Write the drawing beside this file."""
    summary = Summary(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    console = Console(record=True, width=110, file=io.StringIO())
    console.print(table_of(summary))
    drawn = console.export_svg(title="make demo")
    drawn = re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.S)  # no fonts from elsewhere
    Path(__file__).with_name("demo.svg").write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main()
