"""Log-probabilities out of a model's own forward pass: equal to those of its plain logits, for every kind of head."""

from __future__ import annotations

import copy
import threading
import warnings

import peft
import pytest
import torch
import transformers

from reasonrl.models import lm_head, load_policy
from reasonrl.models.lm_head import LogprobReader, Reading, check, possible_heads, reading, score_logits

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
MOE = {"num_local_experts": 2, "num_experts_per_tok": 1, "experts_implementation": "eager"}
#: name -> (config, its settings, the cap and the factor that the check must find).
KINDS = {
    "untied": ("Qwen2", {"tie_word_embeddings": False}, (None, None)),
    "tied": ("Qwen2", {"tie_word_embeddings": True}, (None, None)),
    "bias": ("Phi", {}, (None, None)),
    "capped": ("Gemma2", {"head_dim": 16, "final_logit_softcapping": 5.0}, (5.0, None)),
    "capped, off": ("Gemma2", {"head_dim": 16, "final_logit_softcapping": None}, (None, None)),
    "always capped": ("RecurrentGemma", {"logits_soft_cap": 4.0, "head_dim": 16}, (4.0, None)),
    "multiplied": ("Cohere", {"logit_scale": 0.25, "use_qk_norm": False}, (None, 0.25)),
    "divided": ("Granite", {"logits_scaling": 4.0}, (None, 0.25)),
    "divided, mixture": ("GraniteMoe", {"logits_scaling": 4.0, **MOE}, (None, 0.25)),
}


def build(kind: str, dtype=torch.float32):
    """A model with distributions far from flat, and biases that are not zero."""
    name, settings, _ = KINDS[kind]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{**SIZES, **settings})
    model = getattr(transformers, f"{name}ForCausalLM")(config).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape).to(dtype))
    return model


def ragged(vocabulary: int = 97):
    ids = torch.randint(1, vocabulary, (3, 14), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[0, :4], labels[1, :9], labels[1, 12:], labels[2] = -100, -100, -100, -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, labels


def both_ways(model, monkeypatch, temperature=0.7, entropy_grad=True, data=None):
    """Values and every parameter's gradient: from plain logits, and through the head."""
    inputs, labels = data or ragged()
    upstream = torch.randn(2, *labels[:, 1:].shape, generator=torch.Generator().manual_seed(2)).to(model.dtype)
    found = []
    for limit in (1 << 62, 0):
        monkeypatch.setattr(lm_head, "PLAIN_LOGITS", limit)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            logprobs, entropy = LogprobReader(temperature)(model, labels, inputs, entropy_grad=entropy_grad)
        loss = (upstream[0] * logprobs).sum() + ((upstream[1] * entropy).sum() if entropy_grad else 0)
        model.zero_grad()
        loss.backward()
        grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        found.append((logprobs.detach(), entropy.detach(), grads))
    return found


def assert_same(found, tolerance):
    (logprobs, entropy, grads), (our_logprobs, our_entropy, our_grads) = found
    torch.testing.assert_close(our_logprobs, logprobs, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(our_entropy, entropy, rtol=tolerance, atol=tolerance)
    assert logprobs.abs().max() > 1 and set(grads) == set(our_grads)
    for name, grad in grads.items():
        scale = max(1.0, float(grad.abs().max()))
        torch.testing.assert_close(our_grads[name] / scale, grad / scale, rtol=0, atol=tolerance, msg=name)


@pytest.mark.parametrize("entropy_grad", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_head_gives_what_its_logits_give(kind, entropy_grad, monkeypatch):
    model = build(kind, torch.float64)
    assert_same(both_ways(model, monkeypatch, entropy_grad=entropy_grad), 1e-9)
    _, labels = ragged()
    head = check(model, possible_heads(model), labels, 1.0)
    assert (head.softcap, head.logit_scale) == KINDS[kind][2]


@pytest.mark.parametrize("kind", ["tied", "capped", "divided"])
def test_in_float32_as_well(kind, monkeypatch):
    assert_same(both_ways(build(kind), monkeypatch), 1e-5)


def test_a_vision_language_model(monkeypatch):
    model, _ = load_policy("tiny:llava", dtype=torch.float64)
    assert_same(both_ways(model, monkeypatch, data=ragged(200)), 1e-9)


def test_half_precision_is_nearer_to_the_truth_than_half_logits(monkeypatch):
    model = build("tied", torch.bfloat16)
    inputs, labels = ragged()
    with torch.no_grad():
        monkeypatch.setattr(lm_head, "PLAIN_LOGITS", 0)
        ours, _ = LogprobReader(1.0)(model, labels, inputs)
        hidden = model.model(**inputs).last_hidden_state.double()
        want, _ = score_logits(hidden[:, :-1] @ model.lm_head.weight.double().t(), labels[:, 1:], 1.0)
        plain, _ = score_logits(model(**inputs).logits[:, :-1], labels[:, 1:], 1.0)
    assert ours.dtype == torch.float32
    assert (ours - want).abs().max() < 1e-4 < (plain - want).abs().max()


def test_only_labelled_positions_go_through_the_head_and_no_logits_are_made():
    model = build("untied")
    inputs, labels = ragged()
    (head,) = possible_heads(model)
    widths = []
    hook = model.lm_head.register_forward_hook(lambda _, __, out: widths.append(tuple(out.shape)))
    saved = torch.autograd.graph.saved_tensors_hooks(lambda t: widths.append(tuple(t.shape)) or t, lambda t: t)
    with saved, reading(head, Reading(labels, 1.0, True, False)):
        model(**inputs)
    hook.remove()
    labelled = int((labels[:, 1:] != -100).sum())
    assert (3, 14, 2) in widths and (labelled, 32) in widths
    assert not any(shape[-1:] == (97,) and len(shape) > 1 for shape in widths)


def test_all_unlabelled_gives_zeros_that_reach_every_parameter():
    model = build("tied")
    inputs, labels = ragged()
    head = check(model, possible_heads(model), labels, 1.0)
    with reading(head, Reading(torch.full_like(labels, -100), 1.0, True, True)):
        scores = model(**inputs).logits
    scores.sum().backward()
    assert not scores.any() and all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_the_model_is_as_before_afterwards_also_after_an_error():
    model = build("capped")
    inputs, labels = ragged()
    before = model(**inputs).logits
    head = check(model, possible_heads(model), labels, 1.0)
    refused = pytest.raises(lm_head.ModelError, match="labels of the shape of input_ids")
    with refused, reading(head, Reading(labels[:, 1:], 1.0, True, False)):
        model(**inputs)
    assert "forward" not in vars(model.lm_head) and model.config.final_logit_softcapping == 5.0
    assert torch.equal(model(**inputs).logits, before)


def test_another_thread_gets_logits():
    model = build("untied")
    inputs, labels = ragged()
    (head,) = possible_heads(model)
    shapes = []
    with reading(head, Reading(labels, 1.0, True, False)):
        thread = threading.Thread(target=lambda: shapes.append(model(**inputs).logits.shape[-1]))
        thread.start()
        thread.join()
        shapes.append(model(**inputs).logits.shape[-1])
    assert shapes == [97, 2]


# --- what is not known is read plainly


class Odd(transformers.Qwen2ForCausalLM):
    """Does something of its own to the logits."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = 30 * torch.tanh(output.logits / 30)
        return output


def test_a_model_that_does_something_unknown_to_its_logits_is_read_plainly(monkeypatch):
    torch.manual_seed(0)
    model = Odd(transformers.Qwen2Config(**SIZES)).eval()
    inputs, labels = ragged()
    want = score_logits(model(**inputs).logits[:, :-1], labels[:, 1:], 1.0)
    # Its own logits are so small that the cap cannot be seen on them.
    assert model(**inputs).logits.abs().max() < 1
    monkeypatch.setattr(lm_head, "PLAIN_LOGITS", 0)
    with pytest.warns(UserWarning, match="Odd: what follows its output layer is not known"):
        got = LogprobReader(1.0)(model, labels, inputs)
    for ours, theirs in zip(got, want, strict=True):
        assert torch.equal(ours, theirs)


def test_planted_faults_are_found_by_the_check():
    model, (_, labels) = build("capped"), ragged()
    (right, ignored) = possible_heads(model)
    assert check(model, [right], labels, 1.0) is right
    assert check(model, [ignored], labels, 1.0) is None
    for field, value in (("softcap", 5.2), ("logit_scale", 1.05)):
        wrong = lm_head.Head(**{**vars(right), field: value})
        assert check(model, [wrong], labels, 1.0) is None, field


def test_the_check_leaves_modes_and_random_numbers_alone():
    model, (_, labels) = build("tied"), ragged()
    model.train()
    model.model.layers[0].eval()
    before = {name: module.training for name, module in model.named_modules()}
    state = torch.random.get_rng_state()
    assert check(model, possible_heads(model), labels, 1.0) is not None
    assert {name: module.training for name, module in model.named_modules()} == before
    assert torch.equal(torch.random.get_rng_state(), state)


# --- adapters


def test_lora_in_the_layers_is_read_through_the_head_and_lora_on_the_head_is_not(monkeypatch):
    inside = peft.get_peft_model(
        build("untied", torch.float64), peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    )
    assert_same(both_ways(inside, monkeypatch), 1e-9)
    on_it = peft.get_peft_model(build("untied"), peft.LoraConfig(target_modules=["lm_head"]))
    assert possible_heads(on_it) == []


def test_a_trained_copy_of_the_head_is_the_one_that_is_read(monkeypatch):
    config = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"], init_lora_weights=False)
    model = peft.get_peft_model(build("untied", torch.float64), config)
    with torch.no_grad():
        model.base_model.model.lm_head.modules_to_save["default"].weight.mul_(1.5)
    found = both_ways(model, monkeypatch)
    assert_same(found, 1e-9)
    assert any("lm_head" in name for name in found[1][2])
    with model.disable_adapter(), torch.no_grad():
        inputs, labels = ragged()
        got, _ = LogprobReader(1.0)(model, labels, inputs)
        want, _ = score_logits(build("untied", torch.float64)(**inputs).logits[:, :-1], labels[:, 1:], 1.0)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def test_plain_scores_equal_the_formula_and_are_zero_without_a_label():
    logits = 3 * torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([[1, -100, 3, 6, 0], [-100] * 5])
    logprobs, entropy = score_logits(logits.clone(), labels, 0.5)
    p = (logits / 0.5).exp() / (logits / 0.5).exp().sum(-1, keepdim=True)
    for row in range(2):
        for t in range(5):
            label = int(labels[row, t])
            want = (p[row, t, label].log(), -(p[row, t] * p[row, t].log()).sum()) if label >= 0 else (0.0, 0.0)
            assert (float(logprobs[row, t]), float(entropy[row, t])) == pytest.approx(tuple(map(float, want)))
    half, _ = score_logits(copy.copy(logits).bfloat16(), labels, 0.5)
    assert half.dtype == torch.float32
