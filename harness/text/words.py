"""Words of a text in any script.

White space separates words in most scripts.  Chinese, Japanese, Thai, Lao, Khmer, Burmese and some others write none:
there every character counts as a word, as in the usual character-level ROUGE.  A character is a grapheme cluster
(Unicode UAX #29), so a letter is never parted from its vowel signs or accents.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from regex import Pattern

UNIT = "words, or characters in scripts without spaces"
"""What is counted, for descriptions in reports."""

# LB=SA are the scripts of South East Asia that need a dictionary to find words (UAX #14); the two last are the signs of
# a long vowel, which belong to two scripts.
_UNSPACED = r"[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{LB=SA}\u30fc\uff70]"
_LETTERS = r"[\p{L}\p{M}\p{N}]"


@cache
def _pattern(which: str) -> Pattern[str]:
    import regex  # here: a plugin's import should not load it

    patterns = {
        "unspaced": _UNSPACED,
        # a character of a script without spaces, or what stands between two of them
        "parts": rf"(?={_UNSPACED})\X|(?:(?!{_UNSPACED})\X)+",
        # as "parts" but of letters, marks and digits alone, and each symbol beyond ASCII (emoji, signs of money)
        "content": rf"(?={_UNSPACED})\X|(?:(?!{_UNSPACED}){_LETTERS})+|(?=[\p{{S}}--\p{{ASCII}}])\X",
        "latin": r"\p{Script=Latin}",
        "letter": r"\p{L}",
    }
    return regex.compile(patterns[which], regex.VERSION1)


def normal(text: str) -> str:
    """The text with one spelling for each character (Unicode form NFC): an accent may be written in two ways."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def cut_unspaced(word: str) -> list[str]:
    """The word in parts: every character of a script without spaces, and the runs between them, as they stand.

    The parts joined are the word; a word of other scripts is one part.
    """
    if word.isascii() or not _pattern("unspaced").search(word):
        return [word]
    return list(_pattern("parts").findall(word))


def spaced_words(text: str) -> list[str]:
    """The words of a text, separated by white space; punctuation stays at its word."""
    return [part for word in normal(text).split() for part in cut_unspaced(word)]


def content_words(text: str) -> list[str]:
    """Runs of letters, marks and digits, characters of scripts without spaces, and symbols beyond ASCII."""
    return list(_pattern("content").findall(normal(text)))


def mostly_latin(text: str) -> bool:
    """Whether at least half of a text's letters are Latin; True for a text without letters."""
    if text.isascii():
        return True
    letters = len(_pattern("letter").findall(text))
    return 2 * len(_pattern("latin").findall(text)) >= letters
