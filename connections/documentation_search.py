"""Search in the documentation: over the sections of all pages, which each process keeps in memory.

A section matches if it contains every word of the query, in its text, its heading or the title of its page.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from markdown_it.token import Token

from connections import documentation

MOST_RESULTS = 20
MOST_WORDS = 8
LONGEST_QUERY = 100  # characters
_AROUND = 90  # characters before and after the first match in an excerpt


@dataclass(frozen=True, slots=True)
class Section:
    page: str  # the path
    title: str  # of the page
    anchor: str  # the heading's id; empty before the first heading
    heading: str
    text: str


@dataclass(frozen=True, slots=True)
class Match:
    section: Section
    excerpt: list[tuple[str, bool]]  # pieces of text, and whether each is a word of the query


@dataclass(frozen=True, slots=True)
class Results:
    matches: list[Match]  # the best ones, best first
    has_more: bool


def search(query: str) -> Results:
    """Return the sections that contain all words of the query; none for an empty one."""
    words = list(dict.fromkeys(query[:LONGEST_QUERY].lower().split()))[:MOST_WORDS]
    ranked = [(rank, number) for number, section in enumerate(_sections()) if (rank := _rank(section, words))]
    ranked.sort(key=lambda item: (-item[0], item[1]))
    best = [_sections()[number] for _, number in ranked[:MOST_RESULTS]]
    return Results([Match(section, _excerpt(section.text, words)) for section in best], len(ranked) > MOST_RESULTS)


@cache
def _sections() -> Sequence[Section]:
    paths = [path for paths in documentation.CONTENTS.values() for path in paths]
    return [section for path in paths for section in _sections_of(path)]


def _sections_of(path: str) -> Iterator[Section]:
    tokens = documentation.tokens_of(path)
    anchors = {id(token): (anchor, text) for token, anchor, text in documentation.find_headings(tokens)}
    title = anchor = heading = ""
    texts: list[str] = []
    for number, token in enumerate(tokens):
        if id(token) in anchors:
            if texts:
                yield Section(path, title, anchor, heading, " ".join(texts))
            anchor, heading = anchors[id(token)]
            if token.tag == "h1":
                title, anchor = heading, ""
            texts = []
        elif not (number and tokens[number - 1].type == "heading_open"):
            texts += [text] if (text := _text(token)) else []
    if texts:
        yield Section(path, title, anchor, heading, " ".join(texts))


def _text(token: Token) -> str:
    if token.type in ("fence", "code_block"):
        return " ".join(token.content.split())
    return "".join(child.content or " " * (child.type == "softbreak") for child in token.children or ())


def _rank(section: Section, words: list[str]) -> int:
    """Return how well the section fits; 0 if a word is missing. Words in headings count more than in texts."""
    title, heading, text = section.title.lower(), section.heading.lower(), section.text.lower()
    rank = 0
    for word in words:
        points = 30 * (word in heading) + 10 * (word in title) + min(text.count(word), 9)
        if not points:
            return 0
        rank += points
    return rank


def _excerpt(text: str, words: list[str]) -> list[tuple[str, bool]]:
    pattern = re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))), re.IGNORECASE)
    first = pattern.search(text)
    at = first.start() if first else 0
    start = text.rfind(" ", 0, max(0, at - _AROUND)) + 1
    end = text.find(" ", at + _AROUND)
    excerpt = ("…" if start else "") + text[start : end if end >= 0 else None] + ("…" if end >= 0 else "")
    pieces, last = [], 0
    for match in pattern.finditer(excerpt):
        pieces += [(excerpt[last : match.start()], False), (match.group(), True)]
        last = match.end()
    return [piece for piece in [*pieces, (excerpt[last:], False)] if piece[0]]
