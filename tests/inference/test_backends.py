"""Which numbers a model answers in, what computes them, and that files' own bits are multiplied as they are."""

from __future__ import annotations

import random
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from danlu.base.errors import CheckpointError, ConfigError, DanluError
from danlu.inference import backends
from danlu.inference.backends import choose_numbers, make_backend
from danlu.inference.engine import Engine
from danlu.inference.model import load
from danlu.inference.padded import Padded
from danlu.inference.paged import Paged
from danlu.inference.request import Limits
from danlu.kernels import native
from danlu.kernels.packing import PRECISIONS, Packed, Precision, unpacked
from danlu.kernels.table import Table, can_walk
from danlu.kernels.twin import TwinSteps
from danlu.models.loading import Loaded, Opened, families, load_model, open_model
from tests.models.gguf_files import write_gguf
from tests.models.shapes import make_foreign, write_foreign

from .asking import Asked
from .tiny import tiny_module, write_tiny

SMALL = Limits(sequences=16, cache_bytes=2**22)
WALKED: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "head_dim": 16,
}  # heads that steps walk through, rows that fill blocks
ANY_KERNELS = pytest.mark.skipif(native.found() is None, reason="no kernels were built here")


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "found", lambda: None)


def large(model: Opened | Loaded, count: int = 30_000_000) -> Opened | Loaded:
    """The same, said to have so many weights."""
    if isinstance(model, Opened):
        model.__dict__["shapes"] = {**model.shapes, "more": (count,)}
        return model
    module = tiny_module(300)
    module.register_parameter("more", torch.nn.Parameter(torch.empty(count, device="meta")))
    return replace(model, module=module)


@ANY_KERNELS
@pytest.mark.parametrize("read", [open_model, load_model])
def test_few_weights_stay_whole_and_many_are_bytes(read: Any, tiny_folder: Path) -> None:
    precision, why = choose_numbers(read(str(tiny_folder)))
    assert precision == "float32" and "few" in why
    assert choose_numbers(large(read(str(tiny_folder)), backends.LARGE // 2))[0] == "float32"
    precision, why = choose_numbers(large(read(str(tiny_folder))))
    assert precision == "int8" and "30 million" in why


@ANY_KERNELS
@pytest.mark.parametrize(("kind", "expected"), [("Q4_0", "int4"), ("Q4_1", "int4"), ("Q8_0", "int8"), ("F16", "int8"), ("BF16", "int8")])
def test_a_files_own_four_bits_are_kept(kind: str, expected: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "x.gguf", "llama-grouped", kind, WALKED)
    precision, why = choose_numbers(large(open_model(str(tmp_path / "x.gguf"))))
    assert precision == expected and ("file's own" in why) == (expected == "int4")


@pytest.mark.parametrize("wish", PRECISIONS)
def test_what_is_wished_is_given(wish: Precision, tiny_folder: Path) -> None:
    assert choose_numbers(open_model(str(tiny_folder)), wish) == (wish, "as asked")
    with load(str(tiny_folder), precision=wish) as model:
        assert model.precision == wish
        assert len(model.generate([1, 2, 3], temperature=0, max_tokens=4, logit_bias={0: -100.0}).choices[0].token_ids) <= 4
        backend = model.engine.backend
        assert backend.table.precision == wish if isinstance(backend, Paged) else wish == "float32"


@pytest.mark.parametrize("wish", ["int2", "float16", "", "INT8"])
def test_other_numbers_are_refused(wish: str, tiny_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"--precision came as .*; expected auto, float32, bfloat16, int8, int4"):
        choose_numbers(open_model(str(tiny_folder)), wish)
    with pytest.raises(ConfigError, match="--precision came as"):
        load(str(tiny_folder), precision=wish)


OTHERS = ["t5", "bart", "bert-words", "llama-grouped"]  # the last has heads of 8


@pytest.mark.parametrize("name", OTHERS)
def test_other_models_answer_by_their_module(name: str, tmp_path: Path) -> None:
    opened = open_model(str(write_foreign(name, tmp_path / name)))
    assert not can_walk(opened.config)
    assert choose_numbers(opened)[0] == choose_numbers(opened, "float32")[0] == "float32"
    for wish in PRECISIONS[1:]:
        with pytest.raises(ConfigError, match=f"{opened.family.name}.*float32.*leave --precision {wish} out"):
            choose_numbers(opened, wish)
    if name != "bert-words":
        assert isinstance(make_backend(opened, SMALL, "float32"), Padded)


def test_a_recurrent_network_answers_by_its_module() -> None:
    family = families()["rnn"]
    module = family.build(family.sizes("gru-nano", 97, 64)).eval()
    loaded = Loaded(name="r", path=Path("r"), family=family, config=module.config, module=module, tokenizer=None)
    assert choose_numbers(loaded)[0] == "float32" and isinstance(make_backend(loaded, SMALL, "float32"), Padded)
    with pytest.raises(ConfigError, match="family rnn"):
        choose_numbers(loaded, "int8")


@pytest.mark.usefixtures("no_kernels")
def test_without_kernels_the_module_answers_and_fewer_bits_are_the_twins(tiny_folder: Path) -> None:
    assert choose_numbers(large(open_model(str(tiny_folder)))) == ("float32", "no kernels were built here")
    assert isinstance(make_backend(open_model(str(tiny_folder)), SMALL, "float32"), Padded)
    backend = make_backend(open_model(str(tiny_folder)), SMALL, "int8")
    assert isinstance(backend, Paged) and isinstance(backend.steps, TwinSteps)
    engine = Engine(backend)
    with load(str(tiny_folder), precision="float32") as model:
        for ids in ([1, 2, 3], list(range(40))):
            found, expected = Asked(engine, ids, temperature=0, max_tokens=1, logprobs=5), model.logits(ids)[0, -1].log_softmax(-1)
            (token,) = found.tokens()[0]
            assert token.logprob == pytest.approx(float(expected[token.id]), abs=0.2)
    engine.close()


@ANY_KERNELS
@pytest.mark.parametrize("precision", PRECISIONS)
def test_kernels_answer_where_they_were_built(precision: Precision, tiny_folder: Path) -> None:
    for model in (open_model(str(tiny_folder)), load_model(str(tiny_folder))):
        backend = make_backend(model, SMALL, precision, threads=1)
        assert isinstance(backend, Paged) and isinstance(backend.steps, native.NativeSteps)
        backend.close()


def matrices(table: Table) -> dict[str, Packed]:
    found = {"embedding": table.embedding, "head": table.head}
    for index, layer in enumerate(table.layers):
        for name in ("query_key_value", "output", "up", "down"):
            found[f"{index}.{name}"] = getattr(layer, name)
    return found


def weights(module: Any) -> dict[str, Tensor]:
    """The same matrices from a module."""
    own = {name: weight.detach() for name, weight in module.named_parameters()}
    found = {"embedding": own["embedding.weight"], "head": own.get("head.weight", own["embedding.weight"])}
    for index in range(module.config.num_layers):
        block = f"blocks.{index}"
        found[f"{index}.query_key_value"] = torch.cat([own[f"{block}.attention.{part}.weight"] for part in ("query", "key", "value")])
        found[f"{index}.output"] = own[f"{block}.attention.output.weight"]
        gates = [own[f"{block}.feedforward.{part}.weight"] for part in ("gate", "up") if f"{block}.feedforward.{part}.weight" in own]
        found[f"{index}.up"] = torch.cat(gates)
        found[f"{index}.down"] = own[f"{block}.feedforward.down.weight"]
    return found


def table_of(file: Path, precision: Precision) -> Table:
    backend = make_backend(open_model(str(file)), SMALL, precision, threads=1)
    assert isinstance(backend, Paged)
    backend.close()
    return backend.table


@ANY_KERNELS
@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
@pytest.mark.parametrize("shape", ["llama-untied", "llama-all-bias", "qwen2", "qwen3"])
def test_a_gguf_files_bits_are_multiplied_as_they_are(shape: str, kind: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "x.gguf", shape, kind, WALKED)
    table, module = table_of(tmp_path / "x.gguf", "int4"), load_model(str(tmp_path / "x.gguf")).module
    expected = weights(module)
    assert {name for name, packed in matrices(table).items() if not torch.equal(unpacked(packed), expected[name])} == set()
    assert {packed.precision for packed in matrices(table).values()} == {"int8" if kind == "Q8_0" else "int4"}
    biases = [layer.query_key_value.bias for layer in table.layers]
    assert all((bias is not None) == (shape in ("llama-all-bias", "qwen2")) for bias in biases)
    wide = table_of(tmp_path / "x.gguf", "int8")
    assert {packed.precision for packed in matrices(wide).values()} == {"int8"}
    assert all(torch.allclose(unpacked(packed), expected[name], rtol=0, atol=1e-6) for name, packed in matrices(wide).items())


@ANY_KERNELS
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_packed_file_is_unpacked_where_whole_numbers_are_wished(precision: Precision, tmp_path: Path) -> None:
    write_gguf(tmp_path / "x.gguf", "qwen3", "Q4_0", WALKED)
    table, expected = table_of(tmp_path / "x.gguf", precision), weights(load_model(str(tmp_path / "x.gguf")).module)
    for name, packed in matrices(table).items():
        assert packed.precision == precision
        rounded = expected[name] if precision == "float32" else expected[name].bfloat16().float()
        assert torch.equal(unpacked(packed), rounded)


MIXED: list[Mapping[str, str]] = [{"attn_k": "Q8_0"}, {"attn_v": "F16", "ffn_up": "F32"}, {"attn_q": "Q4_1"}, {"token_embd": "F16"}]


@ANY_KERNELS
@pytest.mark.parametrize("kinds", MIXED, ids=str)
def test_matrices_of_one_input_that_are_packed_otherwise_become_bytes(kinds: Mapping[str, str], tmp_path: Path) -> None:
    write_gguf(tmp_path / "x.gguf", "llama-all-bias", "Q4_0", WALKED, kinds)
    table, expected = table_of(tmp_path / "x.gguf", "int4"), weights(load_model(str(tmp_path / "x.gguf")).module)
    for name, packed in matrices(table).items():
        assert torch.allclose(unpacked(packed), expected[name], rtol=0, atol=float(expected[name].abs().max()) / 200), name
    assert matrices(table)["0.down"].precision == "int4"


@ANY_KERNELS
def test_scores_have_eight_bits_at_least(tiny_folder: Path) -> None:
    table = table_of(tiny_folder, "int4")
    assert table.embedding.precision == table.head.precision == "int8"
    assert table.layers[0].up.precision == "int4"


WEIGHTS = "model.safetensors"


def change_weights(folder: Path, changes: Mapping[str, Tensor | None]) -> None:
    tensors: dict[str, Tensor] = load_file(folder / WEIGHTS) | changes
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / WEIGHTS, metadata={"format": "pt"})


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("name", "tensor", "told"),
    [
        ("model.layers.1.mlp.up_proj.weight", None, "has no tensor model.layers.1.mlp.up_proj.weight"),
        ("model.layers.1.input_layernorm.weight", None, "has no tensor model.layers.1.input_layernorm.weight"),
        ("model.layers.0.more.weight", torch.zeros(2), "does not have: model.layers.0.more.weight"),
        ("model.layers.1.self_attn.q_proj.weight", torch.zeros(64, 32), "shape"),
        ("model.embed_tokens.weight", torch.zeros(97, 64, 1), "shape"),
    ],
)
def test_what_is_wrong_with_the_weights_is_told_when_the_engine_is_made(
    name: str, tensor: Tensor | None, told: str, precision: Precision, tmp_path: Path
) -> None:
    make_foreign("llama-untied", **WALKED).save_pretrained(tmp_path)
    change_weights(tmp_path, {name: tensor})
    with pytest.raises(CheckpointError, match=told), load(str(tmp_path), precision=precision) as model:
        model.generate([1])


@pytest.mark.parametrize("shape", [(), (3,), (56, 33), (1, 1, 1), (0, 64)])
@pytest.mark.parametrize(("name", "changes"), [("llama-untied", WALKED), ("gpt2", {"n_embd": 64})])
def test_any_wrong_shape_is_told(name: str, changes: dict[str, Any], shape: tuple[int, ...], tmp_path: Path) -> None:
    make_foreign(name, **changes).save_pretrained(tmp_path)
    for tensor, kept in load_file(tmp_path / WEIGHTS).items():
        if ".1." in tensor:
            change_weights(tmp_path, {tensor: torch.zeros(shape)})
            with pytest.raises(CheckpointError, match="shape"):
                make_backend(open_model(str(tmp_path)), SMALL, "float32", threads=1)
            change_weights(tmp_path, {tensor: kept})


@pytest.mark.parametrize("kind", ["Q4_0", "F16"])
@pytest.mark.parametrize("shape", ["llama-untied", "qwen2"])
def test_packed_files_damaged_anywhere_are_read_or_refused(shape: str, kind: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "whole.gguf", shape, kind, WALKED)
    whole = (tmp_path / "whole.gguf").read_bytes()
    header = whole.index(b"ffn_down") + 2500
    dice, results = random.Random(shape), []
    for _ in range(100):
        damaged = bytearray(whole)
        for _ in range(dice.choice([1, 1, 3])):
            place, count = dice.randrange(dice.choice([header, header, len(whole)])), dice.choice([1, 1, 4, 8])
            damaged[place : place + count] = dice.choice([dice.randbytes(count), b"\xff" * count, b"\0" * count])
        (tmp_path / "damaged.gguf").write_bytes(damaged)
        try:
            make_backend(open_model(str(tmp_path / "damaged.gguf")), SMALL, "int4", threads=1).close()
            results.append(True)
        except DanluError as error:
            assert "\n" not in str(error)
            results.append(False)
    assert len(set(results)) == 2


@pytest.mark.parametrize("kind", ["Q4_0", "F16"])
@pytest.mark.parametrize("dimensions", [(0, 96), (64, 0), (32, 96), (64, 97), (96, 64)], ids=str)
@pytest.mark.parametrize("name", ["blk.1.ffn_up.weight", "blk.0.attn_q.weight"])
def test_any_wrong_shape_in_a_packed_file_is_told(name: str, dimensions: tuple[int, int], kind: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "x.gguf", "llama-untied", kind, WALKED)
    whole = (tmp_path / "x.gguf").read_bytes()
    place = whole.index(name.encode()) + len(name) + 4
    (tmp_path / "x.gguf").write_bytes(whole[:place] + struct.pack("<QQ", *dimensions) + whole[place + 16 :])
    with pytest.raises(CheckpointError, match=r"shape|cut or damaged"):
        make_backend(open_model(str(tmp_path / "x.gguf")), SMALL, "int4", threads=1)


def test_weights_too_large_for_few_bits_name_the_mend(tmp_path: Path) -> None:
    make_foreign("llama-untied", **WALKED).save_pretrained(tmp_path)
    weight = load_file(tmp_path / WEIGHTS)["model.layers.0.mlp.up_proj.weight"]
    weight[3, 4] = 1e9
    change_weights(tmp_path, {"model.layers.0.mlp.up_proj.weight": weight})
    for precision in ("int8", "int4"):
        with pytest.raises(CheckpointError, match="--precision float32"), load(str(tmp_path), precision=precision) as model:
            model.generate([1])


def test_an_adapter_answers_too(tmp_path: Path) -> None:
    """What is in memory is packed from there."""
    folder = write_tiny(tmp_path / "tiny")
    loaded, opened = load_model(str(folder)), open_model(str(folder))
    assert isinstance(opened, Opened) and opened.config == loaded.config
    tables = [make_backend(model, SMALL, "int8", threads=1) for model in (loaded, opened)]
    assert all(isinstance(backend, Paged) for backend in tables)
    first, second = (matrices(backend.table) for backend in tables if isinstance(backend, Paged))
    assert all(torch.equal(first[name].panels, second[name].panels) for name in first)
