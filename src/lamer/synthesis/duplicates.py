"""Near-duplicates among the questions of a run (pure).

Two questions are near-duplicates when the Jaccard similarity of their content words is at least a threshold,
unless they differ in what they are about: each has a word that only its own fact names. The scene "a rod of X lay
on the fire" is as good for the fact on X as for the fact on Y; written twice for the same fact it is a duplicate.

Finding them exactly and fast: sets with similarity >= t share a word among the first n - ceil(t n) + 1 words of
either, whatever the common order of the words (prefix filter; Bayardo, Ma and Srikant, WWW 2007). With rare words
first these prefixes lead to few candidates. MinHash with LSH (datasketch) is slower up to some 500,000 questions,
misses a few in a hundred and takes several times the memory (benchmarks/duplicates.py).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from math import ceil

from lamer.synthesis.words import content_words, jaccard

MIN_QUESTION_WORDS = 4
"""A question with fewer content words ("Which of these is true?") is compared together with its options."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is compared of one question."""

    words: frozenset[str]
    fact_words: frozenset[str]
    text: str = field(default="", compare=False)
    """What the words are from, for comparing meanings."""


def subject_of(question: str, options: tuple[str, ...], fact: str) -> Subject:
    """The content words of a question (with its options where it has few) and of its fact."""
    text = question
    found = content_words(text)
    if len(found) < MIN_QUESTION_WORDS:
        text = " ".join((question, *options))
        found = content_words(text)
    return Subject(found, content_words(fact), text)


def are_near(first: Subject, second: Subject, similarity: float) -> bool:
    """Whether two questions are near-duplicates; see the top of this module."""
    return jaccard(first.words, second.words) >= similarity and not are_about_different_things(first, second)


def are_about_different_things(first: Subject, second: Subject) -> bool:
    """Whether each has a word that only its own fact names."""
    own_first = (first.words - second.words) & (first.fact_words - second.fact_words)
    own_second = (second.words - first.words) & (second.fact_words - first.fact_words)
    return bool(own_first and own_second)


class Index:
    """Questions kept so far; finds a near-duplicate of a new one without comparing it to all.

    Args:
        similarity: Jaccard similarity in (0, 1] from which on two questions are near-duplicates.
    """

    def __init__(self, similarity: float) -> None:
        self.similarity = similarity
        self._subjects: list[Subject | None] = []
        """None where a question was taken out again."""
        self._frequency: Counter[str] = Counter()
        self._rank: dict[str, int] = {}
        self._postings: defaultdict[str, list[int]] = defaultdict(list)
        self._rebuild_at = 64

    def __len__(self) -> int:
        return sum(subject is not None for subject in self._subjects)

    def remove(self, subject: Subject) -> None:
        """Take a question out again, the one added last where it was added more than once.

        Raises:
            ValueError: If it is not there.
        """
        for number in reversed(range(len(self._subjects))):
            if self._subjects[number] == subject:
                self._subjects[number] = None
                self._frequency.subtract(subject.words)
                return
        raise ValueError("the question is not among those kept")

    def add(self, subject: Subject) -> None:
        """Keep a question."""
        self._frequency.update(subject.words)
        self._subjects.append(subject)
        if len(self._subjects) >= self._rebuild_at:
            self._rebuild()
        else:
            self._post(len(self._subjects) - 1)

    def find(self, subject: Subject) -> bool:
        """Whether a near-duplicate is kept."""
        seen: set[int] = set()
        size = len(subject.words)
        for word in self._prefix(subject.words):
            for number in self._postings.get(word, ()):
                if number in seen:
                    continue
                seen.add(number)
                other = self._subjects[number]
                if other is None or min(size, len(other.words)) < self.similarity * max(size, len(other.words)):
                    continue
                if are_near(subject, other, self.similarity):
                    return True
        return not subject.words and any(other is not None and not other.words for other in self._subjects)

    def _prefix(self, words: frozenset[str]) -> list[str]:
        """The rarest words, so many that near-duplicates share one of them."""
        ordered = sorted(words, key=lambda word: (self._rank.get(word, -1), word))
        return ordered[: len(words) - ceil(self.similarity * len(words) - 1e-9) + 1]

    def _post(self, number: int) -> None:
        subject = self._subjects[number]
        for word in self._prefix(subject.words) if subject is not None else ():
            self._postings[word].append(number)

    def _rebuild(self) -> None:
        """Order the words by their present frequency; at 64, 128, 256, ... questions, so that it costs little."""
        self._rebuild_at *= 2
        ordered = sorted(self._frequency, key=lambda word: (self._frequency[word], word))
        self._rank = {word: rank for rank, word in enumerate(ordered)}
        self._postings.clear()
        for number in range(len(self._subjects)):
            self._post(number)
