"""Named tensors in files, safetensors both ways. Nothing here ever unpickles."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from danlu.base.errors import CheckpointError

ONE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"


class Tensors(Mapping[str, Tensor]):
    """Named tensors that are read when asked for; it remembers which were, so that leftovers can be told.

    Of a file that packs its numbers, `packed` gives matrices as they lie there, numpy's bytes (N, bytes of a row), and `kinds` how each is
    packed.
    """

    def __init__(
        self,
        readers: Mapping[str, Callable[[], Any]],
        source: Path,
        packed: Tensors | None = None,
        kinds: Mapping[str, str] | None = None,
    ) -> None:
        self.readers, self.source, self.used = readers, source, set[str]()
        self.packed, self.kinds = packed, kinds or {}

    def __getitem__(self, name: str) -> Any:
        if name not in self.readers:
            raise CheckpointError(f"{self.source} has no tensor {name}; the file is cut or belongs to another architecture")
        self.used.add(name)
        return self.readers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.readers)

    def __len__(self) -> int:
        return len(self.readers)

    def __contains__(self, name: object) -> bool:
        return name in self.readers


def open_safetensors(folder: Path) -> Tensors:
    """Open the weights of a Hugging Face folder, in one file or many; tensors are memory-mapped.

    Raises: CheckpointError if there are none, if a file is damaged, or if only pickled weights are there.
    """
    if (folder / ONE_FILE).is_file():
        files = [folder / ONE_FILE]
    elif (folder / INDEX).is_file():
        try:
            listed = set(json.loads((folder / INDEX).read_text())["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise CheckpointError(f"{folder / INDEX} came damaged ({error}); fetch the folder again") from None
        files = [folder / Path(str(name)).name for name in sorted(listed, key=str)]
    elif pickled := sorted(folder.glob("*.bin")):
        raise CheckpointError(
            f"{pickled[0]} holds pickled weights, which can run code and are never opened; expected {ONE_FILE}: convert them apart, on a "
            f'machine you can lose: python -c "from transformers import AutoModelForPreTraining as M; '
            f"M.from_pretrained('{folder}').save_pretrained('converted')\""
        )
    else:
        raise CheckpointError(f"{folder} came without weights; expected {ONE_FILE} or {INDEX} in it")
    readers: dict[str, Callable[[], Any]] = {}
    for file in files:
        readers |= open_file(file).readers
    return Tensors(readers, folder)


def open_file(file: Path) -> Tensors:
    """Open one safetensors file; tensors are memory-mapped.

    Raises: CheckpointError if it is not there or damaged.
    """
    from safetensors import SafetensorError, safe_open  # late: who serves another format has no use for its megabyte

    try:
        opened = safe_open(file, framework="pt")
        return Tensors({name: _reader(opened, name) for name in opened.keys()}, file)  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} cannot be read as safetensors ({error}); it is cut or damaged: fetch or save it again") from None


def _reader(opened: Any, name: str) -> Callable[[], Tensor]:
    return lambda: opened.get_tensor(name)  # the header was checked against the file's size when it was opened


def save_safetensors(tensors: Mapping[str, Tensor], file: Path, metadata: dict[str, str] | None = None) -> None:
    """Write tensors to one file (the caller gives it a temporary name and renames it).

    Raises: OSError if the disk is full or fails.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, file, metadata=metadata or {"format": "pt"})
    except SafetensorError as error:  # the library wraps what the disk said
        if found := re.search(r"os error (\d+)", str(error)):
            number = int(found[1])
            raise OSError(number, os.strerror(number), str(file)) from None
        raise
