from __future__ import annotations

import random

import pytest

from danlu.inference.pages import Pages, beginning, following
from danlu.kernels.steps import PAGE


def text(length: int, seed: int = 0) -> list[int]:
    dice = random.Random(seed)
    return [dice.randrange(2**20) for _ in range(length)]


def learn(pages: Pages, owner: str, ids: list[int]) -> list[int]:
    """What a sequence does that reads a text: pages of its own, known where they are full."""
    key, taken = beginning(owner), []
    for start in range(0, len(ids), PAGE):
        taken.append(pages.take())
        if start + PAGE <= len(ids):
            key = following(key, ids[start : start + PAGE])
            pages.know(key, taken[-1])
    return taken


def test_pages_are_taken_and_given_back() -> None:
    pages = Pages(3, 1)
    taken = [pages.take() for _ in range(3)]
    assert sorted(taken) == [0, 1, 2] and pages.used == 3
    with pytest.raises(IndexError, match="all pages"):
        pages.take()
    pages.give(taken[1])
    assert pages.used == 2 and pages.take() == taken[1]


def test_a_shared_page_stays_until_its_last_user_leaves() -> None:
    pages = Pages(2, 0)
    page = pages.take()
    assert pages.share(page) == page
    other = pages.take()
    pages.give(page)
    with pytest.raises(IndexError):
        pages.take()
    pages.give(page)
    assert pages.used == 1 and pages.take() == page != other


def test_a_text_that_begins_alike_finds_the_pages() -> None:
    pages, ids = Pages(20, 20), text(70)
    taken = learn(pages, "me", ids)
    assert pages.find("me", ids) == taken[:4]
    assert pages.find("me", ids[:40] + text(30, seed=1)) == taken[:2]
    assert pages.find("me", [*ids[:20], ids[20] + 1, *ids[21:]]) == taken[:1]
    assert pages.find("me", text(70, seed=1)) == []
    assert [pages.users[page] for page in taken] == [4, 3, 2, 2, 1]


@pytest.mark.parametrize("length", [1, 15, 16, 17, 31, 32, 33, 48, 64, 65])
def test_one_token_at_least_is_left_to_read(length: int) -> None:
    pages, ids = Pages(20, 20), text(64)
    taken = learn(pages, "", ids)
    longer = ids + text(1, seed=2)
    assert pages.find("", longer[:length]) == taken[: (length - 1) // PAGE]


def test_what_is_behind_a_gap_is_not_found() -> None:
    """A page is known by all that stands before it."""
    pages, ids = Pages(20, 20), text(64)
    taken = learn(pages, "", ids)
    assert pages.find("", [*ids[16:], 1]) == []
    pages.forget(taken[1])
    assert pages.find("", [*ids, 1]) == taken[:1]


@pytest.mark.parametrize(("mine", "yours"), [("me", "you"), ("", "me"), ("a", "b"), ("me", "me ")])
def test_owners_share_nothing(mine: str, yours: str) -> None:
    pages, ids = Pages(20, 20), text(64)
    taken = learn(pages, mine, ids)
    assert pages.find(yours, ids) == []
    others = learn(pages, yours, ids)
    assert not set(taken) & set(others)
    assert pages.find(yours, ids) == others[:3] and pages.find(mine, ids) == taken[:3]


def test_pages_left_are_kept_until_their_room_is_needed() -> None:
    pages, ids = Pages(6, 6), text(64)
    for page in learn(pages, "", ids):
        pages.give(page)
    assert pages.used == 0
    found = pages.find("", [*ids, 1])
    assert len(found) == 4 and pages.used == 4
    for page in found:
        pages.give(page)
    others = [pages.take() for _ in range(6)]
    assert sorted(others) == list(range(6)) and pages.find("", [*ids, 1]) == []


def test_free_pages_are_taken_before_those_that_are_kept_and_the_oldest_of_these_first() -> None:
    pages = Pages(6, 6)
    first, second = learn(pages, "", text(16, seed=1)), learn(pages, "", text(16, seed=2))
    for page in (*first, *second):
        pages.give(page)
    assert not set(first + second) & {pages.take() for _ in range(4)}
    pages.take()
    assert pages.find("", [*text(16, seed=1), 1]) == [] and pages.find("", [*text(16, seed=2), 1]) == second


def test_a_page_used_again_is_young_again() -> None:
    pages = Pages(4, 2)
    texts = [text(16, seed) for seed in range(3)]
    for ids in texts[:2]:
        pages.give(*learn(pages, "", ids))
    pages.give(*pages.find("", [*texts[0], 1]))
    pages.give(*learn(pages, "", texts[2]))
    assert [len(pages.find("", [*ids, 1])) for ids in texts] == [1, 0, 1]


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_no_more_than_some_idle_pages_are_kept(kept: int) -> None:
    pages = Pages(10, kept)
    texts = [text(16, seed) for seed in range(8)]
    for taken in [learn(pages, "", ids) for ids in texts]:
        pages.give(*taken)
        assert len(pages.idle) <= kept
    assert [len(pages.find("", [*ids, 1])) for ids in texts] == [0] * (8 - kept) + [1] * kept
    assert pages.used == kept


def test_two_who_read_the_same_at_once_keep_one_of_both() -> None:
    pages, ids = Pages(10, 10), text(32)
    first, second = learn(pages, "", ids), learn(pages, "", ids)
    assert pages.find("", [*ids, 1]) == first
    for page in second:
        pages.give(page)
    assert pages.used == 2 and not set(second) & set(pages.idle)


def test_what_is_forgotten_is_not_found_and_is_free_when_its_users_leave() -> None:
    pages, ids = Pages(3, 3), text(16)
    (page,) = learn(pages, "", ids)
    pages.share(page)
    pages.forget(page)
    pages.forget(page)
    assert pages.find("", [*ids, 1]) == []
    pages.give(page)
    pages.give(page)
    assert pages.used == 0 and not pages.idle and sorted(pages.take() for _ in range(3)) == [0, 1, 2]


def test_any_order_of_events_keeps_the_books() -> None:
    dice, pages = random.Random(0), Pages(12, 4)
    texts = [text(80, seed) for seed in range(3)]
    running: list[list[int]] = []
    for _ in range(3000):
        if running and (dice.random() < 0.5 or pages.used > 6):
            for page in running.pop(dice.randrange(len(running))):
                pages.give(page)
        else:
            ids = dice.choice(texts)[: dice.randrange(1, 80)]
            found = pages.find("", ids)
            key = beginning("")
            for start in range(0, len(found) * PAGE, PAGE):
                key = following(key, ids[start : start + PAGE])
            while len(found) * PAGE < len(ids) and pages.used < 12:
                found.append(pages.take())
                part = ids[(len(found) - 1) * PAGE : len(found) * PAGE]
                key = following(key, part)
                if len(part) == PAGE:
                    pages.know(key, found[-1])
            running.append(found)
        users = [sum(taken.count(page) for taken in running) for page in range(12)]
        assert users == list(pages.users)
        assert pages.used == sum(count > 0 for count in users)
        assert sorted([*pages.free, *pages.idle, *(page for page in range(12) if users[page])]) == list(range(12))
        assert len(pages.idle) <= 4 and {key: page for page, key in pages.key_of.items()} == pages.page_of
        assert set(pages.idle) <= set(pages.key_of) and not set(pages.free) & set(pages.key_of)
