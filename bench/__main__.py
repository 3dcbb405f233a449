"""The figures of the README, measured here and now, one JSON object a line; half an hour. Run nothing else meanwhile.

python -m bench [NAME ...]

Apart: bench.rates (half an hour). And, since they want something: bench.finetune (files of reviews), bench.baselines (the tasks' data,
which it fetches), bench.lm_eval
(an environment that holds lm-eval), bench.peers and bench.four_bits (other engines), nanoGPT in bench.loss_in_time (a clone of it).
"""

from __future__ import annotations

import subprocess
import sys

SCRIPTS = (
    "prepare",
    "train",
    "steps",
    "two_minutes",
    "loss_in_time",
    "masked",
    "checkpoint",
    "load",
    "serve",
    "embed",
    "evaluate",
    "start",
)


def main() -> int:
    """Run the named scripts, or all of them, each in a process of its own."""
    names = sys.argv[1:] or list(SCRIPTS)
    if unknown := set(names) - set(SCRIPTS):
        print(f"no benchmark is called {', '.join(sorted(unknown))}; expected {', '.join(SCRIPTS)}", file=sys.stderr)
        return 2
    return max(subprocess.run([sys.executable, "-m", f"bench.{name}"], check=False).returncode for name in names)


if __name__ == "__main__":
    sys.exit(main())
