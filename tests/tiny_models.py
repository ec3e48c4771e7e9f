"""Tiny real tokenizers of several families, with those families' chat templates, and tiny random models."""

from __future__ import annotations

from functools import cache
from typing import Any

from lamer.scoring.model import LoadedModel

TEXT = [
    "Copper is a good conductor of heat, so the spoon became hot in the soup.",
    "Fact: Wool keeps people warm.\nQuestion: What happened as a result?\nOptions: (A) it froze (B) it melted",
    "The answer is (C) because Paris is the capital of France and 12 is more than 7.",
    "She put the glass in the oven. What was the cause of this? system user assistant model",
] * 8

LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = "
    "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim "
    "+ '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
QWEN2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN3 = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% if "
    "message['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% if enable_thinking is defined and "
    "enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}"
    "{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
_ALTERNATING = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ REPLY }}{% else %}"
    "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
MISTRAL1 = _ALTERNATING.replace("REPLY", "message['content'] + eos_token")
MISTRAL2 = _ALTERNATING.replace("REPLY", "' ' + message['content'] + eos_token")
LLAMA2 = _ALTERNATING.replace("REPLY", "' ' + message['content'] + ' ' + eos_token")
INSISTS_ON_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ raise_exception('a system message must come first') }}{% endif %}"
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

FAMILIES = ("llama3", "qwen2", "qwen3", "gemma", "mistral1", "mistral2", "mistral2_first", "llama2")


@cache
def tokenizer(family: str) -> Any:
    """A tokenizer of the family: its kind of BPE, its special tokens, its chat template."""
    return {
        "llama3": lambda: _byte_level(LLAMA3, bos="<|begin_of_text|>", eos="<|eot_id|>",
                                      more=["<|start_header_id|>", "<|end_header_id|>"], adds_bos=True),
        "qwen2": lambda: _byte_level(QWEN2, eos="<|im_end|>", more=["<|im_start|>", "<|endoftext|>"]),
        "qwen3": lambda: _byte_level(QWEN3, eos="<|im_end|>", more=["<|im_start|>", "<|endoftext|>"]),
        "gpt2": lambda: _byte_level(None, bos="<|endoftext|>", eos="<|endoftext|>"),
        "gemma": lambda: _sentencepiece(GEMMA, "<bos>", "<eos>", ["<start_of_turn>", "<end_of_turn>"], "never"),
        "mistral1": lambda: _sentencepiece(MISTRAL1, "<s>", "</s>", [], "always"),
        "mistral2": lambda: _sentencepiece(MISTRAL2, "<s>", "</s>", ["[INST]", "[/INST]"], "always"),
        "mistral2_first": lambda: _sentencepiece(MISTRAL2, "<s>", "</s>", ["[INST]", "[/INST]"], "first"),
        "llama2": lambda: _sentencepiece(LLAMA2, "<s>", "</s>", [], "always"),
        "llama2_plain": lambda: _sentencepiece(None, "<s>", "</s>", [], "always"),
        "system": lambda: _sentencepiece(INSISTS_ON_SYSTEM, "<s>", "</s>", [], "never"),
    }[family]()  # fmt: skip


def _byte_level(
    template: str | None,
    *,
    eos: str,
    bos: str | None = None,
    more: list[str] | None = None,
    adds_bos: bool = False,
) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = list(dict.fromkeys([token for token in (bos, eos) if token] + (more or [])))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    return _wrap(core, template, bos, eos, special, adds_bos=adds_bos)


def _sentencepiece(template: str | None, bos: str, eos: str, more: list[str], marker: str) -> Any:
    """BPE over text whose spaces are ▁; the marker is put in front `always`, at the `first` part, or `never`."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    core = Tokenizer(models.BPE(unk_token="<unk>"))
    replace = normalizers.Replace(" ", "▁")
    if marker == "first":
        core.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    else:
        steps = [normalizers.Prepend("▁"), replace] if marker == "always" else [replace]
        core.normalizer = normalizers.Sequence(steps)
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    special = ["<unk>", bos, eos, *more]
    characters = [chr(code) for code in range(32, 127)] + ["▁", "\n"]
    words = [part for text in TEXT for part in text.replace(" ", " ▁").split(" ")]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=characters)
    core.train_from_iterator(words, trainer)
    return _wrap(core, template, bos, eos, special, adds_bos=True)


def _wrap(
    core: Any, template: str | None, bos: str | None, eos: str, special: list[str], *, adds_bos: bool
) -> Any:
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    if adds_bos:
        core.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, core.token_to_id(bos))]
        )
    extra = [token for token in special if token not in (bos, eos, "<unk>")]
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=bos, eos_token=eos, additional_special_tokens=extra
    )
    wrapped.chat_template = template
    return wrapped


@cache
def model(kind: str, vocabulary: int = 400, limit: int = 512) -> Any:
    """A random causal LM of two small layers, in evaluation mode; weights large enough for uneven answers."""
    import torch
    import transformers

    common = {
        "vocab_size": vocabulary, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": limit,
        "initializer_range": 0.3, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None,
    }  # fmt: skip
    config = {
        "llama": lambda: transformers.LlamaConfig(**common),
        "mistral": lambda: transformers.MistralConfig(**common, sliding_window=6),
        "qwen2": lambda: transformers.Qwen2Config(**common),
        "gemma2": lambda: transformers.Gemma2Config(
            **common, head_dim=8, sliding_window=6, final_logit_softcapping=5.0
        ),
        "gpt2": lambda: transformers.GPT2Config(
            vocab_size=vocabulary, n_embd=32, n_layer=2, n_head=4, n_positions=limit, initializer_range=0.3,
            bos_token_id=0, eos_token_id=1,
        ),
    }[kind]()  # fmt: skip
    torch.manual_seed(7)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def loaded(kind: str = "llama", family: str = "llama3", limit: int = 512) -> LoadedModel:
    """A random model with a tokenizer of the family."""
    import torch

    words = tokenizer(family)
    return LoadedModel(model(kind, max(len(words), 400), limit), words, torch.device("cpu"))


def save(folder: Any, kind: str = "llama", family: str = "llama3", limit: int = 512) -> str:
    """A model folder as people have them; its path."""
    found = loaded(kind, family, limit)
    found.model.save_pretrained(folder)
    found.tokenizer.save_pretrained(folder)
    return str(folder)
