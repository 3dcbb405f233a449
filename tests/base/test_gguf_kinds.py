from __future__ import annotations

import subprocess
import sys

import gguf
import numpy as np
import pytest

from danlu.base.gguf_kinds import KNOWN, kind_named, kind_of, packed, unpacked


@pytest.mark.parametrize("theirs", gguf.GGMLQuantizationType)
def test_kinds_are_those_of_the_gguf_package(theirs: gguf.GGMLQuantizationType) -> None:
    for kind in (kind_of(theirs.value), kind_named(theirs.name)):
        assert (kind.name, kind.number, (kind.block, kind.num_bytes)) == (theirs.name, theirs.value, gguf.GGML_QUANT_SIZES[theirs])


def test_no_kind_by_that_number_or_name() -> None:
    with pytest.raises(ValueError):
        kind_of(5)
    with pytest.raises(KeyError):
        kind_named("Q4_9")


@pytest.mark.parametrize("kind", KNOWN.values(), ids=lambda kind: kind.name)
def test_numbers_come_out_as_the_gguf_package_reads_them(kind: object) -> None:
    values = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    blocks = packed(values, kind).view(np.uint8)  # type: ignore[arg-type]
    theirs = gguf.dequantize(blocks, gguf.GGMLQuantizationType[kind.name])  # type: ignore[attr-defined]
    np.testing.assert_array_equal(unpacked(blocks, kind), theirs)  # type: ignore[arg-type]
    assert np.abs(theirs - values).max() < 0.4


def test_who_only_answers_pays_for_no_library_that_others_need() -> None:
    said = "import sys, danlu.inference.model; print(*{'gguf', 'safetensors', 'huggingface_hub', 'tiktoken', 'rich'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True).stdout == "\n"
