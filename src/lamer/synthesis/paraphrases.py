"""Near-duplicates by meaning: questions whose embeddings have a cosine similarity of at least a threshold.

Beside the comparison of words, where `synthesize.encoder` names a sentence encoder. Vectors are unit, so the inner
product is the cosine; the search is exact (FAISS, flat), and questions are compared in the order of the run. As
there, two scenes that each name what only their own fact names are none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lamer.config import RetrieveSettings, SynthesizeSettings
from lamer.errors import ModelError
from lamer.synthesis.duplicates import Subject, are_about_different_things

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Encode = Callable[[Sequence[str]], "NDArray[np.float32]"]
"""Texts to unit vectors, shape [num_texts, dimension]."""


class Paraphrases:
    """The kept questions of a run as vectors.

    Args:
        encode: Texts to unit vectors.
        similarity: Cosine from which on two questions are near-duplicates.
    """

    def __init__(self, encode: Encode, similarity: float) -> None:
        self.similarity = similarity
        self._encode = encode
        self._vectors: dict[str, NDArray[np.float32]] = {}
        self._subjects: list[Subject | None] = []
        """None where a question was taken out again."""
        self._index: Any = None

    @classmethod
    def load(cls, settings: SynthesizeSettings, retrieve: RetrieveSettings) -> Paraphrases | None:
        """With the encoder that the settings name, on the first device of retrieval; None when they name none.

        Raises:
            UsageError: If the extra `dense` is not installed.
            ModelError: If the encoder cannot be loaded.
        """
        if settings.encoder is None:
            return None
        from lamer.knowledge.encoders import Encoder

        one_device = {"devices": retrieve.devices[:1]}
        chosen = retrieve.model_copy(update={"encoder": settings.encoder, "query_instruction": "", **one_device})
        try:
            encoder = Encoder.load(chosen)
        except ModelError as error:
            raise ModelError(str(error).replace("retrieve.encoder", "synthesize.encoder")) from error
        return cls(encoder.encode_facts, settings.encoder_similarity)

    def prepare(self, subjects: Sequence[Subject]) -> None:
        """Encode what will be asked about, all at once."""
        texts = [text for text in dict.fromkeys(s.text for s in subjects) if text not in self._vectors]
        if texts:
            self._vectors.update(zip(texts, self._encode(texts)))

    def is_near(self, subject: Subject, other: Subject) -> bool:
        """Whether two questions mean the same."""
        if are_about_different_things(subject, other):
            return False
        return float(self._vector(subject) @ self._vector(other)) >= self.similarity

    def find(self, subject: Subject) -> Subject | None:
        """The first kept question that means the same, or None."""
        if self._index is None:
            return None
        _, _, found = self._index.range_search(self._vector(subject)[None], self.similarity)
        near = (other for number in sorted(found.tolist()) if (other := self._subjects[number]) is not None)
        return next((other for other in near if not are_about_different_things(subject, other)), None)

    def add(self, subject: Subject) -> None:
        """Keep a question."""
        import faiss

        vector = self._vector(subject)
        if self._index is None:
            self._index = faiss.IndexFlatIP(len(vector))
        self._index.add(vector[None])
        self._subjects.append(subject)

    def remove(self, subject: Subject) -> None:
        """Take a question out again, the one added last where it was added more than once.

        Raises:
            ValueError: If it is not there.
        """
        for number in reversed(range(len(self._subjects))):
            if self._subjects[number] == subject:
                self._subjects[number] = None
                return
        raise ValueError("the question is not among those kept")

    def _vector(self, subject: Subject) -> NDArray[np.float32]:
        self.prepare([subject])
        return self._vectors[subject.text]
