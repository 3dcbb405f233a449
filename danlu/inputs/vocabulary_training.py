"""Learns a vocabulary from text: byte-level BPE, WordPiece or Unigram. The same texts give the same vocabulary."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from sentencepiece import SentencePieceTrainer
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as RawTokenizer

from danlu.base.errors import ConfigError
from danlu.inputs.cutting import QWEN2
from danlu.inputs.framing import frame_bert, frame_ends
from danlu.inputs.pieces import add_sentinels
from danlu.inputs.sentencepiece_model import read_model
from danlu.inputs.tokenizer import END_OF_TEXT, Tokenizer
from danlu.inputs.vocabulary_files import BERT_TOKENS, NO_SEGMENTS, SEGMENTS, T5_TOKENS

BERT_ORDER = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SENTINELS = 100  # T5's number of spans that can be cut out of one text
BYTE_SPELLING = "0123456789ABCDEF<>x"  # these are always pieces: a text that spells a byte's name is then never read as that byte
COVERAGE = 0.9995  # share of all characters that are pieces; the rarest are written as bytes
THREADS = 4  # always as many, since sums of parts depend on their number

SMALLEST = {"bpe": 257, "wordpiece": 128, "unigram": 512}


def train_bpe(texts: Iterable[str], vocabulary_size: int) -> Tokenizer:
    """Learn a byte-level BPE: any Unicode text goes in and comes out unchanged.

    Raises: ConfigError if the vocabulary cannot hold the 256 bytes and the end of text.
    Source: Sennrich et al. 2016, arXiv:1508.07909; Radford et al. 2019 (bytes).
    """
    _check(vocabulary_size, "bpe")
    raw = RawTokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(QWEN2), behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[AddedToken(END_OF_TEXT, special=True, normalized=False)],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    return Tokenizer(raw, {"eos_token": END_OF_TEXT, "bos_token": END_OF_TEXT} | NO_SEGMENTS)


def train_wordpiece(texts: Iterable[str], vocabulary_size: int, lowercase: bool = False) -> Tokenizer:
    """Learn BERT's WordPiece: words in pieces that go on with ##, each Chinese character a word. Rare characters become [UNK].

    Raises: ConfigError if the vocabulary is too small.
    Source: Schuster and Nakajima 2012; Devlin et al. 2019, arXiv:1810.04805.
    """
    _check(vocabulary_size, "wordpiece")
    texts = list(texts)
    normalizer, words = normalizers.BertNormalizer(lowercase=lowercase), pre_tokenizers.BertPreTokenizer()
    alone, inner = _alphabet(texts, normalizer, words, (vocabulary_size - len(BERT_ORDER)) // 2)
    raw = RawTokenizer(models.WordPiece(unk_token=BERT_TOKENS["unk_token"]))
    raw.normalizer, raw.pre_tokenizer = normalizer, words
    # Left to itself the library numbers the pieces within words as its hash table gives them, differently each time, and then
    # breaks ties by these numbers. Set among the control tokens they have an order.
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[*BERT_ORDER, *(f"##{character}" for character in inner)],
        initial_alphabet=alone,
        limit_alphabet=len(alone),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    vocabulary = raw.get_vocab()
    raw = RawTokenizer(models.WordPiece(vocabulary, unk_token=BERT_TOKENS["unk_token"], max_input_chars_per_word=100))
    raw.normalizer, raw.pre_tokenizer, raw.decoder = normalizer, words, decoders.WordPiece()
    raw.add_special_tokens([AddedToken(token, normalized=False) for token in BERT_ORDER])
    frame_bert(raw, BERT_TOKENS["cls_token"], BERT_TOKENS["sep_token"])
    return Tokenizer(raw, BERT_TOKENS | SEGMENTS)


def train_unigram(texts: Iterable[str], vocabulary_size: int) -> Tokenizer:
    """Learn T5's Unigram: what the vocabulary lacks is written as bytes, so any text comes back unchanged (but U+2581, as a space).

    Raises: ConfigError if the vocabulary is too small.
    Source: Kudo 2018, arXiv:1804.10959; Raffel et al. 2020, arXiv:1910.10683 (the control tokens).
    """
    _check(vocabulary_size, "unigram")
    texts = list(texts)
    rare = _rare(texts, (vocabulary_size - SENTINELS - 256) // 2)
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=(line for text in (BYTE_SPELLING, *texts) for line in text.translate(rare).split("\n") if line),
        model_writer=model,
        model_type="unigram",
        vocab_size=vocabulary_size - SENTINELS,
        hard_vocab_limit=False,
        byte_fallback=True,
        required_chars=BYTE_SPELLING,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        max_sentence_length=2**30,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=THREADS,
        minloglevel=2,
    )
    raw = read_model(model.getvalue()).tokenizer()
    add_sentinels(raw, SENTINELS)
    frame_ends(raw, None, T5_TOKENS["eos_token"])
    return Tokenizer(raw, T5_TOKENS | NO_SEGMENTS)


def _rare(texts: Sequence[str], room: int) -> dict[int, str]:
    """Line ends for characters that are too rare to be pieces: lines are learned from one by one."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    left, room = COVERAGE * counts.total(), room - len(BYTE_SPELLING)
    rare = {}
    for character, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if character in BYTE_SPELLING:
            left -= count
        elif left <= 0 or room <= 0:
            rare[ord(character)] = "\n"
        else:
            left, room = left - count, room - 1
    return rare


def _alphabet(
    texts: Sequence[str], normalizer: normalizers.Normalizer, words: pre_tokenizers.PreTokenizer, room: int
) -> tuple[list[str], list[str]]:
    """The commonest characters that fit into `room`, in order; and those of them that can go on a word."""
    raw_counts: Counter[str] = Counter()
    for text in texts:
        raw_counts.update(text)
    counts: Counter[str] = Counter()
    for character, count in raw_counts.items():
        for kept in normalizer.normalize_str(character):
            counts[kept] += 0 if kept.isspace() else count
    alone, inner = [], []
    for character in sorted(+counts, key=lambda character: (-counts[character], character)):
        goes_on = [word for word, _ in words.pre_tokenize_str(normalizer.normalize_str("a" + character))] == ["a" + character]
        room -= 2 if goes_on else 1
        if room < 0:
            break
        alone.append(character)
        inner += [character] if goes_on else []
    return sorted(alone), sorted(inner)


def _check(vocabulary_size: int, kind: str) -> None:
    if vocabulary_size < SMALLEST[kind]:
        raise ConfigError(f"vocabulary_size came as {vocabulary_size}; expected at least {SMALLEST[kind]} for {kind}: {_WHY[kind]}")


_WHY = {
    "bpe": "one for each byte and the end of text",
    "wordpiece": "control tokens, characters and some words",
    "unigram": "control tokens, one for each byte, characters and some words",
}

TRAINERS: Mapping[str, Callable[[Iterable[str], int], Tokenizer]] = {
    "bpe": train_bpe,
    "wordpiece": train_wordpiece,
    "unigram": train_unigram,
}
