"""What baselines without a Transformer score on the tasks, and what stop words, stems and segmented words bring them; five minutes.

python -m bench.baselines [TASK ...]
"""

from __future__ import annotations

import json
import sys
import time

from danlu.data.answers import Answer
from danlu.evaluation.answerers.baselines import baseline
from danlu.evaluation.answerers.word_features import Words
from danlu.evaluation.samples import expected_of
from danlu.evaluation.scores.kinds import scores_for
from danlu.tasks.loading import find_task, tasks
from danlu.tasks.parts import read_part

ENGLISH: tuple[Words, ...] = ("words", "stemmed", "without-stop-words", "chars")
CHINESE: tuple[Words, ...] = ("chars", "jieba", "jieba-without-stop-words")
TRIED = dict.fromkeys(("sentiment-en", "topics-en", "spam-en", "descriptions-en"), ENGLISH) | {"sentiment-zh": CHINESE}


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
            scores = scores_for(task.kind, answerer.labels)
            scores.add([expected_of(example) for example in test], answers)
            figure = {"task": name, "train": len(train), "test": len(test), "baseline": answerer.name, "measure": task.score}
            print(
                json.dumps(
                    figure | {"score": round(scores.figures()[task.score], 4), "wall_seconds": round(time.perf_counter() - start, 1)}
                )
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
