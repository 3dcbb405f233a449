"""How long `import danlu` and `danlu --help` take, whole processes, best and median of five.

python -m bench.start
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

COMMANDS = {"python": ["-c", ""], "import danlu": ["-c", "import danlu"], "danlu --help": ["-m", "danlu", "--help"]}


def main() -> None:
    """Print one JSON object a command; the bare interpreter's own start is the first."""
    for name, arguments in COMMANDS.items():
        times = []
        for _ in range(5):
            began = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            times.append(time.perf_counter() - began)
        print(json.dumps({"what": name, "best_seconds": round(min(times), 3), "median_seconds": round(statistics.median(times), 3)}))


if __name__ == "__main__":
    main()
