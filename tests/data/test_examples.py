from __future__ import annotations

import gzip
import json
import random
import re
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from danlu.base.errors import ConfigError, DataError
from danlu.data.examples import (
    Answer,
    ClassifyExample,
    Examples,
    Kind,
    LabelExample,
    RegressExample,
    SpanExample,
    TranslateExample,
    read_examples,
    split_examples,
)


def lines(folder: Path, *rows: Any, name: str = "rows.jsonl") -> str:
    (folder / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(folder / name)


def read(folder: Path, kind: Kind, *rows: Any) -> Examples:
    return read_examples([lines(folder, *rows)], kind, max_bad=1)


def reason(folder: Path, kind: Kind, row: Any) -> str:
    """Why a row is set aside, beside one that is sound."""
    sound: dict[Kind, Any] = {
        "classify": {"text": "a", "label": "x"}, "regress": {"text": "a", "label": 1}, "label": {"tokens": ["a"], "tags": ["O"]},
        "span": {"context": "a", "question": "b", "answers": ["a"]}, "translate": {"source": "a", "target": "b"},
    }  # fmt: skip
    found = read(folder, kind, sound[kind], row)
    assert len(found.records) == 1
    assert [(row.file, row.line) for row in found.set_aside] == [("rows.jsonl", 2)]
    return found.set_aside[0].reason


ROWS: list[tuple[Kind, dict[str, Any], Any]] = [
    ("classify", {"text": "这部电影很好看。", "label": "好评"}, ClassifyExample(text="这部电影很好看。", label="好评")),
    ("classify", {"text": "a", "label": 3, "id": 7}, ClassifyExample(text="a", label="3")),
    ("classify", {"text": "a", "label": 3.0}, ClassifyExample(text="a", label="3")),
    ("classify", {"text": "a", "label": -1}, ClassifyExample(text="a", label="-1")),
    ("classify", {"text": "a", "label": True}, ClassifyExample(text="a", label="true")),
    ("classify", {"text": "a", "label": " pos "}, ClassifyExample(text="a", label="pos")),
    ("classify", {"text": "a", "pair": "b", "label": "x"}, ClassifyExample(text="a", pair="b", label="x")),
    ("classify", {"text": "a", "text_pair": "b", "label": "x"}, ClassifyExample(text="a", pair="b", label="x")),
    ("classify", {"text": "a", "pair": None, "label": "x"}, ClassifyExample(text="a", label="x")),
    ("regress", {"text": "a", "label": 3}, RegressExample(text="a", label=3.0)),
    ("regress", {"text": "a", "pair": "b", "label": "-0.5"}, RegressExample(text="a", pair="b", label=-0.5)),
    ("label", {"tokens": ["李白", "乘舟"], "tags": ["nr", "v"]}, LabelExample(tokens=("李白", "乘舟"), tags=("nr", "v"))),
    ("label", {"tokens": ["a", " "], "tags": [0, 12]}, LabelExample(tokens=("a", " "), tags=("0", "12"))),
    (
        "span",
        {"context": "李白生于701年。", "question": "哪年？", "answers": {"text": ["701年", "701"], "answer_start": [4, 4]}},
        SpanExample(context="李白生于701年。", question="哪年？", answers=(Answer(text="701年", start=4), Answer(text="701", start=4))),
    ),
    ("span", {"context": "c a a", "question": "q", "answers": ["a"]},
     SpanExample(context="c a a", question="q", answers=(Answer(text="a", start=2),))),
    ("span", {"context": "c a", "question": "q", "answers": "a"},
     SpanExample(context="c a", question="q", answers=(Answer(text="a", start=2),))),
    (
        "span",
        {"context": "c a a", "question": "q", "answers": [{"text": "a", "answer_start": 4}]},
        SpanExample(context="c a a", question="q", answers=(Answer(text="a", start=4),)),
    ),
    ("span", {"context": "c", "question": "q", "answers": {"text": [], "answer_start": []}},
     SpanExample(context="c", question="q", answers=())),
    ("span", {"context": "c", "question": "q", "answers": []}, SpanExample(context="c", question="q", answers=())),
    ("translate", {"source": "cat", "target": "猫"}, TranslateExample(source="cat", target="猫")),
    ("translate", {"prompt": "cat", "completion": "猫"}, TranslateExample(source="cat", target="猫")),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "row", "example"), ROWS)
def test_a_row_becomes_an_example(kind: Kind, row: dict[str, Any], example: object, tmp_path: Path) -> None:
    found = read(tmp_path, kind, row)
    assert (found.kind, found.records, found.set_aside) == (kind, (example,), ())


BAD: list[tuple[Kind, Any, str]] = [
    ("classify", {"text": "a", "sentiment": 1}, "no field 'label' among text, sentiment"),
    ("classify", {"body": "a", "label": 1}, "no field 'text' among body, label"),
    ("classify", {"text": "", "label": 1}, "`text` is empty"),
    ("classify", {"text": " \n", "label": 1}, "`text` is empty"),
    ("classify", {"text": 3, "label": 1}, "`text` is a number; expected a string"),
    ("classify", {"text": "a", "pair": "", "label": 1}, "`pair` is empty"),
    ("classify", {"text": "a", "label": None}, "`label` is missing or not a number"),
    ("classify", {"text": "a", "label": "NaN"}, '`label` is "NaN"; expected a name or a whole number'),
    ("classify", {"text": "a", "label": " "}, '`label` is " "; expected'),
    ("classify", {"text": "a", "label": 0.5}, "`label` is 0.5; expected a name or a whole number"),
    ("classify", {"text": "a", "label": ["x"]}, '`label` is ["x"]; expected'),
    ("classify", ["a", "x"], "a row is a list; expected an object with fields"),
    ("regress", {"text": "a", "label": "nan"}, '`label` is "nan"; expected a finite number'),
    ("regress", {"text": "a", "label": "inf"}, "expected a finite number"),
    ("regress", {"text": "a", "label": "good"}, "expected a finite number"),
    ("regress", {"text": "a", "label": True}, "expected a finite number"),
    ("label", {"tokens": ["a", "b"], "tags": ["O"]}, "2 `tokens` and 1 `tags`; expected as many, and at least one"),
    ("label", {"tokens": [], "tags": []}, "0 `tokens` and 0 `tags`"),
    ("label", {"tokens": ["a", 3], "tags": ["O", "O"]}, "`tokens` is a number; expected a string"),
    ("label", {"tokens": ["a"], "tags": [None]}, "`tags` is null; expected"),
    ("label", {"tokens": "a b", "tags": "O O"}, "not JSON"),
    ("span", {"context": "abc", "question": "q", "answers": ["d"]}, "the answer 'd' does not stand in the context"),
    ("span", {"context": "abc", "question": "q", "answers": [""]}, "the answer '' does not stand in the context"),
    ("span", {"context": "abc", "question": "q", "answers": {"text": ["a"], "answer_start": [1]}}, "the context at 1, where 'bc' stands"),
    ("span", {"context": "abc", "question": "q", "answers": {"text": ["a"], "answer_start": [-3]}}, "at -3, where nothing stands"),
    ("span", {"context": "abc", "question": "q", "answers": {"text": ["a"], "answer_start": ["0"]}}, 'at "0", where nothing stands'),
    ("span", {"context": "abc", "question": "q", "answers": {"text": ["a"], "answer_start": [0, 1]}}, "1 `text` and 2 `answer_start`"),
    ("span", {"context": "abc", "question": "", "answers": []}, "`question` is empty"),
    ("span", {"context": "abc", "question": "q"}, "no field 'answers' among context, question"),
    ("translate", {"source": "a", "completion": "b"}, "no field 'target' among source, completion"),
    ("translate", {"prompt": "a", "completion": " "}, "`completion` is empty"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "row", "told"), BAD)
def test_a_bad_row_is_set_aside_with_its_reason(kind: Kind, row: Any, told: str, tmp_path: Path) -> None:
    assert told in reason(tmp_path, kind, row)


def test_labels_are_sorted_as_numbers_or_as_words(tmp_path: Path) -> None:
    rows = [{"text": str(label), "label": label} for label in (10, 9, 2.0, "9", -1)]
    assert read(tmp_path, "classify", *rows).labels == ("-1", "2", "9", "10")
    assert read(tmp_path, "classify", *rows, {"text": "a", "label": "好"}).labels == ("-1", "10", "2", "9", "好")
    assert read(tmp_path, "label", {"tokens": ["a", "b"], "tags": ["O", "B-PER"]}).labels == ("B-PER", "O")
    assert read(tmp_path, "regress", {"text": "a", "label": 1}).labels == ()
    assert read(tmp_path, "classify", {"text": "a", "label": "one"}, {"text": "b", "label": "one"}).labels == ("one",)


def test_csv_with_quoted_line_ends_and_whole_numbers_as_floats(tmp_path: Path) -> None:
    text = 'text,label\n"第一行\n第二行, ""引用""",1.0\nplain,0.0\nnothing,\ntoo,many,cells\n,1.0\n'
    (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(text.encode("utf-8-sig")))
    found = read_examples([str(tmp_path / "rows.csv.gz")], "classify", max_bad=0.7)
    assert found.records == (ClassifyExample(text='第一行\n第二行, "引用"', label="1"), ClassifyExample(text="plain", label="0"))
    assert found.labels == ("0", "1")
    assert [(row.line, row.reason.split(";")[0]) for row in found.set_aside] == [
        (5, '`label` is ""'), (6, "3 cells in a row"), (7, "`text` is empty"),
    ]  # fmt: skip


def test_tables_of_text_hold_lists_as_json(tmp_path: Path) -> None:
    (tmp_path / "tags.tsv").write_text('tokens\ttags\n"[""李白"",""来""]"\t"[1, 0]"\n', encoding="utf-8")
    assert read_examples([str(tmp_path / "tags.tsv")], "label").records == (LabelExample(tokens=("李白", "来"), tags=("1", "0")),)
    (tmp_path / "spans.csv").write_text('context,question,answers\nabc,q,"{""text"": [""b""], ""answer_start"": [1]}"\nabc,q,c\n')
    found = [record.answers for record in read_examples([str(tmp_path / "spans.csv")], "span").records if isinstance(record, SpanExample)]
    assert found == [(Answer(text="b", start=1),), (Answer(text="c", start=2),)]


def test_every_format_of_rows_gives_the_same_examples(tmp_path: Path) -> None:
    rows = [{"text": f"文 {number}", "label": float(number)} for number in range(30)]
    expected = read(tmp_path, "classify", *rows).records
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "b.csv").write_text("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows), encoding="utf-8")
    (tmp_path / "g.csv").write_bytes((tmp_path / "b.csv").read_bytes().decode().encode("gb18030"))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "c.parquet")
    for name in ("a.json", "b.csv", "g.csv", "c.parquet"):
        assert read_examples([str(tmp_path / name)], "classify").records == expected, name


def test_nan_in_numbers_is_a_bad_row(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": 1.0}, {"text": "b", "label": float("nan")}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "c.parquet")
    (tmp_path / "d.jsonl").write_text('{"text": "a", "label": 1}\n{"text": "b", "label": NaN}\n')
    for name, told in (("c.parquet", "`label` is missing or not a number"), ("d.jsonl", "not JSON")):
        for kind in ("classify", "regress"):
            found = read_examples([str(tmp_path / name)], kind, max_bad=0.5)
            assert len(found.records) == 1 and told in found.set_aside[0].reason


def test_a_folder_gives_its_rows_and_no_read_me(tmp_path: Path) -> None:
    lines(tmp_path, {"text": "b", "label": 1}, name="b.jsonl")
    lines(tmp_path, {"text": "a", "label": 0}, name="a.jsonl")
    (tmp_path / "README.md").write_text("# about")
    found = read_examples([str(tmp_path)], "classify")
    assert [record.text for record in found.records if isinstance(record, ClassifyExample)] == ["a", "b"]
    assert found.set_aside == ()


def test_too_many_bad_rows_stop_with_the_first(tmp_path: Path) -> None:
    source = lines(tmp_path, *[{"text": "a", "stars": 1, "odd\nname": 2}] * 5, *[{"text": "a", "label": 1}] * 5)
    told = "5 of 10 rows cannot be used for classify, more than 0.1 of all: rows.jsonl:1: no field 'label' among text, stars, odd name; "
    with pytest.raises(DataError, match=re.escape(told)) as caught:
        read_examples([source], "classify")
    assert "\n" not in str(caught.value) and "jsonl:4" not in str(caught.value)
    assert len(read_examples([source], "classify", max_bad=0.5).set_aside) == 5


def test_a_damaged_file_keeps_what_came_before(tmp_path: Path) -> None:
    text = "".join(json.dumps({"text": random.Random(number).randbytes(40).hex(), "label": 1}) + "\n" for number in range(50_000))
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(text.encode())[:-1000])
    found = read_examples([str(tmp_path / "cut.jsonl.gz")], "classify")
    assert 10_000 < len(found.records) < 50_000
    assert "damaged or cut short" in found.set_aside[-1].reason


def test_what_holds_no_rows_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "empty.csv").write_text("text,label\n")
    with pytest.raises(DataError, match=r"a\.txt holds no rows; expected \.jsonl"):
        read_examples([str(tmp_path / "a.txt")], "classify")
    with pytest.raises(DataError, match=r"empty\.csv holds no row for classify; expected at least one"):
        read_examples([str(tmp_path / "empty.csv")], "classify")
    with pytest.raises(DataError, match=r"holds no row for classify: rows\.jsonl:1: `text` is empty"):
        read(tmp_path, "classify", {"text": "", "label": 1})
    with pytest.raises(ConfigError, match="no such file or folder"):
        read_examples([str(tmp_path / "missing.csv")], "classify")
    with pytest.raises(ConfigError, match="max_bad 10 is no share"):
        read_examples([str(tmp_path / "empty.csv")], "classify", max_bad=10)


def reviews(folder: Path, sizes: dict[str, int]) -> Examples:
    return read(
        folder, "classify", *({"text": f"{label} {number}", "label": label} for label, size in sizes.items() for number in range(size))
    )


def labels(examples: Examples) -> list[str]:
    return [record.label for record in examples.records if isinstance(record, ClassifyExample)]


def test_each_class_is_split_alike(tmp_path: Path) -> None:
    whole = reviews(tmp_path, {"many": 800, "few": 40, "two": 2, "one": 1})
    train, held = split_examples(whole, 0.1, seed=7)
    assert {label: labels(held).count(label) for label in whole.labels} == {"many": 80, "few": 4, "two": 1, "one": 0}
    assert train.labels == held.labels == whole.labels
    assert sorted(map(str, (*train.records, *held.records))) == sorted(map(str, whole.records))
    order = {record: place for place, record in enumerate(whole.records)}
    assert [order[record] for record in held.records] == sorted(order[record] for record in held.records)


def test_a_split_depends_on_the_seed_and_not_on_the_order(tmp_path: Path) -> None:
    whole = reviews(tmp_path, {"a": 100, "b": 50})
    backwards = Examples(kind=whole.kind, records=whole.records[::-1], set_aside=(), labels=whole.labels)
    held = set(split_examples(whole, 0.2, seed=1)[1].records)
    assert set(split_examples(backwards, 0.2, seed=1)[1].records) == held
    assert set(split_examples(whole, 0.2, seed=2)[1].records) != held
    assert split_examples(whole, 0.2, seed=-1)[1].records


def test_the_same_input_is_never_on_both_sides(tmp_path: Path) -> None:
    rows = [{"text": f"text {number % 50}", "label": number % 3} for number in range(300)]
    train, held = split_examples(read(tmp_path, "classify", *rows), 0.2, seed=0)
    sides = [{record.text for record in side.records if isinstance(record, ClassifyExample)} for side in (train, held)]
    assert sides[0] and sides[1] and not sides[0] & sides[1]
    spans = [{"context": f"context {number // 5}", "question": f"q{number}", "answers": ["context"]} for number in range(100)]
    train, held = split_examples(read(tmp_path, "span", *spans), 0.2, seed=0)
    contexts = [{record.context for record in side.records if isinstance(record, SpanExample)} for side in (train, held)]
    assert (len(contexts[0]), len(contexts[1]), len(held.records)) == (16, 4, 20)


def test_without_validation_all_is_for_training(tmp_path: Path) -> None:
    whole = reviews(tmp_path, {"a": 3})
    assert [len(side.records) for side in split_examples(whole, 0, seed=0)] == [3, 0]
    assert [len(side.records) for side in split_examples(reviews(tmp_path, {"a": 1}), 0.5, seed=0)] == [1, 0]
    assert [len(side.records) for side in split_examples(whole, 0.99, seed=0)] == [1, 2]
    with pytest.raises(ConfigError, match="validation 1 is no share"):
        split_examples(whole, 1, seed=0)
