"""Asks llama.cpp: run by the Python of .venv-interop, which knows nothing of Danlu.

Reads one JSON object from standard input and writes one to standard output; logits or vectors go to `answers`, a .npy file.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import llama_cpp as llama
import numpy as np

THREADS = 2
FLOAT32 = 0  # ggml's number of the type


def main() -> None:
    """{file, texts, vectors, answers, ids, prompt, new_tokens, ends} -> {template, plain, framed, greedy}."""
    asked = json.load(sys.stdin)
    llama.llama_backend_init()
    model = llama.llama_model_load_from_file(asked["file"].encode(), llama.llama_model_default_params())
    if not model:
        raise SystemExit("llama.cpp does not load the file")
    vocabulary = llama.llama_model_get_vocab(model)
    template = llama.llama_model_chat_template(model, None)
    told: dict[str, Any] = {
        "template": template and template.decode(),
        "plain": [tokenize(vocabulary, text, framed=False) for text in asked["texts"]],
        "framed": [tokenize(vocabulary, text, framed=True) for text in asked["texts"]],
    }
    if asked["vectors"]:
        np.save(asked["answers"], np.stack([embed(model, ids) for ids in told["framed"]]))
    else:
        np.save(asked["answers"], logits(model, asked["ids"]))
        told["greedy"] = greedy(model, asked["prompt"], asked["new_tokens"], set(asked["ends"]))
    json.dump(told, sys.stdout)


def tokenize(vocabulary: Any, text: str, *, framed: bool) -> list[int]:
    """Ids of a text in which no control tokens are read; `framed` sets those around it that the file wants."""
    data = text.encode()
    room = len(data) + 8
    ids = (llama.llama_token * room)()
    count = llama.llama_tokenize(vocabulary, data, len(data), ids, room, framed, False)
    assert count >= 0
    return list(ids[:count])


def context_of(model: Any, *, vectors: bool = False) -> Any:
    """A short context on few threads. By default llama.cpp rounds keys and values to half precision, which would hide small errors."""
    setup = llama.llama_context_default_params()
    setup.n_ctx = min(512, llama.llama_model_n_ctx_train(model))
    setup.n_batch = setup.n_ubatch = setup.n_ctx
    setup.n_threads = setup.n_threads_batch = THREADS
    setup.type_k = setup.type_v = FLOAT32
    setup.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
    setup.embeddings = vectors
    context = llama.llama_init_from_model(model, setup)
    if not context:
        raise SystemExit("llama.cpp makes no context for the model")
    return context


def decode(context: Any, ids: list[int], first: int, *, all_answers: bool) -> None:
    """Compute positions from `first` on."""
    step = llama.llama_batch_init(len(ids), 0, 1)
    step.n_tokens = len(ids)
    for i, token in enumerate(ids):
        step.token[i], step.pos[i] = token, first + i
        step.n_seq_id[i], step.seq_id[i][0] = 1, 0
        step.logits[i] = all_answers or i == len(ids) - 1
    if llama.llama_decode(context, step) != 0:
        raise SystemExit("llama.cpp does not compute the tokens")
    llama.llama_batch_free(step)


def logits(model: Any, ids: list[int]) -> np.ndarray:
    """(T, V)."""
    context, size = context_of(model), llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    decode(context, ids, 0, all_answers=True)
    found = np.stack([np.ctypeslib.as_array(llama.llama_get_logits_ith(context, i), (size,)).copy() for i in range(len(ids))])
    llama.llama_free(context)
    return found


def greedy(model: Any, prompt: list[int], new_tokens: int, ends: set[int]) -> list[int]:
    """The likeliest token, again and again, one that ends the text as the last."""
    context, size = context_of(model), llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    found: list[int] = []
    step = prompt
    while len(found) < new_tokens:
        decode(context, step, 0 if step is prompt else len(prompt) + len(found) - 1, all_answers=False)
        token = int(np.ctypeslib.as_array(llama.llama_get_logits_ith(context, len(step) - 1), (size,)).argmax())
        found.append(token)
        if token in ends:
            break
        step = [token]
    llama.llama_free(context)
    return found


def embed(model: Any, ids: list[int]) -> np.ndarray:
    """(D,), as the file says that positions become one vector."""
    context = context_of(model, vectors=True)
    decode(context, ids, 0, all_answers=True)
    found = np.ctypeslib.as_array(llama.llama_get_embeddings_seq(context, 0), (llama.llama_model_n_embd(model),)).copy()
    llama.llama_free(context)
    return found


if __name__ == "__main__":
    main()
