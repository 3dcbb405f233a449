"""What 4 bits cost a model that was trained here, beside llama.cpp's Q4_0 of the same weights: perplexity and KL against float32.

python -m bench.four_bits RUN TEXT PYTHON: RUN is a decoder trained here, TEXT a file that it did not learn from, PYTHON one that has
llama-cpp-python. Each side is measured against its own float32, over the same tokens in the same windows.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from danlu.evaluation.perplexity.fidelity import WINDOW, measure_fidelity
from danlu.models.loading import load_model, open_model, save_gguf

TOKENS = 16_384
LLAMA = """
import json, sys
import llama_cpp as llama
import numpy as np

exact, four, asked = sys.argv[1:]
setup = llama.llama_model_quantize_default_params()
setup.ftype = 2  # Q4_0
assert llama.llama_model_quantize(exact.encode(), four.encode(), setup) == 0
asked = json.load(open(asked))
models = [llama.Llama(path, n_ctx=asked["window"], n_batch=asked["window"], logits_all=True, verbose=False) for path in (exact, four)]
nats, apart, same, count = [0.0, 0.0], 0.0, 0, 0
for part in asked["parts"]:
    found = []
    for model in models:
        model.reset()
        model.eval(part)
        scores = np.array(model.scores[: len(part) - 1], dtype=np.float64)
        scores -= scores.max(-1, keepdims=True)
        found.append(scores - np.log(np.exp(scores).sum(-1, keepdims=True)))
    for side in range(2):
        nats[side] -= found[side][np.arange(len(part) - 1), part[1:]].sum()
    apart += (np.exp(found[0]) * (found[0] - found[1])).sum()
    same += int((found[0].argmax(-1) == found[1].argmax(-1)).sum())
    count += len(part) - 1
print(json.dumps({"perplexity_float32": np.exp(nats[0] / count), "perplexity": np.exp(nats[1] / count),
    "perplexity_ratio": np.exp((nats[1] - nats[0]) / count), "kl_nats": apart / count, "agreement": same / count, "tokens": count}))
"""


def main(run: str, text: Path, python: str) -> None:
    """Print one JSON object a side."""
    opened = open_model(run)
    assert opened.tokenizer is not None
    ids = opened.tokenizer.encode(text.read_text(encoding="utf-8"))[:TOKENS]
    for one in measure_fidelity(opened, ids, ("int8", "int4")):
        print(json.dumps({"who": "danlu"} | asdict(one)), flush=True)
    window = min(WINDOW, opened.config.context_length)
    parts = [ids[start : start + window] for start in range(0, len(ids) - 1, window)]
    with tempfile.TemporaryDirectory() as name:
        exact, four, asked = (Path(name) / file for file in ("f32.gguf", "q4_0.gguf", "asked.json"))
        loaded = load_model(run)
        save_gguf(loaded.module, loaded.family, loaded.tokenizer, exact, "F32")
        asked.write_text(json.dumps({"window": window, "parts": [part for part in parts if len(part) > 1]}))
        command = [python, "-c", LLAMA, str(exact), str(four), str(asked)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"llama.cpp ended with {done.returncode}: {done.stderr[-600:]}")
    print(json.dumps({"who": "llama.cpp", "precision": "Q4_0"} | json.loads(done.stdout.splitlines()[-1])))


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
