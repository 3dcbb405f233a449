from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy import stats
from seqeval.metrics import classification_report
from sklearn import metrics

from danlu.data.answers import Answer
from danlu.evaluation.scores.classes import ClassScores
from danlu.evaluation.scores.figures import Figure, Part, Scores, bootstrap, resampled
from danlu.evaluation.scores.kinds import figure_names, scores_for
from danlu.evaluation.scores.means import ChoiceScores, RankScores
from danlu.evaluation.scores.numbers import NumberScores
from danlu.evaluation.scores.tags import TagScores
from danlu.evaluation.scores.texts import SpanScores, TextScores

LABELS = ("a", "b", "c", "d")


def classes(count: int, labels: tuple[str, ...] = LABELS, *, seed: int = 0, digits: int = 9, skill: float = 0.5) -> ClassScores:
    """Random classes; few digits make many scores equal."""
    random = np.random.default_rng(seed)
    truth, raw = random.integers(0, len(labels), count), random.random((count, len(labels)))
    raw[np.arange(count), truth] += skill
    raw = np.round(raw / raw.sum(1, keepdims=True), digits)
    scores = ClassScores(labels)
    scores.add([labels[place] for place in truth], [Answer(label=labels[row.argmax()], scores=tuple(row)) for row in raw])
    return scores


def by_formula(scores: Scores, weights: np.ndarray | None = None) -> dict[str, float]:
    column = np.ones((len(scores), 1)) if weights is None else weights.astype(float)[:, None]
    return {name: float(value[0]) for part in scores.parts() for name, value in part.of(column).items()}


def numbers(count: int, seed: int = 0) -> NumberScores:
    random = np.random.default_rng(seed)
    truth = np.round(random.normal(50, 1, count), 1)
    scores = NumberScores()
    scores.add(truth.tolist(), [Answer(value=value) for value in np.round(truth + random.normal(0, 1, count), 1).tolist()])
    return scores


TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def sentences(count: int, seed: int = 0) -> tuple[list[list[str]], list[list[str]]]:
    random = np.random.default_rng(seed)
    true = [[TAGS[place] for place in random.integers(0, 5, random.integers(1, 12))] for _ in range(count)]
    told = [[tag if random.random() < 0.7 else TAGS[random.integers(0, 5)] for tag in tags] for tags in true]
    return true, told


def tagged(true: list[list[str]], told: list[list[str]]) -> TagScores:
    scores = TagScores()
    scores.add(true, [Answer(tags=tuple(tags)) for tags in told])
    return scores


@pytest.mark.parametrize("labels", [("no", "yes"), LABELS])
@pytest.mark.parametrize("digits", [9, 1])
def test_formulas_say_what_scikit_learn_says_whatever_the_weights(labels: tuple[str, ...], digits: int) -> None:
    scores = classes(300, labels, digits=digits)
    for seed in range(3):
        weights = np.random.default_rng(seed).integers(0, 4, len(scores)) if seed else None
        said, ours = scores.figures(weights), by_formula(scores, weights)
        assert (
            said.keys() == ours.keys()
            and {"roc_auc", "average_precision", "mcc", "ece", "f1_micro", "f1_macro", "f1_weighted"} <= said.keys()
        )
        assert all(ours[name] == pytest.approx(value, abs=1e-9) for name, value in said.items())


def test_figures_of_classes_are_those_of_scikit_learn() -> None:
    scores = classes(400)
    truth, told, sure = scores.truth, scores.told, scores.scores
    found = scores.figures()
    assert found["accuracy"] == metrics.accuracy_score(truth, told)
    assert found["f1_macro"] == pytest.approx(metrics.f1_score(truth, told, average="macro"))
    assert found["precision/b"] == pytest.approx(metrics.precision_score(truth, told, labels=[1], average="macro"))
    assert found["log_loss"] == pytest.approx(metrics.log_loss(truth, sure / sure.sum(1, keepdims=True)), rel=1e-5)
    assert found["brier"] == pytest.approx(metrics.brier_score_loss(truth, sure / sure.sum(1, keepdims=True), labels=range(4)), rel=1e-5)
    assert found["roc_auc"] == pytest.approx(metrics.roc_auc_score(truth, sure / sure.sum(1, keepdims=True), multi_class="ovr"), rel=1e-4)
    two = classes(400, ("no", "yes"))
    assert two.figures()["brier"] == pytest.approx(metrics.brier_score_loss(two.truth, two.scores[:, 1]), rel=1e-5)
    assert two.figures()["roc_auc"] == pytest.approx(metrics.roc_auc_score(two.truth, two.scores[:, 1]))
    assert two.figures()["f1"] == pytest.approx(metrics.f1_score(two.truth, two.told))


def test_calibration_error_is_that_of_its_definition() -> None:
    scores = classes(500, ("no", "yes"))
    sure, right = scores.confidence().astype(float), scores.truth == scores.told
    bounds = np.linspace(0, 1, 16)
    among = [(sure > low) & (sure <= high) for low, high in pairwise(bounds)]
    wanted = sum(abs(right[bin].mean() - sure[bin].mean()) * bin.mean() for bin in among if bin.any())
    assert scores.figures()["ece"] == pytest.approx(wanted)


def test_areas_of_grouped_scores_are_shifted_onto_the_exact_ones() -> None:
    scores = classes(20_000, ("no", "yes"))
    exact, ours = scores.figures()["average_precision"], by_formula(scores)["average_precision"]
    assert exact != ours and exact == pytest.approx(ours, abs=1e-3)
    found = bootstrap(scores, wanted=("average_precision",), draws=60)["average_precision"]
    assert found.value == exact and found.low < exact < found.high


def test_one_class_only_leaves_out_what_cannot_be_told() -> None:
    scores = ClassScores(("no", "yes"))
    scores.add(["yes"] * 5, [Answer(label="yes", scores=(0.2, 0.8))] * 4 + [Answer(label="no", scores=(0.6, 0.4))])
    found = bootstrap(scores, draws=50)
    assert "roc_auc" not in found and "average_precision" not in found and found["accuracy"].value == 0.8
    assert any("one class, yes" in warning for warning in scores.warnings())
    assert all(np.isfinite([figure.low, figure.high, figure.error]).all() for figure in found.values())


def test_a_class_that_no_draw_holds_leaves_finite_intervals() -> None:
    scores = ClassScores(("rare", "usual"))
    scores.add(["rare"] + ["usual"] * 30, [Answer(label="usual", scores=(place / 100, 1 - place / 100)) for place in range(31)])
    area = bootstrap(scores)["roc_auc"]
    assert np.isfinite([area.value, area.low, area.high, area.error]).all()


def test_answers_that_are_no_label_are_wrong_and_counted_as_scikit_learn_would() -> None:
    scores = ClassScores(LABELS)
    told = ["a", "", "b", "c", "", "a"]
    scores.add(["a", "a", "b", "b", "c", "b"], [Answer(label=label) for label in told])
    found = scores.figures()
    assert found["accuracy"] == pytest.approx(2 / 6) and "log_loss" not in found
    assert found["mcc"] == pytest.approx(metrics.matthews_corrcoef(["a", "a", "b", "b", "c", "b"], told))
    assert by_formula(scores) == pytest.approx(found)


def test_entities_are_those_of_seqeval() -> None:
    true, told = sentences(200)
    scores = tagged(true, told)
    found, theirs = scores.figures(), classification_report(true, told, output_dict=True, zero_division=0)
    for name, key in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
        assert found[name] == pytest.approx(theirs["micro avg"][key]) and found[f"{name}_macro"] == pytest.approx(theirs["macro avg"][key])
        assert found[f"{name}_weighted"] == pytest.approx(theirs["weighted avg"][key])
        assert found[f"{name}/PER"] == pytest.approx(theirs["PER"][key])
    flat = [tag for tags in true for tag in tags], [tag for tags in told for tag in tags]
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(*flat))


def test_sentences_that_count_twice_are_sentences_that_stand_there_twice() -> None:
    true, told = sentences(40)
    weights = np.random.default_rng(1).integers(0, 4, 40)
    twice = [[tags for tags, count in zip(side, weights, strict=True) for _ in range(count)] for side in (true, told)]
    theirs = classification_report(*twice, output_dict=True, zero_division=0)
    assert tagged(true, told).figures(weights)["f1"] == pytest.approx(theirs["micro avg"]["f1-score"])


def test_tags_that_are_no_entities_are_counted_by_tag() -> None:
    scores = tagged([["N", "V"], ["N", "O"]], [["N", "N"], ["N", "O"]])
    found = scores.figures()
    assert found["accuracy"] == 0.75 and found["recall/V"] == 0 and found["precision/N"] == pytest.approx(2 / 3)
    assert found["f1_macro"] == pytest.approx(metrics.f1_score(["N", "V", "N"], ["N", "N", "N"], average="macro"))


def test_numbers_are_those_of_scipy_and_scikit_learn_whatever_the_weights() -> None:
    scores = numbers(200)
    truth, told = scores.truth.array(), scores.told.array()
    found = scores.figures()
    assert found["pearson"] == pytest.approx(np.corrcoef(truth, told)[0, 1]) and found["spearman"] == pytest.approx(
        stats.spearmanr(truth, told)[0]
    )
    assert found["r2"] == pytest.approx(metrics.r2_score(truth, told)) and found["mse"] == pytest.approx(((truth - told) ** 2).mean())
    weights = np.random.default_rng(1).integers(0, 4, 200)
    for each in (None, weights):
        assert by_formula(scores, each) == pytest.approx(scores.figures(each))


def test_numbers_that_are_all_the_same_have_no_correlation() -> None:
    scores = NumberScores()
    scores.add([1.0, 1.0, 1.0], [Answer(value=value) for value in (1.0, 2.0, 3.0)])
    assert set(bootstrap(scores, draws=20)) == {"mse", "mae"}


def test_spans_are_compared_as_squad_does() -> None:
    scores = SpanScores()
    own = scores.add(
        [["The Denver Broncos", "Broncos"], [], ["北京大学"], ["a cat"]],
        [Answer(text="denver  broncos!"), Answer(text=""), Answer(text="北京"), Answer(text="dog")],
    )
    assert own == pytest.approx([1, 1, 2 / 3, 0]) and scores.figures()["exact_match"] == 0.5
    assert TextScores().add(["Ja , gut"], [Answer(text=" ja , GUT\n")]) == [1.0]


def test_choices_and_ranks() -> None:
    choices = ChoiceScores()
    assert choices.add([1, 0], [Answer(label="1", scores=(0.25, 0.75)), Answer(label="2", scores=(0.2, 0.3, 0.5))]) == [1.0, 0.0]
    assert choices.figures()["log_loss"] == pytest.approx(-np.log([0.75, 0.2]).mean())
    assert choices.figures()["brier"] == pytest.approx(np.mean([2 * 0.25**2, 0.8**2 + 0.3**2 + 0.5**2]))
    ranks = RankScores()
    ranks.add(["x"] * 3, [Answer(value=rank) for rank in (1, 3, 11)])
    wanted = metrics.ndcg_score([[0, 0, 1, 0]], [[4, 3, 2, 1]], k=10)
    assert ranks.figures() == pytest.approx(
        {"ndcg_at_10": (1 + wanted) / 3, "mrr": (1 + 1 / 3 + 1 / 11) / 3, "recall_at_1": 1 / 3, "recall_at_10": 2 / 3}
    )


def test_the_interval_of_accuracy_is_about_the_exact_one() -> None:
    scores = classes(500, ("no", "yes"))
    right = int((scores.truth == scores.told).sum())
    exact = stats.binomtest(right, 500).proportion_ci(method="wilson")
    found = bootstrap(scores, wanted=("accuracy",))["accuracy"]
    assert found.low == pytest.approx(exact.low, abs=0.008) and found.high == pytest.approx(exact.high, abs=0.008)
    assert found.error == pytest.approx(np.sqrt(found.value * (1 - found.value) / 500), rel=0.1)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    held = 0
    for seed in range(200):
        scores = NumberScores()
        off = np.random.default_rng(seed).normal(0, 1, 150)
        scores.add([0.0] * 150, [Answer(value=value) for value in off])
        found = bootstrap(scores, wanted=("mse",), seed=seed, draws=300)["mse"]
        held += found.low <= 1.0 <= found.high
    assert 0.87 <= held / 200 <= 0.99


def test_the_same_seed_gives_the_same_numbers_and_a_slice_is_a_smaller_whole() -> None:
    scores = classes(200)
    assert bootstrap(scores, seed=3, draws=50) == bootstrap(scores, seed=3, draws=50)
    assert bootstrap(scores, seed=3, draws=50)["accuracy"] != bootstrap(scores, seed=4, draws=50)["accuracy"]
    rows = np.arange(0, 200, 3)
    part = ClassScores(LABELS)
    part.add(
        [LABELS[place] for place in scores.truth[rows]],
        [
            Answer(label=LABELS[told], scores=tuple(sure))
            for told, sure in zip(scores.told[rows], scores.scores[rows].tolist(), strict=True)
        ],
    )
    names = ("accuracy", "f1_macro", "roc_auc")
    mine, theirs = bootstrap(scores, rows, names, draws=50), bootstrap(part, None, names, draws=50)
    assert all(vars_of(mine[name]) == pytest.approx(vars_of(theirs[name])) for name in names)


def vars_of(figure: Figure) -> list[float]:
    return [figure.value, figure.low, figure.high, figure.error]


def test_many_draws_at_once_are_the_draws_one_by_one() -> None:
    scores = numbers(60)
    parts: list[Part] = scores.parts()
    drawn, own = resampled(parts, 60, seed=0, draws=7)
    random = np.random.default_rng(0)
    weights = [np.bincount(random.integers(0, 60, 60, dtype=np.int32), minlength=60) for _ in range(7)]
    assert drawn["spearman"] == pytest.approx([scores.figures(each)["spearman"] for each in weights])
    assert own["mse"] == pytest.approx(scores.figures()["mse"])


def test_scores_come_by_kind() -> None:
    assert isinstance(scores_for("classify", ("a", "b")), ClassScores) and isinstance(scores_for("chat"), TextScores)
    assert isinstance(scores_for("label"), TagScores) and len(scores_for("retrieve")) == 0


def test_the_names_of_figures_are_those_that_come() -> None:
    def plain(scores: Scores) -> set[str]:
        return {name for name in scores.figures() if "/" not in name}

    assert plain(classes(50)) == set(figure_names("classify", LABELS))
    assert plain(classes(50, ("no", "yes"))) == set(figure_names("classify", ("no", "yes")))
    assert plain(tagged(*sentences(20))) == set(figure_names("label")) and plain(numbers(30)) == set(figure_names("regress"))
