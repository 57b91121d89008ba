"""METEOR's alignment of a hypothesis with a reference: which words match which, in how many chunks.

Held to the jar (version 1.5) in every tie and quirk, since they change scores: see `_search`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pixelllm_hf.evaluation.meteor_words import Phrase, Synonyms
from pixelllm_hf.evaluation.snowball_english import stem

EXACT, STEM, SYNONYM, PARAPHRASE = range(4)
MODULE_WEIGHTS = (1.0, 0.6, 0.8, 0.6)
BEAM = 40
LONGEST_PHRASE = 7  # words of a phrase in the paraphrase table


class Match(NamedTuple):
    """Words `start`.. of the reference stand for words `other_start`.. of the hypothesis."""

    module: int
    start: int
    length: int
    other_start: int
    other_length: int


class _Path(NamedTuple):
    """A partial alignment. The first three decide its rank: less is better."""

    coverage: int  # negative, truncated to whole numbers after every match
    chunks: int
    distance: int
    hypothesis_coverage: int
    reference_coverage: int
    next_word: int  # of the reference
    last_end: int  # where the chunk at hand ends in the hypothesis; -1: no chunk is open
    used: int  # bits: words of the hypothesis
    matches: tuple[Match, ...]


@dataclass(frozen=True)
class Alignment:
    """The matches in the order of the reference, and their number of chunks."""

    matches: tuple[Match, ...]
    chunks: int


def align(
    hypothesis: Sequence[str],
    reference: Sequence[str],
    *,
    synonyms: Synonyms | None = None,
    paraphrases: Mapping[Phrase, Sequence[Phrase]] | None = None,
) -> Alignment:
    """The best alignment of two lists of tokens.

    >>> [m.module for m in align("a cat sits there".split(), "a cat sat".split()).matches]
    [0, 0]
    """
    matches = list(_exact_and_stem_matches(hypothesis, reference))
    if list(hypothesis) == list(reference):
        matches = [match for match in matches if match.module == EXACT]
    else:
        matches += _synonym_matches(hypothesis, reference, synonyms) if synonyms else ()
        matches += _paraphrase_matches(hypothesis, reference, paraphrases) if paraphrases else ()
    by_start: list[list[Match]] = [[] for _ in reference]
    for module in range(4):  # the order of equals in the beam
        for match in matches:
            if match.module == module:
                by_start[match.start].append(match)
    best = _search(by_start, _fixed_matches(by_start, len(hypothesis)))
    return Alignment(best, _number_of_chunks(best))


def _exact_and_stem_matches(hypothesis: Sequence[str], reference: Sequence[str]) -> Iterable[Match]:
    stems = [stem(word) for word in hypothesis]
    for i, word in enumerate(reference):
        word_stem = stem(word)
        for j, other in enumerate(hypothesis):
            if word == other:
                yield Match(EXACT, i, 1, j, 1)
            elif word_stem == stems[j]:
                yield Match(STEM, i, 1, j, 1)


def _synonym_matches(hypothesis: Sequence[str], reference: Sequence[str], synonyms: Synonyms) -> Iterable[Match]:
    sets = [synonyms.of(word) for word in hypothesis]
    for i, word in enumerate(reference):
        own = synonyms.of(word)
        for j, other in enumerate(hypothesis):
            if word != other and not own.isdisjoint(sets[j]):
                yield Match(SYNONYM, i, 1, j, 1)


def _paraphrase_matches(
    hypothesis: Sequence[str], reference: Sequence[str], paraphrases: Mapping[Phrase, Sequence[Phrase]]
) -> Iterable[Match]:
    """The table is looked up for phrases of either side; a pair listed both ways gives two matches."""
    for i, length, phrase in _phrases(reference):
        for paraphrase in paraphrases.get(phrase, ()):
            for j in _places(paraphrase, hypothesis):
                yield Match(PARAPHRASE, i, length, j, len(paraphrase))
    for j, length, phrase in _phrases(hypothesis):
        for paraphrase in paraphrases.get(phrase, ()):
            for i in _places(paraphrase, reference):
                yield Match(PARAPHRASE, i, len(paraphrase), j, length)


def _phrases(words: Sequence[str]) -> Iterable[tuple[int, int, Phrase]]:
    for start in range(len(words)):
        for end in range(start + 1, min(start + LONGEST_PHRASE, len(words)) + 1):
            yield start, end - start, tuple(words[start:end])


def _places(phrase: Phrase, words: Sequence[str]) -> Iterable[int]:
    for start in range(len(words) - len(phrase) + 1):
        if tuple(words[start : start + len(phrase)]) == phrase:
            yield start


def _fixed_matches(by_start: Sequence[Sequence[Match]], hypothesis_length: int) -> dict[int, Match]:
    """start -> match, where it is the only one that covers any of its words, on both sides."""
    covered, other_covered = [0] * len(by_start), [0] * hypothesis_length
    for matches in by_start:
        for match in matches:
            for i in range(match.start, match.start + match.length):
                covered[i] += 1
            for j in range(match.other_start, match.other_start + match.other_length):
                other_covered[j] += 1
    fixed = {}
    for matches in by_start:
        if len(matches) == 1:
            (match,) = matches
            own = covered[match.start : match.start + match.length]
            other = other_covered[match.other_start : match.other_start + match.other_length]
            if set(own) == set(other) == {1}:
                fixed[match.start] = match
    return fixed


def _search(by_start: Sequence[Sequence[Match]], fixed: Mapping[int, Match]) -> tuple[Match, ...]:
    """Beam search from the reference's first word to its last.

    Best is the larger weighted coverage of both sides, then fewer chunks, then the smaller sum of shifts. Quirks of
    the jar, kept: coverage is cut to a whole number after every match, so a lone stem match adds nothing and is only
    taken where it does not open a chunk; and the shift of a match is charged to the path that it leaves, that is to
    skipping the word and to the alternatives tried after it, not to the match itself.
    """
    taken = 0
    for match in fixed.values():
        taken |= _bits(match)
    inside_fixed = {i for match in fixed.values() for i in range(match.start, match.start + match.length)}
    paths = [_Path(0, 0, 0, 0, 0, 0, -1, taken, ())]
    for current, matches in enumerate(by_start):
        paths.sort(key=_rank)
        following: list[_Path] = []
        for path in paths[:BEAM]:
            if current < path.next_word:  # within a match that began before
                following.append(path)
                continue
            if current in fixed:
                following.append(_extended(path, fixed[current], charged=True))
                continue
            for match in matches:
                if path.used & _bits(match) or any(
                    i in inside_fixed for i in range(match.start, match.start + match.length)
                ):
                    continue
                following.append(_extended(path, match, charged=False))
                path = path._replace(distance=path.distance + abs(match.start - match.other_start))
            closed = path.last_end != -1
            following.append(path._replace(chunks=path.chunks + closed, last_end=-1, next_word=path.next_word + 1))
        paths = following
    paths.sort(key=_rank)
    closed_paths = [path._replace(chunks=path.chunks + (path.last_end != -1)) for path in paths[:BEAM]]
    return min(closed_paths, key=_rank).matches


def _rank(path: _Path) -> tuple[int, int, int]:
    return path[:3]


def _extended(path: _Path, match: Match, *, charged: bool) -> _Path:
    weight = MODULE_WEIGHTS[match.module]
    hypothesis_coverage = int(path.hypothesis_coverage + match.other_length * weight)
    reference_coverage = int(path.reference_coverage + match.length * weight)
    return _Path(
        coverage=-(hypothesis_coverage + reference_coverage),
        chunks=path.chunks + (path.last_end not in (-1, match.other_start)),
        distance=path.distance + (abs(match.start - match.other_start) if charged else 0),
        hypothesis_coverage=hypothesis_coverage,
        reference_coverage=reference_coverage,
        next_word=match.start + match.length,
        last_end=match.other_start + match.other_length,
        used=path.used | _bits(match),
        matches=(*path.matches, match),
    )


def _bits(match: Match) -> int:
    return ((1 << match.other_length) - 1) << match.other_start


def _number_of_chunks(matches: Sequence[Match]) -> int:
    """Runs of matches that follow each other directly on both sides."""
    chunks, end, other_end = 0, None, None
    for match in matches:
        chunks += (match.start, match.other_start) != (end, other_end)
        end, other_end = match.start + match.length, match.other_start + match.other_length
    return chunks
