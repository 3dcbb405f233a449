from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
)

import danlu
from danlu.base.errors import ConfigError
from danlu.data.answers import Answer, Refused
from danlu.data.examples import Answer as Gold
from danlu.data.examples import ClassifyExample, LabelExample, RegressExample, SpanExample
from danlu.inference.model import Model
from danlu.inference.predicting import Predictor

from .encoder import LONGEST, SENTENCES, wordpiece
from .tiny import TEXTS

NAMES = {0: "bad", 1: "fine", 2: "good"}


def write(folder: Path, kind: type[torch.nn.Module], **settings: object) -> Path:
    """A small random model of transformers' with a head, and its tokenizer."""
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=wordpiece().vocabulary_size, hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=LONGEST, **settings,
    )  # fmt: skip
    model = kind(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    model.eval().save_pretrained(folder)
    wordpiece().save(folder)
    return folder


def predictor(folder: Path, kind: str, **how: bool) -> tuple[Predictor, Model]:
    model = danlu.load(folder)
    return Predictor(model, kind, **how), model  # type: ignore[arg-type]


def test_classes_are_transformers_classes_alone_and_amid_others(tmp_path: Path) -> None:
    folder = write(tmp_path, BertForSequenceClassification, id2label=NAMES, label2id={name: i for i, name in NAMES.items()})
    theirs, tokenizer = BertForSequenceClassification.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    texts = [text for text in SENTENCES if text and "[SEP]" not in text and len(tokenizer(text).input_ids) <= LONGEST]
    examples = [ClassifyExample(text=text, pair=pair, label="?") for text in texts for pair in (None, "old")][: 2 * len(texts)]
    examples = [each for each in examples if len(tokenizer(each.text, each.pair).input_ids) <= LONGEST]
    found, _ = predictor(folder, "classify")
    assert found.labels == ("bad", "fine", "good") and len(examples) > 8
    with torch.no_grad():
        expected = [theirs(**tokenizer(each.text, each.pair, return_tensors="pt")).logits.softmax(-1)[0].numpy() for each in examples]
    for answers in (found.answer(examples), [found.answer([each])[0] for each in examples]):
        for answer, scores in zip(answers, expected, strict=True):
            assert isinstance(answer, Answer) and answer.label == NAMES[int(scores.argmax())]
            np.testing.assert_allclose(answer.scores, scores, atol=1e-5)
    assert len({answer.label for answer in found.answer(examples) if isinstance(answer, Answer)}) > 1


def test_what_is_too_long_is_refused_with_both_lengths_or_cut_and_counted(tmp_path: Path) -> None:
    folder = write(tmp_path, BertForSequenceClassification, id2label=NAMES)
    long, short = ClassifyExample(text="river " * 100, label="?"), ClassifyExample(text="river", label="?")
    refused, answered = predictor(folder, "classify")[0].answer([long, short])
    assert (
        isinstance(refused, Refused) and str(LONGEST) in refused.reason and "--truncate" in refused.reason and isinstance(answered, Answer)
    )
    cutting, model = predictor(folder, "classify", truncate=True)
    cut, whole = cutting.answer([long, short])
    assert isinstance(cut, Answer) and isinstance(whole, Answer) and whole.cut == 0
    assert model.tokenizer is not None
    assert cut.cut == len(model.tokenizer.encode_model_input(long.text).ids) - LONGEST
    ids = AutoTokenizer.from_pretrained(folder)(long.text, truncation=True, max_length=LONGEST, return_tensors="pt")
    scores = BertForSequenceClassification.from_pretrained(folder).eval()(**ids).logits.softmax(-1)[0]
    np.testing.assert_allclose(cut.scores, scores.detach().numpy(), atol=1e-5)


def test_a_number_is_read_from_a_head_for_numbers_only(tmp_path: Path) -> None:
    folder = write(tmp_path, BertForSequenceClassification, num_labels=1, problem_type="regression")
    (answer,) = predictor(folder, "regress")[0].answer([RegressExample(text="old river", label=0.0)])
    ids = AutoTokenizer.from_pretrained(folder)("old river", return_tensors="pt")
    expected = BertForSequenceClassification.from_pretrained(folder).eval()(**ids).logits[0, 0].item()
    assert isinstance(answer, Answer) and answer.value == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ConfigError, match="a head for a number, which does not answer classify"):
        predictor(folder, "classify")


def test_each_word_has_the_tag_of_its_first_token_and_words_cut_away_have_none(tmp_path: Path) -> None:
    tags = {0: "O", 1: "B-PER", 2: "I-PER"}
    folder = write(tmp_path, BertForTokenClassification, id2label=tags, label2id={name: i for i, name in tags.items()})
    theirs, tokenizer = BertForTokenClassification.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    words = TEXTS[0].split()[:6]
    encoded = tokenizer(words, is_split_into_words=True, return_tensors="pt")
    best = theirs(**encoded).logits[0].argmax(-1).tolist()
    places = encoded.word_ids(0)
    expected = tuple(tags[best[places.index(number)]] for number in range(len(words)))
    short, long = LabelExample(tokens=tuple(words), tags=("O",) * 6), LabelExample(tokens=tuple(words) * 20, tags=("O",) * 120)
    answer, refused = predictor(folder, "label")[0].answer([short, long])
    assert isinstance(answer, Answer) and answer.tags == expected and isinstance(refused, Refused)
    (cut,) = predictor(folder, "label", truncate=True)[0].answer([long])
    assert isinstance(cut, Answer) and len(cut.tags) == 120 and cut.cut > 0 and set(cut.tags[60:]) == {"O"}


def test_a_span_is_the_best_pair_of_ends_within_the_context(tmp_path: Path) -> None:
    folder = write(tmp_path, BertForQuestionAnswering)
    theirs, tokenizer = BertForQuestionAnswering.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    context, question = TEXTS[0][:40], "old mountain"
    encoded = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
    offsets, inside = encoded.pop("offset_mapping")[0].tolist(), [place for place, of in enumerate(encoded.sequence_ids(0)) if of == 1]
    with torch.no_grad():
        said = theirs(**encoded)
    begins, ends = said.start_logits[0].tolist(), said.end_logits[0].tolist()
    best, expected = begins[0] + ends[0], ""
    for begin in inside:
        for end in inside:
            if begin <= end and begins[begin] + ends[end] > best:
                best, expected = begins[begin] + ends[end], context[offsets[begin][0] : offsets[end][1]]
    example = SpanExample(context=context, question=question, answers=(Gold(text=context[:3], start=0),))
    (answer,) = predictor(folder, "span")[0].answer([example])
    assert isinstance(answer, Answer) and answer.text == expected


def test_a_recurrent_network_answers_as_its_own_logits_say(tmp_path: Path) -> None:
    rows = [{"text": f"{word} {number} river", "label": word} for number in range(40) for word in ("old", "new")]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    made = danlu.train("rnn/gru-nano", task="classify", data=tmp_path / "rows.jsonl", steps=60, runs=tmp_path, name="small", threads=1)
    found, model = predictor(Path(made.run), "classify")
    examples = [ClassifyExample(text=text, label="?") for text in ("old 5 river", "new", "river river river new 3")]
    assert model.tokenizer is not None
    for example, answer in zip(examples, found.answer(examples), strict=True):
        ids = model.tokenizer.encode_model_input(example.text).ids
        assert isinstance(answer, Answer)
        np.testing.assert_allclose(answer.scores, model.logits(torch.from_numpy(ids)[None]).softmax(-1)[0].numpy(), atol=1e-5)
    assert [answer.label for answer in found.answer(examples) if isinstance(answer, Answer)][:2] == ["old", "new"]


def test_a_model_without_the_head_is_refused_with_what_to_do(tmp_path: Path) -> None:
    folder = write(tmp_path, BertForQuestionAnswering)
    with pytest.raises(ConfigError, match=r"danlu train .* --task classify"):
        predictor(folder, "classify")
