"""What baselines without a Transformer score on the tasks, and what stop words, stems and segmented words bring them; five minutes.

python -m bench.baselines [TASK ...]
"""

from __future__ import annotations

import json
import math
import re
import statistics
import string
import sys
import time
from collections import Counter
from collections.abc import Sequence

from seqeval.metrics import f1_score
from seqeval.scheme import IOB2

from danlu.data.answers import Answer
from danlu.data.choices import ChoiceExample
from danlu.data.conversations import ChatExample
from danlu.data.examples import ClassifyExample, Example, LabelExample, SpanExample
from danlu.evaluation.baselines import baseline
from danlu.evaluation.word_features import Words
from danlu.tasks.base import Task
from danlu.tasks.loading import find_task, tasks
from danlu.tasks.parts import read_part

ENGLISH: tuple[Words, ...] = ("words", "stemmed", "without-stop-words", "chars")
CHINESE: tuple[Words, ...] = ("chars", "jieba", "jieba-without-stop-words")
TRIED = dict.fromkeys(("sentiment-en", "topics-en", "spam-en", "descriptions-en"), ENGLISH) | {"sentiment-zh": CHINESE}


def score(task: Task, examples: Sequence[Example], answers: Sequence[Answer]) -> float:
    """The figure that counts most for the task, 0 to 1."""
    if task.score == "entity_f1":
        true = [list(example.tags) for example in examples if isinstance(example, LabelExample)]
        return float(f1_score(true, [list(answer.tags) for answer in answers], mode="strict", scheme=IOB2))
    if task.score == "ndcg_at_10":
        return statistics.fmean(1 / math.log2(1 + answer.value) if answer.value <= 10 else 0 for answer in answers)
    return statistics.fmean(one for pair in zip(examples, answers, strict=True) for one in right(*pair))


def right(example: Example, answer: Answer) -> list[float]:
    """How right an answer is; for tags, each of them."""
    if isinstance(example, LabelExample):
        return [float(tag == given) for tag, given in zip(example.tags, answer.tags, strict=True)]
    if isinstance(example, SpanExample):
        return [max(shared(answer.text, known.text) for known in example.answers)]
    if isinstance(example, ChatExample):
        return [float(answer.text == example.messages[-1][1])]
    assert isinstance(example, ClassifyExample | ChoiceExample)
    return [float(answer.label == (example.label if isinstance(example, ClassifyExample) else str(example.answer)))]


def shared(given: str, known: str) -> float:
    """F1 of the words of two answers, without articles and punctuation, as SQuAD's own script counts it."""
    left, right = (
        Counter(re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(str.maketrans("", "", string.punctuation))).split())
        for text in (given, known)
    )
    both = (left & right).total()
    return 2 * both / (left.total() + right.total()) if both else 0.0


def main() -> int:
    """One JSON object a line: for each task, and each way to count its texts."""
    for name in sys.argv[1:] or [name for name, task in tasks().items() if task.sources and name != "sst2"]:
        task = find_task(name)
        train = read_part(task, (), "train").records if 0 < task.test_share < 1 else ()
        test = read_part(task, (), "test" if task.test_share else "all").records
        for words in TRIED.get(name, (None,)):
            start = time.perf_counter()
            answerer = baseline(task, test if task.kind == "retrieve" else train, words)
            answers = [answer for answer in answerer.answer(test) if isinstance(answer, Answer)]
            figure = {"task": name, "train": len(train), "test": len(test), "baseline": answerer.name, "measure": task.score}
            print(
                json.dumps(figure | {"score": round(score(task, test, answers), 4), "wall_seconds": round(time.perf_counter() - start, 1)})
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
