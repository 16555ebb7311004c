"""Tokens to steps and to what is mined, with a tokenizer of merged pieces whose ids the model splits as it likes."""

from __future__ import annotations

import itertools
import random

import numpy
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from reasonrl.errors import DataError
from reasonrl.prm.mining import mined_tokens, step_labels_of_tokens
from reasonrl.prm.steps import Step
from reasonrl.prm.token_steps import steps_of_tokens, token_spans


@pytest.fixture(scope="module", params=[True, False], ids=["trimmed offsets", "whole offsets"])
def tokenizer(request):
    """Byte pairs; the offsets of its pieces leave out a leading blank, or hold it."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=request.param)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<end>", "<think>"], initial_alphabet=alphabet)
    raw.train_from_iterator(["the first step, then the next step\n\n but wait, the step is wrong"] * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>", additional_special_tokens=["<think>"])


def other_ids(tokenizer, text: str, draw: random.Random) -> list[int]:
    """Ids that decode to the text, cut where no merge would cut it, with special tokens among them."""
    ids, data = [], text.encode()
    names = {raw: token for token, raw in enumerate(map(tokenizer.convert_ids_to_tokens, range(len(tokenizer))))}
    letters = dict(zip(range(256), _byte_names(), strict=True))
    while data:
        for size in sorted(range(1, 5), key=lambda _: draw.random()):
            name = "".join(letters[byte] for byte in data[:size])
            if name in names and len(name) == size:
                ids.append(names[name])
                data = data[size:]
                break
        if draw.random() < 0.1:
            ids.append(tokenizer.convert_tokens_to_ids("<think>"))
    return ids


def _byte_names() -> list[str]:
    """The character that stands for each byte in such a vocabulary."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    names, more = {}, 0
    for byte in range(256):
        names[byte] = chr(byte) if byte in plain else chr(256 + more)
        more += byte not in plain
    return [names[byte] for byte in range(256)]


TEXT = "the first step — é日本\n\n but wait, the next step is wrong 🙂.\nend"


def test_every_split_covers_the_text(tokenizer) -> None:
    draw = random.Random(0)
    usual = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    for number in range(40):
        ids = [*usual, tokenizer.eos_token_id] if not number else other_ids(tokenizer, TEXT, draw)
        assert tokenizer.decode(ids, skip_special_tokens=True) == TEXT
        assert number == 0 or ids != usual
        spans = token_spans(tokenizer, ids, TEXT)
        plain = [span for span in spans if span is not None]
        assert [span is None for span in spans] == [token in (0, 1) for token in ids]
        assert plain[0][0] == 0 and plain[-1][1] == len(TEXT)
        assert all(before[1] == after[0] for before, after in itertools.pairwise(plain))
        # What a token stands for is what it decodes to, where it holds whole characters.
        for token, span in zip(ids, spans, strict=True):
            alone = tokenizer.decode([token])
            if span is not None and "\ufffd" not in alone:
                assert TEXT[span[0] : span[1]] == alone


def test_a_token_across_a_boundary_goes_to_the_earlier_step(tokenizer) -> None:
    text = "the step the step"
    ids = [tokenizer.convert_tokens_to_ids("<think>"), *tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    pieces = [tokenizer.decode([token]) for token in ids[1:-1]]
    assert pieces == ["the", " step", " the", " step"]
    spans = token_spans(tokenizer, ids, text)
    assert steps_of_tokens([Step(0, 8), Step(8, 17)], spans) == [None, 0, 0, 1, 1, None]
    assert steps_of_tokens([Step(0, 9), Step(9, 17)], spans) == [None, 0, 0, 0, 1, None]  # the blank is the first's
    assert steps_of_tokens([Step(0, 10), Step(10, 11), Step(11, 17)], spans) == [None, 0, 0, 0, 2, None]


def test_other_ids_than_those_of_the_text_are_refused(tokenizer) -> None:
    ids = tokenizer("the first step")["input_ids"]
    for text in ("the first stem", "the first step.", "the first", ""):
        with pytest.raises(DataError, match="completion_ids decode to 'the first step'"):
            token_spans(tokenizer, ids, text)


STEPS = numpy.array([-1, 0, 0, 1, 1, 1, 2, 3, 3, 3, 3, -1])
LABELS = [1, 0, None, 1]


def test_what_is_mined() -> None:
    def places(mined, seed="s", labels=LABELS):
        return numpy.flatnonzero(mined_tokens(mined, STEPS, labels, seed=seed)).tolist()

    assert places("labels") == places("oracle") == places("uniform") == [1, 2, 7, 8, 9, 10]
    assert places("first_error") == [1, 2]
    assert places("first_error", labels=[1, None, 1, 1]) == [1, 2, 6, 7, 8, 9, 10]
    assert places("none") == []
    assert places("leading_steps") == [1, 2, 3, 4, 5, 6]
    assert step_labels_of_tokens(STEPS, LABELS).tolist() == [-1, 1, 1, 0, 0, 0, -1, 1, 1, 1, 1, -1]


def test_random_steps_have_the_mass_of_the_right_ones_and_are_whole_but_for_the_last() -> None:
    seen = set()
    for seed in range(200):
        found = mined_tokens("random_steps", STEPS, LABELS, seed=str(seed))
        assert found.sum() == 6
        assert not found[[0, -1]].any()
        parts = []
        for step in range(4):
            own = found[step == STEPS]
            if own.any() and not own.all():
                parts.append(step)
                assert own[: own.sum()].all(), "a step in part is its beginning"
        assert len(parts) <= 1
        seen.add(tuple(found.tolist()))
        again = mined_tokens("random_steps", STEPS, LABELS, seed=str(seed))
        assert (again == found).all()
    assert len(seen) > 8
