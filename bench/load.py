"""Loading SmolLM2 from GGUF, and again from safetensors: seconds, and memory above `import torch`, each in a process of its own.

python -m bench.load
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import danlu

MODEL = "smollm2-135m-instruct"
MEASURE = """
import json, sys, threading, time
import psutil, torch
import danlu.models.loading as loading
process = psutil.Process()
before = process.memory_full_info().uss
highest, ended = [before], threading.Event()
def watch():
    while not ended.wait(0.005):
        highest[0] = max(highest[0], process.memory_full_info().uss)
watcher = threading.Thread(target=watch)
watcher.start()
began = time.perf_counter()
loaded = loading.load_model(sys.argv[1])
seconds = time.perf_counter() - began
ended.set()
watcher.join()
weights = sum(p.numel() * 4 for p in loaded.module.parameters())
print(json.dumps({"seconds": round(seconds, 2), "highest_memory_over_weights": round((highest[0] - before) / weights, 3),
                  "memory_after_over_weights": round((process.memory_full_info().uss - before) / weights, 3)}))
"""


def main() -> None:
    """Print one JSON object a format."""
    with tempfile.TemporaryDirectory() as folder:
        danlu.export(MODEL, format="hf", out=Path(folder) / "hf")
        for what, place in (("GGUF", MODEL), ("safetensors", f"{folder}/hf")):
            said = subprocess.run([sys.executable, "-c", MEASURE, place], check=True, capture_output=True, text=True).stdout
            print(json.dumps({"what": f"load {MODEL} from {what}"} | json.loads(said)), flush=True)


if __name__ == "__main__":
    main()
