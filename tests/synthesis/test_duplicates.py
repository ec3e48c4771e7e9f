from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamer.synthesis.duplicates import Index, Subject, are_near, subject_of
from lamer.synthesis.words import content_words, jaccard, words

WORDS = st.frozensets(st.sampled_from([f"w{i}" for i in range(12)]), max_size=10)
SUBJECTS = st.builds(Subject, WORDS, st.frozensets(st.sampled_from([f"w{i}" for i in range(12)]), max_size=3))


@given(st.lists(SUBJECTS, max_size=150), SUBJECTS, st.sampled_from([0.3, 0.5, 0.8, 1.0]))
def test_the_index_finds_what_comparing_with_all_finds(kept, new, similarity):
    index = Index(similarity)
    for subject in kept:
        index.add(subject)
    assert index.find(new) == any(are_near(new, subject, similarity) for subject in kept)


def test_the_index_stays_right_while_it_grows():
    rng = random.Random(0)
    index, kept = Index(0.6), []
    vocabulary = [f"w{i}" for i in range(60)]
    for _ in range(700):
        subject = Subject(frozenset(rng.sample(vocabulary, 8)), frozenset())
        assert index.find(subject) == any(are_near(subject, other, 0.6) for other in kept)
        if rng.random() < 0.9:
            index.add(subject)
            kept.append(subject)
    assert len(index) == len(kept)


@given(WORDS, WORDS)
def test_jaccard_is_symmetric_and_one_only_for_equal_sets(first, second):
    assert jaccard(first, second) == jaccard(second, first)
    assert (jaccard(first, second) == 1.0) == (first == second)


def test_jaccard_by_hand():
    assert jaccard(frozenset("abc"), frozenset("bcd")) == pytest.approx(2 / 4)


def test_words_of_a_question_form_do_not_count():
    assert content_words("What happened to the dogs as a result?") == {"dog"}
    assert content_words("What is it?") == {"what", "is", "it"}
    assert words("The bus's glasses, gas-lit!") == ["bus", "glasse", "gas", "lit"]


def test_a_short_question_is_compared_with_its_options():
    first = subject_of("Which of these is true?", ("Cats purr.", "Dogs fly."), "f")
    second = subject_of("Which of these is true?", ("Ice melts.", "Stones swim."), "f")
    assert not are_near(first, second, 0.8)
