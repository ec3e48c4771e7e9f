"""How many tokens a text is for a teacher, without asking anyone: nothing is ever downloaded to count.

OpenAI's models are counted by `tiktoken` where it is installed and its encoding file lies in its cache; other
models by their own tokenizer where it is a local folder or in the Hub's cache; else by characters / 4, which is
said wherever the number is shown.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

CHARACTERS_PER_TOKEN = 4
"""Of English text, about; what the approximation divides by."""
MESSAGE_TOKENS = 4
"""Around each message: its role and separators, as OpenAI's chat format has them."""
REPLY_TOKENS = 3
"""That start the reply."""

_ENCODING_URL = "https://openaipublic.blob.core.windows.net/encodings/{name}.tiktoken"


@dataclass(frozen=True, slots=True)
class TokenCounter:
    """Counts the tokens of texts and of chat messages."""

    name: str
    """How it counts, to be shown beside the numbers."""
    is_exact: bool
    """Whether this is the model's own tokenizer."""
    count: Callable[[str], int]
    """Tokens of a text."""
    chat: Callable[[Sequence[Mapping[str, str]]], int] | None = None
    """Tokens of messages in the model's chat template, where it has one."""

    def messages(self, messages: Sequence[Mapping[str, str]]) -> int:
        """Prompt tokens of a request."""
        if self.chat is not None:
            return self.chat(messages)
        texts = sum(self.count(message.get("content", "")) for message in messages)
        return texts + MESSAGE_TOKENS * len(messages) + REPLY_TOKENS


def token_counter(model: str) -> TokenCounter:
    """The best counter there is for a teacher model on this machine."""
    return _by_tiktoken(model) or _by_tokenizer(model) or approximate()


def approximate() -> TokenCounter:
    """Characters / 4, rounded up."""
    name = f"approximation: characters / {CHARACTERS_PER_TOKEN}"
    return TokenCounter(name, False, lambda text: -(-len(text) // CHARACTERS_PER_TOKEN))


def _by_tiktoken(model: str) -> TokenCounter | None:
    if find_spec("tiktoken") is None:
        return None
    import tiktoken

    try:
        name = tiktoken.encoding_name_for_model(model)
    except KeyError:
        return None
    if not encoding_file(name).is_file():
        return None
    encoding = tiktoken.get_encoding(name)
    return TokenCounter(f"tiktoken, {name}", True, lambda text: len(encoding.encode(text, disallowed_special=())))


def encoding_file(name: str) -> Path:
    """Where tiktoken keeps an encoding that it has downloaded: the SHA-1 of its address, in its cache folder."""
    folder = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    url = _ENCODING_URL.format(name=name)
    return Path(folder or Path(tempfile.gettempdir()) / "data-gym-cache") / hashlib.sha1(url.encode()).hexdigest()


def _by_tokenizer(model: str) -> TokenCounter | None:
    if not has_tokenizer(model):
        return None
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    except Exception:  # whatever it is: without a tokenizer there is still the approximation
        return None
    chat = _chat(tokenizer) if getattr(tokenizer, "chat_template", None) else None
    name = f"tokenizer of {model}"
    return TokenCounter(name, True, lambda text: len(tokenizer.encode(text, add_special_tokens=False)), chat)


def has_tokenizer(model: str) -> bool:
    """Whether a model's tokenizer is on this machine: in a folder, or in the Hub's cache."""
    if (Path(model) / "tokenizer_config.json").is_file() or (Path(model) / "tokenizer.json").is_file():
        return True
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(model, "tokenizer_config.json"), str)
    except (HFValidationError, ValueError):
        return False


def _chat(tokenizer: Any) -> Callable[[Sequence[Mapping[str, str]]], int]:
    def count(messages: Sequence[Mapping[str, str]]) -> int:
        given = [dict(message) for message in messages]
        text = tokenizer.apply_chat_template(given, tokenize=False, add_generation_prompt=True)
        return len(tokenizer.encode(text, add_special_tokens=False))

    return count
