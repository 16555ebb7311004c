"""From rows to messages, text and token ids."""

from __future__ import annotations

from typing import Any

import pytest

from reasonrl.data_tools import as_messages, prompt_ids, render_prompt
from reasonrl.errors import DataError

ROW = {"id": "r1", "problem": r"What is \frac{1}{2}+{x}?", "answer": "SECRET", "level": 3}
CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}{% if add_generation_prompt"
    " %}<|assistant|>{% endif %}"
)


def test_the_bare_problem_gets_no_instruction() -> None:
    assert as_messages(ROW) == [{"role": "user", "content": ROW["problem"]}]


def test_template_fields_braces_and_escapes() -> None:
    template = r"[{level}] {problem} Answer in \boxed{} like {{answer}}, \sqrt{2}."
    (message,) = as_messages(ROW, template=template)
    assert message["content"] == r"[3] What is \frac{1}{2}+{x}? Answer in \boxed{} like {answer}, \sqrt{2}."


def test_system_prompt_goes_first_and_replaces_the_rows() -> None:
    row = {"prompt": [{"role": "system", "content": "old"}, {"role": "user", "content": "q"}], "problem": "q"}
    before = [dict(message) for message in row["prompt"]]
    assert as_messages(row, system_prompt="new") == [
        {"role": "system", "content": "new"},
        {"role": "user", "content": "q"},
    ]
    assert as_messages(row, template="{problem}!")[-1]["content"] == "q!"
    assert row["prompt"] == before


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{answer}", "show the gold"),
        ("no field", "no field"),
        ("{problm}", "no column 'problm'"),
        (r"{problem} \frac{a}{b}", "{{a}}"),
    ],
)
def test_bad_templates(template: str, message: str) -> None:
    with pytest.raises(DataError, match=message.replace("{", r"\{").replace("}", r"\}")):
        as_messages(ROW, template=template)


def test_the_gold_is_in_no_error_and_no_prompt() -> None:
    with pytest.raises(DataError) as caught:
        as_messages(ROW, template="{nothing}")
    assert "SECRET" not in str(caught.value)


def test_a_row_without_a_question() -> None:
    with pytest.raises(DataError, match="neither `problem` nor `prompt`"):
        as_messages({"id": "x", "answer": "1"})


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """A byte-level tokenizer made on the spot, with a beginning-of-sequence token that it puts first by itself."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {symbol: place for place, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<s>", "</s>"])
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 256), ("</s>", 257)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")


def test_without_a_chat_template(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}]
    assert render_prompt(tokenizer, messages) == "Be brief.\n\n2+2?\n\n"
    ids = prompt_ids(tokenizer, messages)
    assert (
        ids[0] == tokenizer.bos_token_id
        and ids.count(tokenizer.bos_token_id) == 1
        and tokenizer.eos_token_id not in ids
    )
    assert tokenizer.decode(ids[1:]) == "Be brief.\n\n2+2?\n\n"
    with pytest.raises(DataError, match="no chat template"):
        render_prompt(tokenizer, [{"role": "user", "content": [{"type": "image"}]}])


def test_with_a_chat_template(tokenizer: Any) -> None:
    tokenizer.chat_template = CHAT
    messages = [{"role": "user", "content": "2+2?"}]
    assert render_prompt(tokenizer, messages) == "<|user|>2+2?<|assistant|>"
    ids = prompt_ids(tokenizer, messages)
    assert tokenizer.decode(ids) == "<|user|>2+2?<|assistant|>"  # the template's text, no special token added
    continued = [*messages, {"role": "assistant", "content": "Well,"}]
    assert render_prompt(tokenizer, continued) == "<|user|>2+2?<|assistant|>Well,"
    with pytest.raises(DataError, match="at least one message"):
        render_prompt(tokenizer, [])
