"""What someone sees of runs after training: the table, a curve in a notebook, runs side by side, a profile."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from matplotlib import font_manager

import danlu
from danlu.base.run import Run
from danlu.cli import main
from danlu.recipes.train import Trained
from danlu.reports import picture

WORDS = ("丹炉", "炼", "模型", "the", "river", "runs", "past", "old", "stone", "walls", "and", "green", "hills", "while", "ships")
OPTIONS = {"batch_rows": 2, "context_length": 32, "precision": "float32", "threads": 1, "steps": 20}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("seen")
    raw, data = folder / "raw.txt", str(folder / "data")
    raw.write_text("\n".join(" ".join(WORDS[(i * k + k) % len(WORDS)] for k in range(1, 40)) for i in range(200)))
    danlu.prepare(str(raw), out=data, vocabulary_size=300, workers=1)
    given = {"data": data, "runs": folder / "runs"} | OPTIONS
    return {
        "first": danlu.train("gpt/nano", name="first", **given),
        "炼丹": danlu.train("gpt/nano", name="炼丹", **given | {"optimizer": "adamw", "rate": 2e-3}),
        "profiled": danlu.train("gpt/nano", name="profiled", profile=True, **given),
    }


@pytest.fixture
def runs(trained: dict[str, Trained]) -> Path:
    return Path(trained["first"].run).parent


def test_the_table_tells_what_training_told(trained: dict[str, Trained], runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "--runs", str(runs)]) == 0
    table = capsys.readouterr().out
    assert all(re.search(rf"^{name} .* finished +20 ", table, re.MULTILINE) for name in trained)
    assert main(["runs", "--runs", str(runs), "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["runs"]}
    for name, made in trained.items():
        assert rows[name]["loss_nats"] == pytest.approx(made.train_loss_nats)
        assert rows[name]["val_bits_per_byte"] == pytest.approx(made.val_bits_per_byte)
        assert (rows[name]["tokens"], rows[name]["fault"]) == (made.tokens, None)
    assert main(["runs", "--runs", str(runs / "gone")]) == 2


def test_listing_needs_no_torch(runs: Path) -> None:
    code = (
        "import sys, danlu; from danlu.cli import main; "
        f"assert main(['runs', '--runs', {str(runs)!r}]) == 0; danlu.runs({str(runs)!r})['first']._repr_html_(); "
        "sys.exit(', '.join({'torch', 'numpy', 'matplotlib', 'tokenizers'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_a_notebook_shows_curves(trained: dict[str, Trained], runs: Path) -> None:
    found = danlu.runs(runs)
    for each in (trained["first"], found["first"], found.compare("first", "炼丹")):
        shown = each._repr_html_()
        tree = ElementTree.fromstring(f"<div>{shown}</div>")
        assert sum(each.tag.endswith("polyline") for each in tree.iter()) >= 2
        assert "first" in "".join(tree.itertext())
    assert "<table" in found._repr_html_()


def test_two_runs_side_by_side(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "compare", "first", str(runs / "炼丹"), "--runs", str(runs), "--out", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["Settings that differ"].keys() == {"optimizer", "rate"}
    assert told["Settings that differ"]["optimizer"] == {"first": "muon", "炼丹": "adamw"}
    assert told["Versions and machine that differ"] == {}
    assert told["Final figures"]["steps"] == {"first": "20", "炼丹": "20"}
    assert Path(told["picture"]).read_bytes().startswith(b"\x89PNG")
    page = Path(told["page"]).read_text("utf-8")
    assert "炼丹" in page and "adamw" in page and page.count("<svg viewBox") == 2 and "prefers-color-scheme: dark" in page
    assert not re.search(r"(src|href)=|@import|url\((?!#)|<script", page)  # nothing from elsewhere
    ElementTree.fromstring(page.partition("</head>")[2].removesuffix("</html>\n"))  # well formed


def test_a_picture_says_what_no_font_draws(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert picture.find_fonts("plain, größer") == ([picture.LATIN], "")
    monkeypatch.setattr(font_manager, "findSystemFonts", list)
    assert picture.find_fonts("a炼丹") == ([picture.LATIN], "丹炼")
    assert main(["runs", "compare", "first", "炼丹", "--runs", str(runs), "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "no font here draws 丹炼" in said and (tmp_path / "compare.png").exists()


def test_chinese_names_are_drawn_where_a_font_has_them() -> None:
    families, lacking = picture.find_fonts("炼丹")
    if lacking:
        pytest.skip("this machine has no Chinese font")
    drawn = font_manager.findfont(families[-1], fallback_to_default=False)
    assert {ord("炼"), ord("丹")} <= picture.FT2Font(drawn).get_charmap().keys()


@pytest.mark.parametrize(
    ("names", "says"),
    [(["first"], "two or more"), ([], "two or more"), (["first", "nosuch"], "nosuch is no run"), (["first", "half"], "half is no run")],
)
def test_what_cannot_be_compared_is_said(
    names: list[str], says: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "half").mkdir()
    assert main(["runs", "compare", *names, "--runs", str(runs), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert says in error and len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_runs_without_a_step_or_a_manifest_are_compared_too(runs: Path, tmp_path: Path) -> None:
    Run.create(tmp_path, "empty", {"start": "gpt/nano", "task": "regress"})
    broken = Run.create(tmp_path, "broken", {"start": "gpt/mini"})
    broken.log(step=1, loss_nats=2.0)
    (broken.folder / "manifest.json").write_text("[")
    assert main(["runs", "compare", "empty", "broken", str(runs / "first"), "--runs", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "compare.png").exists()
    assert "manifest.json: cannot be read" in (tmp_path / "out" / "compare.html").read_text("utf-8")


def test_a_profile_changes_nothing_and_adds_up(trained: dict[str, Trained], runs: Path) -> None:
    losses = [[row["loss_nats"] for row in Run(runs / name).metrics() if "kind" not in row] for name in ("first", "profiled")]
    assert losses[0] == losses[1]
    summary = (runs / "profiled" / "profile" / "summary.txt").read_text()
    assert summary.startswith("profile of steps 4 to 8: ")
    shares = {kind: float(share) for kind, share in re.findall(r"^  (\w.*?) +([\d.]+)%", summary, re.MULTILINE)}
    assert list(shares) == ["products", "attention", "cross-entropy", "normalisation", "optimizer", "copies", "data", "everything else"]
    assert sum(shares.values()) == pytest.approx(100, abs=0.5)
    assert all(shares[kind] > 0 for kind in ("products", "attention", "cross-entropy", "normalisation", "optimizer"))
    # Products of a step: forward, and backward to inputs and to weights, 2 FLOP a weight and token each; the embedding is the output's too.
    model = Run(runs / "profiled").manifest["model"]
    width, hidden = model["width"], model["feedforward"]["hidden_width"]
    weights = model["num_layers"] * (4 * width * width + 3 * width * hidden) + model["vocabulary_size"] * width
    told = float(re.search(r"([\d.]+) GFLOP of products", summary)[1])
    assert told == pytest.approx(3 * 2 * weights * 2 * 32 / 1e9, abs=0.006)
    over_all, alone = map(float, re.findall(r"([\d.]+) GFLOP/s", summary))
    assert over_all > 0 and alone > 0
    trace = json.loads((runs / "profiled" / "profile" / "trace.json").read_bytes())["traceEvents"]
    marked = {event["name"] for event in trace if event.get("name", "").startswith("danlu::step")}
    assert marked == {f"danlu::step {number}" for number in range(4, 9)}


@pytest.mark.parametrize(("steps", "says"), [(2, "no profile: "), (6, "profile of steps 4 to 6")])
def test_a_run_that_is_shorter_than_a_profile(
    steps: int, says: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = OPTIONS | {"data": str(runs.parent / "data"), "runs": tmp_path, "name": "a", "steps": steps}
    danlu.train("gpt/nano", profile=True, **given)
    assert says in capsys.readouterr().err
