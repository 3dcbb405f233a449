from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from danlu.base.errors import ConfigError, RequestError
from danlu.data.answers import Answer, Refused
from danlu.data.choices import ChoiceExample
from danlu.data.conversations import ChatExample
from danlu.data.examples import Answer as Span
from danlu.data.examples import ClassifyExample, Example, SpanExample, TranslateExample
from danlu.evaluation.answerers.choosing import Asking
from danlu.evaluation.answerers.prompting import Prompted, Prompting, behind, first_named
from danlu.evaluation.answerers.shots import Shots, terms
from danlu.evaluation.answerers.speaking import LocalSpeaker, Speaker, open_endpoint
from danlu.inference.likelihood import Scored, encode_continuations
from danlu.inference.model import Model, load
from danlu.inference.remote import RemoteModel, Said, _scored
from danlu.tasks.base import Task
from tests.inference.tiny import CONTEXT, write_tiny
from tests.server.conftest import Running, start

MOOD = Task(name="mood", kind="classify", what="", prompt="{text}\nMood:", words={"+": "good", "-": "bad"})
PICK = Task(name="pick", kind="choice", what="")
SPAN = Task(name="span", kind="span", what="")
TURN = Task(name="turn", kind="translate", what="")
TALK = Task(name="talk", kind="chat", what="")
THINGS = ["river", "mountain", "technology", "dragon", "world", "number", "sentence", "bridge", "forest", "garden", "winter", "letter"]


def mood(text: str, label: str = "+") -> ClassifyExample:
    return ClassifyExample(text=text, label=label)


POOL = [mood(f"the {thing} is here", "+-0"[place % 3]) for place, thing in enumerate(THINGS)]
PICKS = [
    ChoiceExample(prompt="The river and the mountain", choices=(" are old", "one", "three four five six"), answer=0),
    ChoiceExample(prompt="one two three", choices=("four", "world"), answer=0),
]
TALKS = [
    ChatExample(messages=(("system", "be brief"), ("user", "Hello"), ("assistant", "world!"))),
    ChatExample(messages=(("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four"))),
    ChatExample(messages=(("user", "river"), ("assistant", "old"))),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[Model]:
    with load(folder) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def local(model: Model) -> LocalSpeaker:
    return LocalSpeaker(model)


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Running]:
    found, server, thread = start({"tiny": load(folder)}, {})
    yield found
    found.http.close()
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def remote(served: Running) -> RemoteModel:
    return RemoteModel(f"api:{served.url}#tiny")


class Parrot:
    """A speaker whose likelihoods and texts are given."""

    name = "parrot"

    def __init__(self, nats: Sequence[float] = (), text: str = "") -> None:
        self.nats, self.text = nats, text
        self.asked: list[Any] = []

    def score(self, prompts: Sequence[Any]) -> list[list[Scored] | RequestError]:
        self.asked += prompts
        return [[Scored(nats=nats, tokens=1, greedy=False) for nats in self.nats] for _ in prompts]

    def generate(self, prompts: Sequence[str], max_tokens: int, stop: Sequence[str]) -> list[Said | RequestError]:
        self.asked += prompts
        return [Said(self.text) for _ in prompts]

    def chat(self, conversations: Sequence[Any], max_tokens: int) -> list[Said | RequestError]:
        self.asked += conversations
        return [Said(self.text) for _ in conversations]


def test_prompts_are_joined_as_lm_eval_joins_them() -> None:
    asked = mood("snow")
    for count in (0, 1, 5):
        prompted = Prompted(MOOD, Parrot(), ("+", "-"), POOL, Prompting(shots=count, seed=3))
        parts = prompted.prompt(asked).split("\n\n")
        assert len(parts) == count + 1 and parts[-1] == "snow\nMood:"
        known = {f"{example.text}\nMood: {MOOD.answer(example)}" for example in POOL}
        assert len(set(parts)) == count + 1 and set(parts[:-1]) <= known
    parrot = Parrot([-1.0, -2.0])
    Prompted(MOOD, parrot, ("-", "+")).answer([asked])
    assert parrot.asked == [("snow\nMood:", [" bad", " good"])]


@pytest.mark.parametrize(("prompt", "answer", "expected"), [("A:", "b", " b"), ("A: ", "b", "b"), ("A\n", "b", "b"), ("答：", "是", "是")])
def test_an_answer_stands_behind_one_space(prompt: str, answer: str, expected: str) -> None:
    assert behind(prompt, answer) == expected


@pytest.mark.parametrize("by", ["random", "balanced", "nearest"])
def test_no_example_is_shown_its_own_answer(by: Any) -> None:
    shots = Shots([*POOL, *(mood(f" The {thing}  IS here", "0") for thing in THINGS)], 5, by)
    for example in POOL:
        drawn = shots.draw(example)
        assert len(drawn) == 5 and example.text not in [" ".join(one.text.lower().split()) for one in drawn]  # type: ignore[union-attr]
        assert len({" ".join(one.text.lower().split()) for one in drawn}) == 5  # type: ignore[union-attr]


def test_of_a_choice_the_question_counts() -> None:
    pool = [ChoiceExample(prompt=f"question {place % 4}", choices=("a", str(place)), answer=place % 2) for place in range(8)]
    for by in ("random", "nearest", "balanced"):
        for _ in range(3):
            assert "question 2" not in [one.prompt for one in Shots(pool, 2, by).draw(pool[2])]  # type: ignore[union-attr, arg-type]


def test_balanced_shots_have_every_label() -> None:
    lopsided = [*POOL, *(mood(f"much {number}", "+") for number in range(50))]
    for number in range(20):
        labels = [one.label for one in Shots(lopsided, 5, "balanced").draw(mood(f"x {number}"))]  # type: ignore[union-attr]
        assert sorted(labels.count(label) for label in "+-0") == [1, 2, 2]
    labels = [one.label for one in Shots(lopsided, 14, "balanced").draw(lopsided[1])]  # type: ignore[union-attr]
    assert (labels.count("-"), labels.count("0"), labels.count("+")) == (3, 4, 7)  # all there are of the rare ones, but for itself


def test_nearest_shots_share_words_and_the_nearest_comes_last() -> None:
    texts = ["the old river flows", "a river", "cats sleep", "stars shine", "the old bridge", "an old river flows slowly to the sea"]
    drawn = Shots([mood(text) for text in texts], 3, "nearest").draw(mood("the old river flows slowly"))
    assert [one.text for one in drawn][1:] == [texts[5], texts[0]]  # type: ignore[union-attr]
    chinese = ["这家店的菜很好吃", "快递太慢了", "手机电池不耐用"]
    drawn = Shots([mood(text) for text in chinese], 1, "nearest").draw(mood("店里菜好吃，很满意"))
    assert drawn == [mood(chinese[0])]
    assert terms("Big-Data 好吃了 x") == ["big", "data", "好吃", "吃了", "x"]


def test_a_draw_hangs_on_seed_and_question_alone() -> None:
    for by in ("random", "balanced"):
        one, other = Shots(POOL, 4, by, seed=1), Shots(POOL, 4, by, seed=1)  # type: ignore[arg-type]
        other.draw(mood("something else"))
        assert one.draw(mood("x")) == other.draw(mood("x"))
        assert any(one.draw(example) != Shots(POOL, 4, by, seed=2).draw(example) for example in POOL)  # type: ignore[arg-type]
        assert len({str(one.draw(mood(f"{number}"))) for number in range(9)}) > 1


def test_sum_and_mean_choose_by_what_they_say() -> None:
    example = ChoiceExample(prompt="?", choices=("ab", "abcdefgh"), answer=0)
    raw = Prompted(PICK, Parrot([-3.0, -4.0])).answer([example])[0]
    mean = Prompted(PICK, Parrot([-3.0, -4.0]), how=Prompting(by="mean")).answer([example])[0]
    assert isinstance(raw, Answer) and isinstance(mean, Answer)
    assert (raw.label, mean.label) == ("0", "1")
    assert raw.scores == pytest.approx((0.73106, 0.26894), abs=1e-5) and mean.scores == pytest.approx((0.26894, 0.73106), abs=1e-5)
    assert Prompted(PICK, Parrot([-2.0, -2.0])).answer([example])[0].label == "0"  # type: ignore[union-attr]


def test_likelihoods_are_the_models(model: Model, local: LocalSpeaker) -> None:
    found = Prompted(PICK, local).answer(PICKS)
    for example, answer in zip(PICKS, found, strict=True):
        scored = local.likelihoods.score_texts([(example.prompt, [f" {choice}" for choice in example.choices])])[0]
        best = max(range(len(scored)), key=lambda place: scored[place].nats)
        assert isinstance(answer, Answer) and answer.label == str(best) and sum(answer.scores) == pytest.approx(1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("It is BAD, not good", 1), ("goodness me, badly", None), ("very good indeed", 2), ("good.", 0), ("", None), ("结果是负面的", 3)],
)
def test_the_first_label_in_a_text_counts(text: str, expected: int | None) -> None:
    assert first_named(text, ("good", "bad", "very good", "负面")) == expected


def test_written_labels() -> None:
    by = Prompting(by="generation")
    found, missed = (Prompted(MOOD, Parrot(text=text), ("+", "-"), how=by).answer([mood("x")])[0] for text in (" Bad!", "hm"))
    assert found == Answer(label="-", scores=(0.0, 1.0), text="Bad!")
    assert missed == Answer(label="", scores=(0.5, 0.5), text="hm")


def test_answers_are_written_greedily(model: Model, local: LocalSpeaker) -> None:
    span = SpanExample(context="The river is old", question="What?", answers=(Span(text="river", start=4),))
    turn = TranslateExample(source="one two", target="three")
    for task, example, stop in ((SPAN, span, "\n"), (TURN, turn, "\n\n")):
        found = Prompted(task, local, how=Prompting(max_tokens=12)).answer([example, example])
        expected = model.generate(task.ask(example), temperature=0, max_tokens=12, stop=(stop,)).text.strip()
        assert [one.text for one in found] == [expected] * 2  # type: ignore[union-attr]
    asked = [[{"role": "system", "content": "be brief"}, {"role": "user", "content": "Hello"}]]
    found = Prompted(TALK, local, how=Prompting(max_tokens=12)).answer(TALKS[:1])
    assert found[0].text == model.chat(asked[0], temperature=0, max_tokens=12).text.strip()  # type: ignore[union-attr]


def test_conversations_stand_before_a_conversation() -> None:
    prompted = Prompted(TALK, Parrot(), pool=TALKS[1:], how=Prompting(shots=1, shots_by="nearest"))
    turns = [(turn["role"], turn["content"]) for turn in prompted.messages(TALKS[0])]
    assert turns[0] == ("system", "be brief") and turns[-1] == ("user", "Hello")
    assert tuple(turns[1:-1]) in (TALKS[1].messages, TALKS[2].messages)


def test_a_long_prompt_is_refused_or_cut(model: Model, local: LocalSpeaker) -> None:
    long = mood("one two three four five six " * CONTEXT)
    ids, continuations = encode_continuations(model, MOOD.ask(long), [" good", " bad"])
    refused, answered = Prompted(MOOD, local, ("+", "-")).answer([long, mood("one")])
    assert isinstance(refused, Refused) and str(CONTEXT) in refused.reason and isinstance(answered, Answer)
    assert f"{len(ids) + max(map(len, continuations))} tokens long" in refused.reason
    cutting = LocalSpeaker(model, truncate=True)
    assert Prompted(MOOD, cutting, ("+", "-")).answer([long])[0].cut == (  # type: ignore[union-attr]
        len(ids) - (CONTEXT + 1 - max(map(len, continuations)))
    )
    refused, answered = Prompted(MOOD, local, ("+", "-"), how=Prompting(by="generation")).answer([long, mood("one")])
    assert isinstance(refused, Refused) and isinstance(answered, Answer)
    written = Prompted(MOOD, cutting, ("+", "-"), how=Prompting(by="generation", max_tokens=4)).answer([long])[0]
    assert isinstance(written, Answer) and written.cut == len(model.encode(MOOD.ask(long))) - (CONTEXT - 4)


def test_the_hash_tells_prompts_apart() -> None:
    def of(task: Task = MOOD, labels: tuple[str, ...] = ("+", "-"), **how: Any) -> str:
        return Prompted(task, Parrot(), labels, POOL, Prompting(**how)).prompt_sha256

    other = Task(name="mood", kind="classify", what="", prompt="{text}\nFeeling:", words=MOOD.words)
    found = [of(), of(other), of(labels=("-", "+")), of(shots=1), of(shots=1, shots_by="balanced"), of(seed=1), of(by="mean")]
    assert of() == found[0] and len(set(found)) == len(found)


def test_what_cannot_be_prompted_is_told() -> None:
    same = Task(name="same", kind="classify", what="", words={"a": "x", "b": "x"})
    cases: list[tuple[str, Callable[[], object]]] = [
        ("cannot be put as a prompt", lambda: Prompted(Task(name="t", kind="retrieve", what=""), Parrot())),
        ("two or more different words", lambda: Prompted(same, Parrot(), ("a", "b"))),
        ("two or more different words", lambda: Prompted(MOOD, Parrot(), ("+",))),
        ("different examples to draw from", lambda: Prompted(MOOD, Parrot(), ("+", "-"), POOL[:2], Prompting(shots=2))),
        ("without classes", lambda: Shots([TranslateExample(source=text, target="x") for text in THINGS], 2, "balanced")),
        ("shots_by came as", lambda: Shots(POOL, 1, "best")),  # type: ignore[arg-type]
        ("shots came as", lambda: Shots(POOL, -1)),
        ("by came as", lambda: Prompting(by="luck")),  # type: ignore[arg-type]
        ("max_tokens came as", lambda: Prompting(max_tokens=0)),
        ("expected api:URL#MODEL", lambda: RemoteModel("api:ftp://x#y")),
        ("expected api:URL#MODEL", lambda: open_endpoint("api:http://x")),
        ("--precision came as 'int7'; expected auto", lambda: Asking(precision="int7")),  # whoever answers
        ("leave truncate out", lambda: open_endpoint("api:http://x#y", truncate=True)),
    ]
    for said, make in cases:
        with pytest.raises(ConfigError, match=said):
            make()


@pytest.mark.parametrize("by", ["sum", "mean", "generation"])
def test_an_endpoint_answers_as_the_model_does(local: LocalSpeaker, remote: Speaker, by: Any) -> None:
    asked: list[tuple[Task, Sequence[Example]]] = [
        (MOOD, [mood("The river 😀 and the"), mood("大模型是一种强大的"), mood("one ")]),
        (PICK, PICKS),
        (TALK, TALKS),
    ]
    for task, examples in asked:
        how = Prompting(by=by, shots=2 if task is MOOD else 0, max_tokens=8)
        labels, pool = ("+", "-", "0"), POOL if task is MOOD else ()
        mine, theirs = (Prompted(task, speaker, labels, pool, how).answer(examples) for speaker in (local, remote))
        for one, other in zip(mine, theirs, strict=True):
            assert isinstance(one, Answer) and isinstance(other, Answer)
            assert (one.label, one.text) == (other.label, other.text) and one.scores == pytest.approx(other.scores, rel=1e-3)


def test_likelihoods_over_http_are_the_local_ones(local: LocalSpeaker, remote: RemoteModel) -> None:
    prompts = [
        ("The river", [" and the", " mountain are old", "s"]),
        ("大模型是一种", ["强大的技术", "😀"]),
        ("one two ", ["three"]),
        ("Hello 😀", [" world"] * 3 + [f" {number}" for number in range(30)]),
    ]
    for mine, theirs in zip(local.score(prompts), remote.score(prompts), strict=True):
        assert not isinstance(mine, RequestError) and not isinstance(theirs, RequestError)
        assert [(one.tokens, one.greedy) for one in mine] == [(one.tokens, one.greedy) for one in theirs]
        assert [one.nats for one in mine] == pytest.approx([one.nats for one in theirs], rel=1e-4)


def test_an_endpoint_refuses_one_prompt_and_answers_others(remote: RemoteModel) -> None:
    long, short = Prompted(MOOD, remote, ("+", "-")).answer([mood("one two " * CONTEXT), mood("one")])
    assert isinstance(long, Refused) and str(CONTEXT) in long.reason and isinstance(short, Answer)
    nothing, something = remote.score([("", ["The"]), ("The", [" river"])])
    assert isinstance(nothing, RequestError) and not isinstance(something, RequestError)
    with pytest.raises(RequestError, match="answered 404: there is no model"):
        RemoteModel(remote.url.join(["api:", "#absent"])).generate(["x"], 1, ())


def test_offsets_that_count_a_beginning_tokens_name() -> None:
    told = {
        "tokens": ["<s>", "The", " river", "!"],
        "token_logprobs": [None, -1.0, -2.0, -4.0],
        "top_logprobs": [None, {"The": -1.0}, {" river": -2.0}, {"?": -0.5}],
        "text_offset": [0, 3, 6, 12],
    }
    assert _scored(told, "The river!", 3) == Scored(nats=-6.0, tokens=2, greedy=False)
    assert _scored(told, "The river!", 5) == Scored(nats=-6.0, tokens=2, greedy=False)  # a token over the border is the continuation's


Handle = Callable[[http.server.BaseHTTPRequestHandler, int], tuple[int, dict[str, str], bytes]]


@contextmanager
def endpoint(handle: Handle) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A server that answers as it is told; its address and the headers that came."""
    came: list[dict[str, str]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            came.append({name.lower(): value for name, value in self.headers.items()})
            status, headers, content = handle(self, len(came))
            self.send_response(status)
            for name, value in (headers | {"content-length": str(len(content))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST

        def log_message(self, *_: Any) -> None:
            return None

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"api:http://127.0.0.1:{server.server_address[1]}#any", came
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def said(text: str) -> bytes:
    return json.dumps({"choices": [{"index": 0, "text": text}]}).encode()


def test_a_busy_endpoint_is_asked_again_when_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANLU_API_KEY", "secret")
    busy: list[tuple[int, dict[str, str], bytes]] = [
        (503, {"retry-after": "0"}, b"{}"),
        (429, {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, b"busy"),
    ]
    with endpoint(lambda _, turn: busy[turn - 1] if turn <= 2 else (200, {}, said("yes"))) as (address, came):
        assert RemoteModel(address).generate(["x"], 3, ("\n",)) == [Said("yes")]
    assert len(came) == 3 and {headers["authorization"] for headers in came} == {"Bearer secret"}


def test_an_endpoint_that_fails_is_told_in_one_line_without_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DANLU_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    cases: list[tuple[int, dict[str, str], bytes, str]] = [
        (401, {}, b'{"error": {"message": "no\\nsuch key"}}', "answered 401: no such key; put a key into DANLU_API_KEY"),
        (500, {}, b"", "answered 500"),
        (307, {"location": "http://127.0.0.1:9/elsewhere"}, b"", "answered 307"),
        (200, {}, b"<html>", "something else than JSON"),
        (200, {}, b'{"choices": []}', "something else than the OpenAI API"),
    ]
    for status, headers, content, expected in cases:
        with endpoint(lambda *_, reply=(status, headers, content): reply) as (address, _):  # type: ignore[misc]
            with pytest.raises(RequestError, match=expected) as error:
                RemoteModel(address).generate(["x"], 1, ())
            assert "\n" not in str(error.value) and "secret" not in str(error.value)
    with endpoint(lambda *_: (200, {}, said("x"))) as (address, _), pytest.raises(RequestError, match="likelihoods cannot be had there"):
        RemoteModel(address).score([("x", [" y"])])
    with pytest.raises(RequestError, match="cannot be reached"):
        RemoteModel("api:http://127.0.0.1:9/v1#any").generate(["x"], 1, ())
