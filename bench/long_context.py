"""Peers' tokens per second at 8 sequences that have 2,000 tokens behind them already. Runs in the peers' own environment.

python -m bench.long_context FOLDER ENGINE [CONTEXT [BATCH]]: FOLDER is what the peers' setup made; ENGINE is openvino8, openvino4 or
llama.cpp. Prints one JSON object; the best of three.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

NEW = 128
THREADS = 2
draw = random.Random(0)


def ids(length: int) -> list[int]:
    return [draw.randrange(3, 40000) for _ in range(length)]


def openvino(folder: Path, context: int, batch: int) -> float:
    """The time of NEW + 1 tokens less that of one, so that reading the prompts is not counted."""
    import openvino_genai as genai
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    plan = genai.SchedulerConfig()
    plan.cache_size, plan.max_num_batched_tokens, plan.enable_prefix_caching = 4, 2048, False
    model = genai.ContinuousBatchingPipeline(str(folder), plan, "CPU", {"INFERENCE_NUM_THREADS": THREADS})

    def run(tokens: int) -> float:
        texts = [tokenizer.decode(ids(context)) for _ in range(batch)]
        asked = genai.GenerationConfig(max_new_tokens=tokens, do_sample=False, ignore_eos=True)
        asked.apply_chat_template = False
        start = time.perf_counter()
        model.generate(texts, [asked] * batch)
        return time.perf_counter() - start

    run(1)
    first = min(run(1) for _ in range(3))
    return batch * NEW / (min(run(NEW + 1) for _ in range(3)) - first)


def llama(file: Path, context: int, batch: int) -> float:
    """NEW steps after the prompts were read."""
    import llama_cpp

    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(str(file).encode(), llama_cpp.llama_model_default_params())
    setup = llama_cpp.llama_context_default_params()
    setup.n_ctx, setup.n_batch, setup.n_ubatch = batch * (context + 4 * NEW), 512, 512
    setup.n_seq_max, setup.n_threads, setup.n_threads_batch = batch, THREADS, THREADS
    opened = llama_cpp.llama_init_from_model(model, setup)
    step = llama_cpp.llama_batch_init(512, 0, batch)

    def fill(places: list[tuple[int, int]]) -> None:
        step.n_tokens = len(places)
        for i, (sequence, position) in enumerate(places):
            step.token[i], step.pos[i], step.n_seq_id[i], step.seq_id[i][0] = draw.randrange(3, 40000), position, 1, sequence
            step.logits[i] = 1 if i == len(places) - 1 or len(places) == batch else 0
        if llama_cpp.llama_decode(opened, step):
            sys.exit("llama.cpp refused a batch")
        llama_cpp.llama_get_logits_ith(opened, len(places) - 1)

    for sequence in range(batch):
        for start in range(0, context, 512):
            fill([(sequence, position) for position in range(start, min(context, start + 512))])
    times = []
    for turn in range(3):
        begin = time.perf_counter()
        for new in range(NEW):
            fill([(sequence, context + turn * NEW + new) for sequence in range(batch)])
        times.append(time.perf_counter() - begin)
    return batch * NEW / min(times)


if __name__ == "__main__":
    home, engine = Path(sys.argv[1]), sys.argv[2]
    context = int(sys.argv[3]) if len(sys.argv) > 3 else 2000
    batch = int(sys.argv[4]) if len(sys.argv) > 4 else 8
    speed = llama(home / "q4_0.gguf", context, batch) if engine == "llama.cpp" else openvino(home / f"ov{engine[-1]}", context, batch)
    print(json.dumps({"engine": engine, "what": "decode", "batch": batch, "context": context, "tokens_per_second": round(speed, 1)}))
