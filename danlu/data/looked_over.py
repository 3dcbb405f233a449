"""What is odd about examples that are to be learnt: how often each label comes, what stands twice, what contradicts itself."""

from __future__ import annotations

from collections import Counter, defaultdict

from danlu.data.examples import ClassifyExample, Examples, LabelExample
from danlu.data.written import row_of

SHOWN_LABELS = 8
RARE = 0.1  # of the share that a label would have if all came alike


def looked_over(examples: Examples) -> list[str]:
    """Lines for people: counts by label, rare labels, inputs that stand twice, and inputs that stand there with different answers."""
    lines = [f"{len(examples.records):,} examples"]
    counts = Counter(record.label for record in examples.records if isinstance(record, ClassifyExample))
    counts += Counter(tag for record in examples.records if isinstance(record, LabelExample) for tag in record.tags)
    if counts:
        shown = ", ".join(f"{label} {count:,}" for label, count in counts.most_common(SHOWN_LABELS))
        lines[0] += f": {shown}" + (f" and {len(counts) - SHOWN_LABELS} more labels" if len(counts) > SHOWN_LABELS else "")
    few = [label for label, count in counts.items() if count < RARE * counts.total() / len(counts)]
    if few and examples.kind == "classify":
        lines.append(f"few rows have the label {', '.join(few[:SHOWN_LABELS])}; --balance-classes lets them count as much as the others")
    answers = defaultdict[str, Counter[str]](Counter)
    for record in examples.records:
        row = row_of(record)
        told = {name: row.pop(name, None) for name in ("label", "tags", "answers", "target", "answer")}
        answers[repr(row)][repr(told)] += 1
    twice = sum(found.total() - 1 for found in answers.values())
    contradicting = sum(len(found) > 1 for found in answers.values())
    if twice:
        lines.append(
            f"{twice:,} stand there already"
            + (f"; to {contradicting:,} of the inputs there are different answers" if contradicting else "")
        )
    return lines
