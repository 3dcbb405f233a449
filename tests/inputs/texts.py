"""Texts to learn from and texts to trip over."""

from __future__ import annotations

import random

WORDS = "the furnace of iron is hot and bright; a bridge over silver rivers, isn't it? We'll see 1234 letters (x = y[2]) by morning"
CHARACTERS = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳云腾致雨露结为霜丹炉里炼出来的大模型"


def some_texts(count: int = 200) -> list[str]:
    """English, Chinese and code of varied words, always the same."""
    dice = random.Random(0)
    words = WORDS.split()
    texts = []
    for number in range(count):
        english = " ".join(dice.choice(words) + dice.choice(["", "s", "ing", "ed", "."]) for _ in range(30))
        chinese = "".join(dice.choice(CHARACTERS) for _ in range(30)) + "。"
        code = f"def f{number}(x):\n\treturn x[{number}] + {english[:20]!r}\r\n"
        texts.append((english, chinese, code, f"{chinese[:9]} {english[:40]}")[number % 4])
    return texts


ODD = [
    "",
    " ",
    "   ",
    "a",
    " a",
    "a ",
    "  two  spaces\t\ttabs\n\n\nlines \r\n ",
    "丹炉，测试。ＡＢＣ１２３\u3000全角",
    "😀👩\u200d💻 e\u0301 n\u0303a\u0308 \u200d ﬁ Å 한국어 각 ह\u093f न्दी",
    "\x01\x1f\x7f\x85\ufeff\u2028",
    "ÀÉ naïve ﷺ ①½ ㌀ ſ İ ẞ",
    "isn't IT'S we'LL 'sx  'd12,345.678e-9 $100 ^~|`code`",
    "<0x0A><0xE4> [##x] ##x ## @@ Ġ Ċ",
    "".join(random.Random(1).choices("ab cde the中文字。 \n\t😀éz", k=20_000)),
    "a" * 100_000,
]
