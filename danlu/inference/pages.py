"""Which pages of a cache are whose: pages with the same beginning are shared, and kept for a while after their last user has left."""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence

from danlu.kernels.steps import PAGE


def beginning(owner: str) -> bytes:
    """The key of an empty text: texts of different owners have nothing in common."""
    return hashlib.blake2b(owner.encode(), digest_size=16).digest()


def following(key: bytes, tokens: Sequence[int]) -> bytes:
    """The key of a text that goes on by one page of tokens."""
    return hashlib.blake2b(key + array("i", tokens).tobytes(), digest_size=16).digest()


class Pages:
    """Numbers of pages, each with how many use it; at most `kept` of those that nobody uses remember what they hold."""

    def __init__(self, count: int, kept: int) -> None:
        self.count, self.kept = count, kept
        self.free = array("i", range(count - 1, -1, -1))
        self.users = array("i", bytes(4 * count))
        self.page_of: dict[bytes, int] = {}
        self.key_of: dict[int, bytes] = {}
        self.idle: OrderedDict[int, None] = OrderedDict()  # known and unused, those left longest ago first

    @property
    def used(self) -> int:
        """Pages that somebody uses."""
        return self.count - len(self.free) - len(self.idle)

    def take(self) -> int:
        """A page for one user. Raises: IndexError if all are in use."""
        if not self.free:
            self.free.append(self._evict())
        page = self.free.pop()
        self.users[page] = 1
        return page

    def share(self, page: int) -> int:
        """One more user for a page."""
        self.users[page] += 1
        self.idle.pop(page, None)
        return page

    def give(self, page: int) -> None:
        """One user less; a page whose text is known stays so until its room is needed."""
        self.users[page] -= 1
        if self.users[page]:
            return
        if page not in self.key_of:
            self.free.append(page)
            return
        self.idle[page] = None
        if len(self.idle) > self.kept:
            self.free.append(self._evict())

    def know(self, key: bytes, page: int) -> None:
        """Remember which text ends with this page, unless another page has it already."""
        if key not in self.page_of:
            self.page_of[key], self.key_of[page] = page, key

    def forget(self, page: int) -> None:
        """What the page holds is not to be shared."""
        key = self.key_of.pop(page, None)
        if key is not None:
            del self.page_of[key]

    def find(self, owner: str, ids: Sequence[int]) -> list[int]:
        """The pages that hold the beginning of a text, one token at least left out, with one more user each."""
        found, key = [], beginning(owner)
        for start in range(0, len(ids) - PAGE, PAGE):
            key = following(key, ids[start : start + PAGE])
            if key not in self.page_of:
                break
            found.append(self.share(self.page_of[key]))
        return found

    def _evict(self) -> int:
        if not self.idle:
            raise IndexError("all pages of the cache are in use")
        page, _ = self.idle.popitem(last=False)
        self.forget(page)
        return page
