"""Sentence encoders for dense retrieval (sentence-transformers)."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamer.config import RetrieveSettings
from lamer.errors import ModelError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


class Encoder:
    """Texts to unit vectors; pooling is the model's own (BGE: the first token, MiniLM: the mean)."""

    def __init__(self, model: Any, query_instruction: str = "", batch_size: int = 64) -> None:
        """
        Args:
            model: A `SentenceTransformer`.
            query_instruction: Put before queries, never before facts.
            batch_size: Texts encoded at once.
        """
        self._model = model
        self._instruction = query_instruction
        self._batch_size = batch_size

    @classmethod
    def load(cls, settings: RetrieveSettings) -> Encoder:
        """The encoder that the settings name.

        Raises:
            UsageError: If the extra `dense` is not installed.
            ModelError: If the folder is missing or no encoder, or the Hub cannot be reached.
        """
        require_dense()
        return cls(_load_model(settings.encoder), settings.query_instruction, settings.batch_size)

    def encode_facts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors, shape [num_texts, dimension], float32."""
        return self._encode(texts, "")

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors of the instruction followed by each text, shape [num_texts, dimension], float32."""
        return self._encode(texts, self._instruction)

    def _encode(self, texts: Sequence[str], prompt: str) -> NDArray[np.float32]:
        import numpy as np

        vectors = self._model.encode(
            list(texts),
            prompt=prompt,  # an empty one keeps the model's own default prompt off
            batch_size=self._batch_size,
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        found = np.ascontiguousarray(vectors, dtype=np.float32)
        if not np.isfinite(found).all():
            raise ModelError("the encoder gives vectors with NaN or infinity; its weights are damaged or overflow")
        return found


def require_dense() -> None:
    """Check that the extra `dense` is there.

    Raises:
        UsageError: If it is not, with the way to install it.
    """
    try:
        import faiss  # noqa: F401
        import sentence_transformers  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"dense retrieval needs the package {error.name}: pip install 'lamer[dense]', "
            "or set retrieve.method=bm25"
        ) from error


def _load_model(name: str) -> Any:
    from sentence_transformers import SentenceTransformer

    folder = Path(name).expanduser()
    is_folder = folder.is_dir()
    if not is_folder and (folder.exists() or not _HUB_ID.fullmatch(name)):
        raise ModelError(f"retrieve.encoder: {name} is not a folder with an encoder, and not a Hub id either")
    if is_folder and not ((folder / "modules.json").exists() or (folder / "config.json").exists()):
        raise ModelError(f"retrieve.encoder: {name} holds no encoder (modules.json and config.json are missing)")
    if not is_folder and _is_cached(name):
        with contextlib.suppress(Exception):  # a download that was broken off: go on with it below
            return SentenceTransformer(name, local_files_only=True)
    try:
        if not is_folder:
            _ask_hub(name)
        return SentenceTransformer(str(folder) if is_folder else name)
    except Exception as error:  # the libraries raise a different type for each of a dozen causes
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        way_out = "" if is_folder else "; check the name and the network, or give the folder of a copy"
        raise ModelError(f"retrieve.encoder: {name} cannot be loaded ({cause}){way_out}") from error


def _is_cached(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "modules.json"), str)


def _ask_hub(name: str) -> None:
    """Fail at once when the Hub is not there or has no such model; loading would try for a minute."""
    from huggingface_hub import HfApi

    HfApi().model_info(name, timeout=20)
