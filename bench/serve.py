"""Danlu's engine beside transformers on SmolLM2-135M-Instruct in float32, greedy, taking turns; best of two each.

python -m bench.serve
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import danlu
from danlu.models.gpt import FAMILY, write_config

MODEL = "smollm2-135m-instruct"
NEW_TOKENS = 64


def main() -> None:
    """Print one JSON object a batch size: tokens a second of each, and their ratio."""
    with danlu.load(MODEL, precision="float32") as model:
        config = write_config(model.config)
        peer = LlamaForCausalLM(LlamaConfig(**{key: value for key, value in config.items() if key not in ("architectures", "model_type")}))
        peer.load_state_dict(FAMILY.names(model.config).to_foreign(dict(model.module.named_parameters()), model.config), strict=False)
        peer.tie_weights()
        peer.eval()
        greedy = {"max_tokens": NEW_TOKENS, "temperature": 0, "logit_bias": dict.fromkeys(model.engine.end_ids, -100.0)}  # none ends early
        for batch in (1, 8, 32):
            prompts = [model.encode(f"Tell me about the number {number:03d} and the river") for number in range(batch)]
            rows = torch.tensor(prompts)
            ids = {"input_ids": rows, "attention_mask": torch.ones_like(rows)}

            def ours(prompts: list[list[int]] = prompts) -> int:
                with ThreadPoolExecutor(len(prompts)) as pool:
                    made = pool.map(lambda prompt: model.generate(prompt, **greedy), prompts)
                    return sum(generation.completion_tokens for generation in made)

            def theirs(ids: dict[str, torch.Tensor] = ids) -> int:
                with torch.inference_mode():
                    return NEW_TOKENS * len(
                        peer.generate(**ids, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=2)
                    )

            speeds = {"danlu": 0.0, "transformers": 0.0}
            for _ in range(2):
                for name, run in (("danlu", ours), ("transformers", theirs)):
                    speeds[name] = max(speeds[name], tokens_a_second(run))
            rounded = {name: round(speed, 1) for name, speed in speeds.items()}
            print(
                json.dumps({"what": f"decode, {batch} at once"} | rounded | {"ratio": round(speeds["danlu"] / speeds["transformers"], 2)})
            )


def tokens_a_second(run: Callable[[], int]) -> float:
    """Rate of one call that tells how many tokens it made."""
    began = time.perf_counter()
    return run() / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
