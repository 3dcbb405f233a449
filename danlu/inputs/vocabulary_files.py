"""Vocabularies in the files that were usual before tokenizer.json: vocab.txt, vocab.json with merges.txt, and sentencepiece's models."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as RawTokenizer

from danlu.base.errors import CheckpointError
from danlu.inputs.cutting import QWEN2
from danlu.inputs.framing import frame_bert, frame_ends, frame_roberta
from danlu.inputs.pieces import Kind, Piece, add_sentinels
from danlu.inputs.sentencepiece_model import SentencePieceModel, read_model

Settings = dict[str, Any]

FILE = "tokenizer.json"
SENTENCEPIECE = ("spiece.model", "tokenizer.model", "sentencepiece.bpe.model", "source.spm")
TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

# Control tokens that transformers' classes take without being told.
BERT_TOKENS = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}
GPT2_TOKENS = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
QWEN2_TOKENS = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
ROBERTA_TOKENS = {
    "bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "cls_token": "<s>", "unk_token": "<unk>", "pad_token": "<pad>",
    "mask_token": "<mask>",
}  # fmt: skip
T5_TOKENS = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
LLAMA_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}

# What transformers then hands to the model: BERT wants to know which text a token is from, GPT and T5 refuse to.
SEGMENTS = {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}
NO_SEGMENTS = {"model_input_names": ["input_ids", "attention_mask"]}

BERT_LIKE = ("bert", "distilbert", "electra", "mobilebert", "convbert", "squeezebert", "lxmert")
ROBERTA_LIKE = ("roberta", "bart", "longformer", "led")
T5_LIKE, LLAMA_LIKE = ("t5", "mt5", "umt5"), ("llama", "codellama", "mistral", "gemma")


def vocabulary_file(folder: Path) -> Path | None:
    """The file that holds a folder's vocabulary, or None."""
    if not (folder / FILE).is_file() and (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return folder / "vocab.json"
    names = (FILE, "vocab.txt", *SENTENCEPIECE)
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_settings(folder: Path) -> Settings:
    """What tokenizer_config.json and chat_template.jinja say; empty without them.

    Raises: CheckpointError if they are damaged.
    """
    settings = _read_object(folder / "tokenizer_config.json")
    template = folder / "chat_template.jinja"
    try:
        if template.is_file():
            settings["chat_template"] = template.read_text(encoding="utf-8")
    except ValueError as error:
        raise CheckpointError(f"{template} cannot be read ({error}); fetch or save it again") from None
    return settings


def read_vocabulary_file(file: Path, settings: Settings) -> tuple[RawTokenizer, Settings]:
    """The tokenizer of a file of one of the older kinds, with the settings that its class takes without being told.

    Raises: CheckpointError if it is damaged, or its class does what its files do not say.
    """
    kind = _class_of(file.parent, settings)
    reader: Callable[[Path, str, Settings], RawTokenizer] = _sentencepiece
    if file.suffix in (".txt", ".json"):
        reader = _wordpiece if file.suffix == ".txt" else _byte_level
    try:
        settings = _read_object(file.with_name("special_tokens_map.json")) | settings
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"  # saved again, tokenizer.json says everything
        raw = reader(file, kind, settings)
        _defaults(settings, NO_SEGMENTS)
        _add_tokens(raw, file.parent, settings)
        known = raw.get_vocab(with_added_tokens=True)
        return raw, {name: value for name, value in settings.items() if name not in TOKENS or _text(value) in known}
    except CheckpointError:
        raise
    except Exception as error:  # the library raises plain Exception for whatever it cannot take
        raise CheckpointError(f"{file} cannot be read as a vocabulary ({error!r}); fetch it again") from None


def _wordpiece(file: Path, kind: str, settings: Settings) -> RawTokenizer:
    """vocab.txt: one token a line. Source: Devlin et al. 2019, arXiv:1810.04805, and transformers' BertTokenizer."""
    _expect(file, kind, BERT_LIKE)
    _defaults(settings, BERT_TOKENS | (NO_SEGMENTS if kind == "distilbert" else SEGMENTS))
    vocabulary = {token: id for id, token in enumerate(file.read_text(encoding="utf-8").removesuffix("\n").split("\n"))}
    raw = RawTokenizer(models.WordPiece(vocabulary, unk_token=_text(settings["unk_token"]), max_input_chars_per_word=100))
    raw.normalizer = normalizers.BertNormalizer(
        lowercase=settings.get("do_lower_case", True),
        strip_accents=settings.get("strip_accents"),
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
    )
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece()
    frame_bert(raw, _text(settings["cls_token"]), _text(settings["sep_token"]))
    return raw


def _byte_level(file: Path, kind: str, settings: Settings) -> RawTokenizer:
    """vocab.json and merges.txt. Source: transformers' GPT2Tokenizer, RobertaTokenizer, Qwen2Tokenizer."""
    _expect(file, kind, ("gpt2", "qwen2", *ROBERTA_LIKE))
    lines = file.with_name("merges.txt").read_text(encoding="utf-8").split("\n")
    merges = [(left, right) for left, _, right in (line.partition(" ") for line in lines) if left and left != "#version:"]
    raw = RawTokenizer(models.BPE(vocab=_read_object(file), merges=merges))
    raw.decoder = decoders.ByteLevel()
    prefix = settings.get("add_prefix_space", False)
    if kind == "qwen2":
        _defaults(settings, QWEN2_TOKENS)
        raw.normalizer = normalizers.NFC()
        cut = pre_tokenizers.Split(Regex(QWEN2), behavior="isolated")
        raw.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        return raw
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    if kind in ROBERTA_LIKE:
        _defaults(settings, ROBERTA_TOKENS)
        ids = raw.get_vocab()
        separator, start = ((name, ids[name]) for name in (_text(settings["sep_token"]), _text(settings["cls_token"])))
        raw.post_processor = processors.RobertaProcessing(separator, start, trim_offsets=True, add_prefix_space=prefix)
    else:
        _defaults(settings, GPT2_TOKENS)
        frame_ends(raw, _text(settings["bos_token"]) if settings.get("add_bos_token") else None, None)
    return raw


def _sentencepiece(file: Path, kind: str, settings: Settings) -> RawTokenizer:
    """spiece.model and its like. Source: transformers' T5Tokenizer, LlamaTokenizer, XLMRobertaTokenizer, MarianTokenizer."""
    _expect(file, kind, (*T5_LIKE, *LLAMA_LIKE, "marian", "xlmroberta"))
    model = read_model(file.read_bytes())
    if kind == "xlmroberta":
        _defaults(settings, ROBERTA_TOKENS)
        raw = _fairseq(model).tokenizer()
        frame_roberta(raw, _text(settings["cls_token"]), _text(settings["sep_token"]))
        return raw
    if kind == "marian":
        _defaults(settings, T5_TOKENS)
        model = _joint(model, _read_object(file.with_name("vocab.json")))
    raw = model.tokenizer()
    if kind in T5_LIKE:
        _defaults(settings, T5_TOKENS)
        add_sentinels(raw, settings.get("extra_ids", 100))
    elif kind in LLAMA_LIKE:
        _defaults(settings, LLAMA_TOKENS)
    before = _text(settings["bos_token"]) if settings.get("add_bos_token", kind in LLAMA_LIKE) else None
    after = _text(settings["eos_token"]) if settings.get("add_eos_token", kind == "marian" or kind in T5_LIKE) else None
    frame_ends(raw, before, after)
    return raw


def _fairseq(model: SentencePieceModel) -> SentencePieceModel:
    """XLM-R's ids: fairseq's four control tokens, then sentencepiece's pieces behind its own three, then the mask."""
    control = [Piece("<s>", kind=Kind.CONTROL), Piece("<pad>", kind=Kind.CONTROL), Piece("</s>", kind=Kind.CONTROL)]
    pieces = [*control, Piece("<unk>", kind=Kind.UNKNOWN), *model.pieces[3:], Piece("<mask>", kind=Kind.CONTROL)]
    return replace(model, pieces=pieces)


def _joint(model: SentencePieceModel, ids: Mapping[str, int]) -> SentencePieceModel:
    """Marian's ids: those of vocab.json, which both languages share, with the scores of this language's pieces.

    Pieces that vocab.json lacks are left out: such words are cut into smaller pieces, where Marian reads <unk>.
    """
    if sorted(ids.values()) != list(range(len(ids))):
        raise ValueError("vocab.json leaves out ids")
    known = {piece.text: piece for piece in model.pieces} | {"<pad>": Piece("<pad>", kind=Kind.CONTROL)}
    pieces = []
    for text in sorted(ids, key=lambda text: ids[text]):
        is_code = text.startswith(">>") and text.endswith("<<")  # the language to translate into, set before a text
        pieces.append(Piece(text, kind=Kind.USER_DEFINED) if is_code else known.get(text, Piece(text, kind=Kind.UNUSED)))
    return replace(model, pieces=pieces)


def _add_tokens(raw: RawTokenizer, folder: Path, settings: Settings) -> None:
    """Mark the control tokens, and add those that stand beside the vocabulary.

    Raises: ValueError if one would get another id than its folder says.
    """
    named = {_text(settings.get(name)) for name in TOKENS} - {None}
    mask = _text(settings.get("mask_token"))
    present = sorted(name for name in named if raw.token_to_id(name) is not None)
    # RoBERTa's mask takes the space before it along, since its words bring theirs with them.
    raw.add_special_tokens([AddedToken(name, lstrip=name == mask == "<mask>", normalized=False) for name in present])
    listed = {int(id): token for id, token in settings.get("added_tokens_decoder", {}).items()}
    listed |= {id: {"content": token, "special": True} for token, id in _read_object(folder / "added_tokens.json").items()}
    for id, token in sorted(listed.items()):
        flags = {flag: bool(token.get(flag)) for flag in ("single_word", "lstrip", "rstrip", "normalized", "special")}
        raw.add_tokens([AddedToken(token["content"], **flags)])
        if raw.token_to_id(token["content"]) != id:
            raise ValueError(f"token {token['content']!r} is listed as {id} and would be {raw.token_to_id(token['content'])}")
    raw.add_special_tokens([AddedToken(_text(token), normalized=False) for token in settings.get("additional_special_tokens") or []])


def _class_of(folder: Path, settings: Settings) -> str:
    """Which tokenizer of transformers wrote the folder ("bert", "t5"), or "" if nothing says so."""
    config = _read_object(folder / "config.json")
    named = settings.get("tokenizer_class") or config.get("tokenizer_class") or config.get("model_type") or ""
    return str(named).removesuffix("Fast").removesuffix("Tokenizer").replace("-", "").replace("_", "").lower()


def _expect(file: Path, kind: str, known: tuple[str, ...]) -> None:
    if kind and kind not in known:
        raise CheckpointError(
            f"{file} belongs to a tokenizer of class {kind!r}, whose rules are not known here (only {', '.join(known)}); "
            f"load it with transformers once and save_pretrained it, which writes {FILE}"
        )


def _defaults(settings: Settings, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        settings.setdefault(name, value)


def _text(token: Any) -> Any:
    return token.get("content") if isinstance(token, Mapping) else token


def _read_object(file: Path) -> dict[str, Any]:
    """A JSON object; empty if the file is not there."""
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}); fetch or save it again") from None
    return found
