"""Tasks put as a user would put them, for models that are to follow instructions."""

from __future__ import annotations

from danlu.data.examples import ClassifyExample, Example, input_key
from danlu.data.fields import Row
from danlu.tasks.base import Task
from danlu.tasks.sentiment import TASKS as SENTIMENT
from danlu.tasks.spam import TASKS as SPAM
from danlu.tasks.topics import TASKS as TOPICS
from danlu.tasks.topics import WORDS as TOPIC_WORDS

MOST_CHARACTERS = 1200  # of a text; the beginning of a long e-mail says enough, and small models read 512 tokens or so
LONGEST_WORD = 40
TOPIC_NAMES = ", ".join(TOPIC_WORDS.values())
WORDINGS: dict[str, tuple[str, ...]] = {
    "sentiment-en": (
        "Is this movie review positive or negative?\n\n{text}",
        "{text}\n\nDoes the writer like the film? Answer positive or negative.",
        "Classify the sentiment of the review below as positive or negative.\n\nReview: {text}",
        "Here is what somebody wrote about a film: {text}\n\nIs it positive or negative? One word, please.",
    ),
    "topics-en": (
        "What is this text about? Choose one of: " + TOPIC_NAMES + ".\n\n{text}",
        "{text}\n\nTo which of these topics does the article belong: " + TOPIC_NAMES + "?",
        "Sort the article below into one of these shelves and name only the shelf: " + TOPIC_NAMES + ".\n\nArticle: {text}",
        "Topics: " + TOPIC_NAMES + ".\n\nText: {text}\n\nWhich topic fits best?",
    ),
    "spam-en": (
        "Is this e-mail spam? Answer yes or no.\n\n{text}",
        "I got this message: {text}\n\nIs it spam, yes or no?",
        "Decide whether the e-mail below is spam. Reply with yes or no only.\n\nE-mail: {text}",
        "{text}\n\nIs the e-mail above spam (yes or no)?",
    ),
}


def conversation(task: Task, example: Example) -> Row:
    """A user asks for an example's class in one of several wordings, chosen by the text, and the assistant names it."""
    assert isinstance(example, ClassifyExample)
    wordings = WORDINGS[task.name]
    asked = wordings[input_key(example) % len(wordings)].replace("{text}", _beginning(example.text))
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": task.answer(example)}]}


def _beginning(text: str) -> str:
    """What is shown of a text, cut between two words where one is near."""
    if len(text) <= MOST_CHARACTERS:
        return text
    space = text.rfind(" ", MOST_CHARACTERS - LONGEST_WORD, MOST_CHARACTERS)
    return text[: MOST_CHARACTERS if space < 0 else space]


TASKS = (
    Task(
        name="instructions-en",
        kind="chat",
        what="sentiment, topics and spam asked for in a conversation, each in four wordings; the parts are those of the three tasks",
        made_of=tuple(task for task in (*SENTIMENT, *TOPICS, *SPAM) if task.name in WORDINGS),
        remake=conversation,
        language="en",
        citation="sentiment-en, topics-en and spam-en",
    ),
)
