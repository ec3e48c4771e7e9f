from __future__ import annotations

import pytest

import tiny_models
from lamer.config import PromptSettings
from lamer.errors import ModelError
from lamer.scoring.render import Renderer, letter, question_text

SETTINGS = PromptSettings()
REPLIES = ["A", "B", "the spoon became hot", "Paris is the capital.", "12", "(C) because wool"]


def renderer(family: str, **settings: str) -> Renderer:
    return Renderer(tiny_models.tokenizer(family), PromptSettings(**settings))


def template_ids(family: str, messages: list[dict[str, str]], **options: object) -> list[int]:
    encoded = tiny_models.tokenizer(family).apply_chat_template(
        messages, tokenize=True, return_dict=True, **options
    )
    return list(encoded["input_ids"])


def test_a_question_is_fact_then_question_then_options():
    text = question_text(SETTINGS, "What happened?", ["it froze", "it melted"], "Ice melts.")
    assert text == "Fact: Ice melts.\nQuestion: What happened?\nOptions: (A) it froze (B) it melted"
    assert question_text(SETTINGS, "What happened?") == "Question: What happened?"


def test_braces_in_a_query_are_left_alone():
    assert question_text(SETTINGS, "{x} {0}", ["{y}", "b"]) == "Question: {x} {0}\nOptions: (A) {y} (B) b"


def test_options_have_letters_up_to_z():
    assert [letter(0), letter(25)] == ["A", "Z"]
    with pytest.raises(ValueError, match="at most 26"):
        letter(26)


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
@pytest.mark.parametrize("reply", REPLIES)
def test_context_continuation_and_end_are_what_the_template_renders(family: str, reply: str):
    prompt = "Fact: Wool keeps people warm.\nQuestion: What was the cause of this?"
    render = renderer(family)
    whole = template_ids(family, [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}])
    joined = render.context_ids(prompt) + render.continuation_ids(reply) + render.end_ids
    assert joined == whole[: len(joined)]
    assert len(whole) - len(joined) <= 1  # at most a line break after the end of the turn


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_the_context_is_the_template_with_a_generation_prompt(family: str):
    messages = [{"role": "user", "content": "Question: What happened as a result?"}]
    expected = template_ids(family, messages, add_generation_prompt=True, enable_thinking=False)
    assert renderer(family).context_ids(messages[0]["content"]) == expected
    assert renderer(family).messages_ids(messages) == expected


@pytest.mark.parametrize("family", [*tiny_models.FAMILIES, "llama2_plain", "gpt2"])
def test_bos_stands_exactly_once(family: str):
    words = tiny_models.tokenizer(family)
    ids = renderer(family).context_ids("Question: What?")
    uses_bos = words.bos_token_id is not None and family != "gpt2"
    assert ids.count(words.bos_token_id) == (1 if uses_bos else 0)
    assert not uses_bos or ids[0] == words.bos_token_id


@pytest.mark.parametrize(
    ("family", "end"),
    [("llama3", "<|eot_id|>"), ("qwen2", "<|im_end|>"), ("gemma", "<end_of_turn>"), ("mistral2", "</s>"),
     ("gpt2", "<|endoftext|>")],
)  # fmt: skip
def test_a_turn_ends_with_the_templates_own_token(family: str, end: str):
    assert renderer(family).end_ids == [tiny_models.tokenizer(family).convert_tokens_to_ids(end)]


@pytest.mark.parametrize("family", ["llama2_plain", "gpt2"])
def test_without_a_chat_template_the_plain_form_is_used(family: str):
    words = tiny_models.tokenizer(family)
    render = renderer(family)
    assert not render.has_chat_template
    assert render.context_ids("Question: What?") == words("Question: What?\nAnswer:")["input_ids"]
    joined = render.context_ids("Question: What?") + render.continuation_ids("Paris")
    assert joined == words("Question: What?\nAnswer: Paris")["input_ids"]


def test_the_plain_form_can_be_asked_for():
    render = renderer("llama3", chat_template="plain")
    assert not render.has_chat_template
    assert render.context_ids("x") == tiny_models.tokenizer("llama3")("x\nAnswer:")["input_ids"]


def test_a_template_that_insists_on_a_system_message_gets_an_empty_one():
    words = tiny_models.tokenizer("system")
    assert words.decode(renderer("system").context_ids("hot")) == "<|system|></s><|user|>hot</s><|assistant|>"


def test_a_conversation_the_template_refuses_is_one_line():
    with pytest.raises(ModelError, match=r"refuses a conversation of system, user .*System role not supported"):
        renderer("gemma").messages_ids([{"role": "system", "content": "a"}, {"role": "user", "content": "b"}])


def test_control_tokens_in_a_query_do_not_end_the_turn():
    end = tiny_models.tokenizer("qwen2").convert_tokens_to_ids("<|im_end|>")
    plain = renderer("qwen2").context_ids("hot")
    assert renderer("qwen2").context_ids("hot <|im_end|> cold").count(end) == plain.count(end)


def test_continuations_have_no_space_made_up_by_the_tokenizer():
    words = tiny_models.tokenizer("mistral1")
    render = renderer("mistral1")
    assert words.convert_ids_to_tokens(words("A", add_special_tokens=False)["input_ids"])[0].startswith("▁")
    assert words.convert_ids_to_tokens(render.continuation_ids("A")) == ["A"]
    assert words.convert_ids_to_tokens(render.bare_ids("A")) == ["A"]
    newer = tiny_models.tokenizer("mistral2_first")  # its template puts a space before the reply
    assert "".join(newer.convert_ids_to_tokens(renderer("mistral2_first").continuation_ids("A"))) == "▁A"


def test_changing_the_returned_ids_does_not_change_later_ones():
    render = renderer("llama3")
    render.continuation_ids("Paris").clear()
    assert render.continuation_ids("Paris")


def test_a_completion_is_explanation_then_answer():
    assert renderer("llama3").completion("It is hot.", ["x", "y"], 1) == "It is hot. The answer is (B) y"


def test_the_hash_changes_with_template_and_settings():
    hashes = {
        renderer("llama3").hash, renderer("qwen2").hash, renderer("llama3", chat_template="plain").hash,
        renderer("llama3", fact="Hint: {fact}\n").hash,
    }  # fmt: skip
    assert len(hashes) == 4
    assert renderer("llama3").hash == renderer("llama3").hash
