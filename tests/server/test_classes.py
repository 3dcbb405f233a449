"""/classify on a real port: the same classes as the model gives, beside generating models, and hostile input."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from transformers import BertForSequenceClassification

from danlu.data.answers import Answer
from danlu.data.examples import ClassifyExample
from danlu.inference.model import load
from danlu.inference.predicting import Predictor
from tests.inference.encoder import LONGEST, SENTENCES
from tests.inference.test_predicting import NAMES, write

from .conftest import Running, start

TEXTS = [text for text in SENTENCES if text] * 9


@pytest.fixture(scope="module")
def classifying(tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Path]) -> Iterator[Running]:
    folder = write(tmp_path_factory.mktemp("classes"), BertForSequenceClassification, id2label=NAMES)
    found, server, thread = start({"moods": load(folder), "tiny": load(folders["tiny"])}, {"judge": "moods"})
    yield found
    found.http.close()
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


@pytest.mark.parametrize("name", ["moods", "judge"])
def test_each_text_has_its_class_in_order_also_when_many_ask_at_once(classifying: Running, name: str) -> None:
    expected = Predictor(classifying.service.models["moods"], "classify").answer([ClassifyExample(text=text, label="") for text in TEXTS])

    def ask(_: int) -> dict[str, object]:
        return classifying.http.post(f"{classifying.root}/classify", json={"model": name, "input": TEXTS}).json()

    for reply in ThreadPoolExecutor(4).map(ask, range(8)):
        assert reply["model"] == name and reply["object"] == "list"
        data = reply["data"]
        assert isinstance(data, list) and [entry["index"] for entry in data] == list(range(len(TEXTS)))
        for entry, answer in zip(data, expected, strict=True):
            assert isinstance(answer, Answer) and entry["label"] == answer.label and entry["num_classes"] == 3
            assert entry["probs"] == pytest.approx(answer.scores, abs=1e-5)


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({"model": "tiny", "input": "a"}, 400, "classify"),
        ({"model": "none", "input": "a"}, 404, "no model"),
        ({"model": "moods"}, 400, "input is missing"),
        ({"model": "moods", "input": []}, 400, "0 entries"),
        ({"model": "moods", "input": [1, 2]}, 400, "input"),
        ({"model": "moods", "input": ["fine", "river " * 200]}, 400, f"reads {LONGEST}"),
    ],
)
def test_what_cannot_be_classified_is_named(classifying: Running, body: dict[str, object], status: int, word: str) -> None:
    reply = classifying.http.post(f"{classifying.root}/classify", json=body)
    assert reply.status_code == status and word in reply.json()["error"]["message"]
