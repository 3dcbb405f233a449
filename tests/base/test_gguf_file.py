from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from danlu.base.errors import CheckpointError
from danlu.base.gguf_file import read_gguf, write_gguf
from danlu.base.gguf_header import Texts

FIELDS: dict[str, tuple[str, Any]] = {
    "text": ("string", "丹炉 😀"),
    "whole": ("uint32", 2**32 - 1),
    "below": ("int64", -(2**40)),
    "real": ("float64", 0.1),
    "yes": ("bool", True),
    "words": ("array", ["a", "", "ж"]),
    "numbers": ("array", [1, 2, 3]),
}


def write(file: Path, tensors: dict[str, tuple[np.ndarray, str]]) -> Path:
    writer = gguf.GGUFWriter(file, "test")
    for name, (kind, value) in FIELDS.items():
        getattr(writer, f"add_{kind}")(name, value)
    for name, (values, kind) in tensors.items():
        quantization = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(name, gguf.quantize(values, quantization), raw_dtype=quantization)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def plain(value: Any) -> Any:
    """A setting, texts that stay in the file as a list; gone through twice, since each time reads them anew."""
    if not isinstance(value, Texts):
        return value
    assert list(value) == list(value) and len(value) == len(list(value))
    return list(value)


VALUES = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)


def test_settings_come_back_with_their_types(tmp_path: Path) -> None:
    metadata, tensors = read_gguf(write(tmp_path / "x.gguf", {"a": (VALUES, "F32")}))
    for name, (_, value) in FIELDS.items():
        assert plain(metadata[name]) == value and type(plain(metadata[name])) is type(value)
    assert metadata["general.architecture"] == "test"
    assert metadata["tensors"] == set(tensors) == {"a"}


# The largest error as a share of the largest value: halves keep 11 or 8 bits, blocks 8, 5 or 4.
@pytest.mark.parametrize(
    ("kind", "error"),
    [("F32", 0), ("F16", 2**-11), ("BF16", 2**-8), ("Q8_0", 1 / 200), ("Q5_1", 1 / 25), ("Q4_0", 1 / 7), ("Q4_1", 1 / 12)],
)
def test_tensors_come_back_as_exactly_as_their_type_allows(kind: str, error: float, tmp_path: Path) -> None:
    _, tensors = read_gguf(write(tmp_path / "x.gguf", {"first": (VALUES[:1] * 3, "F32"), "a": (VALUES, kind)}))
    found = tensors["a"].numpy()
    assert found.dtype == np.float32 and found.shape == (3, 64)
    difference = np.abs(found - VALUES).max() / np.abs(VALUES).max()
    assert difference <= error
    assert error == 0 or difference > 0
    found[:] = 0  # a tensor is the reader's own and not the file
    assert read_gguf(tmp_path / "x.gguf")[1]["a"].numpy().any()


def header(version: int = 3, num_tensors: int = 0, num_values: int = 0, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, num_tensors, num_values) + rest


def text(value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(value) if length is None else length) + value


def tensor(dimensions: int = 1, size: int = 8, kind: int = 0, offset: int = 0, name: bytes = b"t") -> bytes:
    return text(name) + struct.pack("<I", dimensions) + struct.pack("<Q", size) * min(dimensions, 8) + struct.pack("<IQ", kind, offset)


ABSURD = {
    "nothing": b"",
    "another kind of file": b"PK\x03\x04" + bytes(100),
    "a version to come": header(version=9),
    "other byte order": header(version=3 << 24),
    "tensors without end": header(num_tensors=2**63),
    "settings without end": header(num_values=2**40),
    "a name without end": header(num_values=1, rest=text(b"x", 2**62)),
    "an array without end": header(num_values=1, rest=text(b"x") + struct.pack("<IIQ", 9, 4, 2**60)),
    "an array larger than the file": header(num_values=1, rest=text(b"x") + struct.pack("<IIQ", 9, 4, 2**23)),
    "arrays in arrays": header(num_values=1, rest=text(b"x") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 5000),
    "an unknown type of value": header(num_values=1, rest=text(b"x") + struct.pack("<I", 99)),
    "an alignment of zero": header(num_values=1, rest=text(b"general.alignment") + struct.pack("<II", 4, 0)),
    "too many dimensions": header(num_tensors=1, rest=tensor(dimensions=2**31)),
    "no dimensions": header(num_tensors=1, rest=tensor(dimensions=0)),
    "an unknown type of tensor": header(num_tensors=1, rest=tensor(kind=999) + bytes(64)),
    "a giant tensor": header(num_tensors=1, rest=tensor(size=2**62) + bytes(64)),
    "a product that overflows": header(num_tensors=1, rest=tensor(dimensions=4, size=2**32) + bytes(64)),
    "a tensor behind the end": header(num_tensors=1, rest=tensor(offset=2**50) + bytes(64)),
    "blocks that are not full": header(num_tensors=1, rest=tensor(kind=8, size=33) + bytes(64)),
    "a name of many lines": header(num_tensors=1, rest=tensor(kind=999, name=b"t\n\x1b[2J") + bytes(64)),
    "a book for a name": header(num_tensors=1, rest=tensor(name=b"book\n" * 1000) + bytes(64)),
}


@pytest.mark.parametrize("what", ABSURD)
def test_absurd_files_are_refused_in_one_line(what: str, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(ABSURD[what])
    with pytest.raises(CheckpointError, match="fetch it again") as caught:
        read_gguf(tmp_path / "x.gguf")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_a_sound_file_by_hand_is_read(tmp_path: Path) -> None:
    """The headers above are refused for what is absurd in them, not for how they are written."""
    rest = text(b"x") + struct.pack("<II", 4, 7) + tensor()
    whole = header(num_tensors=1, num_values=1, rest=rest)
    (tmp_path / "x.gguf").write_bytes(whole.ljust(-(-len(whole) // 32) * 32, b"\0") + np.arange(8, dtype="<f4").tobytes())
    metadata, tensors = read_gguf(tmp_path / "x.gguf")
    assert metadata["x"] == 7
    assert tensors["t"].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]


def test_an_infinite_scale_warns_nobody(tmp_path: Path) -> None:
    write(tmp_path / "x.gguf", {"a": (VALUES, "Q8_0")})
    whole = bytearray((tmp_path / "x.gguf").read_bytes())
    block = gguf.quantize(VALUES, gguf.GGMLQuantizationType.Q8_0).tobytes()
    place = whole.index(block)
    whole[place : place + 3] = struct.pack("<H", 0x7C00) + b"\0"  # infinity times zero
    (tmp_path / "x.gguf").write_bytes(whole)
    assert np.isnan(read_gguf(tmp_path / "x.gguf")[1]["a"].numpy()).any()


TYPES = gguf.GGUFValueType
WRITTEN: dict[str, tuple[Any, list[gguf.GGUFValueType]]] = {  # what llama.cpp expects each to be
    "general.architecture": ("llama", [TYPES.STRING]),
    "text": ("丹炉 😀", [TYPES.STRING]),
    "whole": (2**32 - 1, [TYPES.UINT32]),
    "real": (0.5, [TYPES.FLOAT32]),
    "no": (False, [TYPES.BOOL]),
    "words": (["a", "", "ж"], [TYPES.ARRAY, TYPES.STRING]),
    "kinds": ([1, -2, 3], [TYPES.ARRAY, TYPES.INT32]),
    "scores": ([1.5, -2.0], [TYPES.ARRAY, TYPES.FLOAT32]),
    "bytes": (b"\x00\xff", [TYPES.ARRAY, TYPES.UINT8]),
    "nothing": ([], [TYPES.ARRAY]),
}


def test_what_is_written_is_read_by_the_gguf_package_and_by_us(tmp_path: Path) -> None:
    kinds = {"row": "F32", "F32": "F32", "F16": "F16", "Q8_0": "Q8_0", "Q4_0": "Q4_0", "last": "F16"}
    tensors = {name: (torch.from_numpy(VALUES[0, :7] if name in ("row", "last") else VALUES), kind) for name, kind in kinds.items()}
    write_gguf(tmp_path / "x.gguf", {key: value for key, (value, _) in WRITTEN.items()}, tensors)
    metadata, ours = read_gguf(tmp_path / "x.gguf")
    theirs = gguf.GGUFReader(tmp_path / "x.gguf")
    for key, (value, types) in WRITTEN.items():
        expected = list(value) if isinstance(value, bytes) else value
        field = theirs.get_field(key)
        assert field is not None and field.types == types
        assert plain(metadata[key]) == field.contents() == expected
    assert [tensor.name for tensor in theirs.tensors] == list(tensors)
    for tensor in theirs.tensors:
        source = tensors[tensor.name][0].numpy()
        kind = gguf.GGMLQuantizationType[kinds[tensor.name]]
        assert tensor.tensor_type == kind and tensor.shape.tolist() == list(source.shape)[::-1]
        assert tensor.data_offset % 32 == 0
        packed = gguf.dequantize(gguf.quantize(source, kind), kind)
        assert np.array_equal(gguf.dequantize(tensor.data, kind), packed)
        assert np.array_equal(ours[tensor.name].numpy(), packed)


def test_numbers_too_large_and_a_failure_midway_leave_no_file(tmp_path: Path) -> None:
    large = {"first": (torch.zeros(4), "F32"), "large": (torch.full((2, 32), 1e6), "F16")}
    with pytest.raises(CheckpointError, match="tensor large does not fit F16"):
        write_gguf(tmp_path / "x.gguf", {}, large)
    with pytest.raises(NotImplementedError):  # a kind that the package cannot pack is our own mistake
        write_gguf(tmp_path / "x.gguf", {}, {"a": (torch.zeros(1, 256), "Q6_K")})
    assert not list(tmp_path.iterdir())


def test_matrices_are_given_as_they_are_packed(tmp_path: Path) -> None:
    held = {kind: (VALUES, kind) for kind in ("F32", "F16", "Q8_0", "Q4_0", "Q4_1")}
    _, tensors = read_gguf(write(tmp_path / "x.gguf", {**held, "vector": (VALUES[0], "F32")}))
    assert tensors.packed is not None and set(tensors.packed) == set(held)
    assert tensors.kinds == {name: kind for name, (_, kind) in held.items()} | {"vector": "F32"}
    for name, (values, kind) in held.items():
        expected = gguf.quantize(values, gguf.GGMLQuantizationType[kind])
        assert tensors.packed[name].dtype == np.uint8
        assert np.array_equal(tensors.packed[name], expected.view(np.uint8).reshape(len(values), -1))
    tensors.packed["Q4_0"].fill(0)  # a copy: the file stays as it is
    assert tensors["Q4_0"].any() and tensors.packed["Q4_0"].any()
    assert tensors.used == {"Q4_0"}


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="the system does not tell which pages are mapped")
def test_no_page_of_the_file_stays_mapped(tmp_path: Path) -> None:
    file = write(tmp_path / "large.gguf", {name: (np.tile(VALUES, (4096, 1)), "Q8_0") for name in ("first", "second")})
    _, tensors = read_gguf(file)
    held = [resident(file)]
    for name in ("first", "second"):
        tensors[name], tensors.packed[name]
        held.append(resident(file))
    assert held[0] > 0 and held[1:] == [0, 0]


def resident(file: Path) -> int:
    """Kilobytes of a file that are mapped and counted as this process's."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ", 1)[0]:
            inside = line.endswith(str(file))
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1])
    return found
