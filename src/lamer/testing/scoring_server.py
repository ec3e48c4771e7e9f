"""A local `/v1/completions` server that computes with a transformers model: echo, log-probabilities, sampling.

    model, tokenizer = tiny_model("llama")
    with ScoringServer(model, tokenizer, model="tiny") as server:
        client = openai.OpenAI(base_url=server.base_url, api_key="unused")

Its `Habits` make it as poor as other servers are: no token ids, no echo, no log-probabilities, ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lamer.testing.faults import Fault
from lamer.testing.local_server import LocalServer, RefusedError

_OPENAI = frozenset(
    {
        "model", "prompt", "suffix", "max_tokens", "temperature", "top_p", "n", "stream", "logprobs", "echo",
        "stop", "presence_penalty", "frequency_penalty", "best_of", "logit_bias", "user", "seed",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Habits:
    """What a server can do; as it stands, what vLLM can."""

    takes_ids: bool = True
    """Prompts may be token ids."""
    echoes: bool = True
    """`echo` gives the prompt's log-probabilities; False ignores it."""
    gives_logprobs: bool = True
    names_ids: bool = True
    """`return_tokens_as_token_ids` and `return_token_ids` do something."""
    label_ids: bool = True
    """`logprob_token_ids` does something."""
    max_logprobs: int = 20
    """More are refused."""
    tells_limit: bool = True
    """The list of models has `max_model_len`."""
    adds_bos: bool = False
    """Texts get a BOS whatever the request says."""
    hides_bos: bool = False
    """BOS is left away from echoed tokens (llama-cpp-python)."""
    shifts_echo: Literal["never", "without BOS", "always"] = "never"
    """Echoed log-probabilities are one token late (llama-cpp-python: for a prompt without BOS)."""
    uses_content: bool = False
    """Log-probabilities come as `logprobs.content`, of generated tokens only (llama.cpp's own server)."""
    refuses_unknown: bool = False
    """A parameter that OpenAI does not have is refused."""
    top_k_off: int = 0
    """The value of `top_k` that means no limit; 0 or -1, the other one is refused."""
    says_500: bool = False
    """Requests it cannot take are answered with status 500 (llama-cpp-python)."""


@dataclass(frozen=True, slots=True)
class _Token:
    """A token at its place, and what was likely there."""

    id: int
    logprob: float | None
    top: Mapping[int, float]


class ScoringServer(LocalServer):
    """Serves one model; computes in float32, one request at a time.

    Args:
        weights: A transformers causal LM.
        tokenizer: Its tokenizer.
        habits: What it can do.
        limit: Tokens that prompt and response may have together.
        settings: Of `LocalServer`: faults, model, api_key, port.
    """

    path = "/v1/completions"

    def __init__(
        self, weights: Any, tokenizer: Any, *, habits: Habits | None = None, limit: int = 512, **settings: Any
    ) -> None:
        super().__init__(**settings)
        self.weights = weights
        self.tokenizer = tokenizer
        self.habits = habits or Habits()
        self.limit = limit

    def model_entry(self) -> dict[str, Any]:
        """The model's row in the list of models."""
        return super().model_entry() | ({"max_model_len": self.limit} if self.habits.tells_limit else {})

    def answer(self, number: int, body: Mapping[str, Any], fault: Fault) -> dict[str, Any]:
        """Complete a prompt."""
        self._check(body)
        ids = self._ids(body)
        num_new = body.get("max_tokens", 16)
        if len(ids) + num_new > self.limit:
            raise self._refusal(f"this model's maximum context length is {self.limit} tokens")
        with self.lock:
            responses = [self._generate(ids, body, index) for index in range(body.get("n", 1))]
            echoed = self._echoed(ids, body) if body.get("echo") and self.habits.echoes else []
        choices = [self._choice(index, body, ids, echoed, new) for index, new in enumerate(responses)]
        num_generated = sum(map(len, responses))
        return {
            "id": f"cmpl-{number}",
            "object": "text_completion",
            "created": 0,
            "model": body.get("model"),
            "choices": choices,
            "usage": {
                "prompt_tokens": len(ids),
                "completion_tokens": num_generated,
                "total_tokens": len(ids) + num_generated,
            },
        }

    def _check(self, body: Mapping[str, Any]) -> None:
        unknown = sorted(set(body) - _OPENAI)
        if self.habits.refuses_unknown and unknown:
            raise self._refusal(f"Unrecognized request argument supplied: {unknown[0]}")
        if body.get("logprobs") is not None and body["logprobs"] > self.habits.max_logprobs:
            raise self._refusal(f"logprobs must be at most {self.habits.max_logprobs}")
        if body.get("top_k", self.habits.top_k_off) not in (self.habits.top_k_off, *range(1, 1000)):
            raise self._refusal(f"top_k must be {self.habits.top_k_off} (off) or at least 1")
        if body.get("logprob_token_ids") and body.get("logprobs") is None:
            raise self._refusal("when using `logprob_token_ids`, `logprobs` must be set")

    def _refusal(self, message: str) -> RefusedError:
        if self.habits.says_500:
            return RefusedError(500, f"1 validation error: {message}")
        return RefusedError(400, message)

    def _ids(self, body: Mapping[str, Any]) -> list[int]:
        prompt = body.get("prompt")
        if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
            prompt = prompt[0]
        if isinstance(prompt, str):
            special = self.habits.adds_bos or body.get("add_special_tokens", True)
            ids = list(self.tokenizer(prompt, add_special_tokens=special)["input_ids"])
            bos = self.tokenizer.bos_token_id
            return [bos, *ids] if self.habits.adds_bos and bos is not None and ids[:1] != [bos] else ids
        if not self.habits.takes_ids or not prompt or not all(isinstance(token, int) for token in prompt):
            raise self._refusal("prompt: input should be a valid string")
        return list(prompt)

    def _logprobs(self, ids: Sequence[int]) -> Any:
        """log p of every token after each of `ids`, shape [len(ids), vocabulary]."""
        import torch

        with torch.inference_mode():
            logits = self.weights(input_ids=torch.tensor([list(ids)])).logits[0]
        return torch.log_softmax(logits.float(), dim=-1)

    def _generate(self, ids: Sequence[int], body: Mapping[str, Any], index: int) -> list[_Token]:
        import torch

        random = torch.Generator().manual_seed(body.get("seed", 0) + index)
        stops = {self.tokenizer.eos_token_id, *body.get("stop_token_ids", [])}
        new: list[_Token] = []
        while len(new) < body.get("max_tokens", 16):
            logprobs = self._logprobs([*ids, *(token.id for token in new)])[-1]
            chosen = _draw(logprobs, body.get("temperature", 1.0), body.get("top_p", 1.0), random)
            new.append(self._token(chosen, logprobs, body))
            if chosen in stops:
                break
        return new

    def _echoed(self, ids: Sequence[int], body: Mapping[str, Any]) -> list[_Token]:
        logprobs = self._logprobs(ids)
        has_bos = ids[0] == self.tokenizer.bos_token_id
        is_late = self.habits.shifts_echo == "always" or (self.habits.shifts_echo == "without BOS" and not has_bos)
        rows = logprobs[1:] if is_late else logprobs[:-1]
        tokens = [_Token(ids[0], None, {})]
        tokens += [self._token(token, row, body) for token, row in zip(ids[1:], rows)]
        hidden = self.tokenizer.bos_token_id if self.habits.hides_bos else None
        return [token for token in tokens if token.id != hidden]

    def _token(self, chosen: int, logprobs: Any, body: Mapping[str, Any]) -> _Token:
        wanted = body.get("logprob_token_ids") if self.habits.label_ids else None
        likely = wanted or logprobs.topk(min(body.get("logprobs") or 0, len(logprobs))).indices.tolist()
        top = {token: float(logprobs[token]) for token in dict.fromkeys([*likely, chosen])}
        return _Token(chosen, float(logprobs[chosen]), top)

    def _choice(
        self,
        index: int,
        body: Mapping[str, Any],
        ids: Sequence[int],
        echoed: Sequence[_Token],
        new: Sequence[_Token],
    ) -> dict[str, Any]:
        eos = self.tokenizer.eos_token_id
        text = self._text([token.id for token in new if token.id != eos])
        choice: dict[str, Any] = {
            "index": index,
            "text": (self._text(ids) if echoed else "") + text,
            "logprobs": None,
            "finish_reason": "stop" if new and new[-1].id == eos else "length",
        }
        if body.get("logprobs") is not None and self.habits.gives_logprobs:
            choice["logprobs"] = self._reported([*echoed, *new], body)
        if body.get("return_token_ids") and self.habits.names_ids:
            choice |= {"prompt_token_ids": list(ids), "token_ids": [token.id for token in new]}
        return choice

    def _reported(self, tokens: Sequence[_Token], body: Mapping[str, Any]) -> dict[str, Any]:
        if self.habits.uses_content:
            return {"content": [self._content(token) for token in tokens]}
        as_ids = bool(body.get("return_tokens_as_token_ids")) and self.habits.names_ids

        def name(token: int) -> str:
            return f"token_id:{token}" if as_ids else self._text([token])

        offsets = [len(self._text([token.id for token in tokens[:place]])) for place in range(len(tokens))]
        return {
            "tokens": [name(token.id) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [
                {name(key): value for key, value in token.top.items()} if token.top else None for token in tokens
            ],
            "text_offset": offsets,
        }

    def _content(self, token: _Token) -> dict[str, Any]:
        rows = [{"id": key, "token": self._text([key]), "logprob": value} for key, value in token.top.items()]
        return {"id": token.id, "token": self._text([token.id]), "logprob": token.logprob, "top_logprobs": rows}

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _draw(logprobs: Any, temperature: float, top_p: float, random: Any) -> int:
    """A token: the likeliest at temperature 0, else drawn from the nucleus."""
    import torch

    if temperature == 0:
        return int(logprobs.argmax())
    probabilities, order = torch.softmax(logprobs / temperature, dim=-1).sort(descending=True)
    outside = probabilities.cumsum(0) - probabilities >= top_p
    return int(order[torch.multinomial(probabilities.masked_fill(outside, 0.0), 1, generator=random)])
