"""One update of PPO with a critic on pictures, as a plain script: the gradients' oracle. It imports no reasonrl.

A sample at a time, no padding: the picture goes through the processor by itself, and positions by row and column
(M-RoPE, Wang et al. 2024, arXiv 2409.12191) are the model's own for that sample alone.
"""

import math

import torch


def inputs_of(processor, pictures, ids):
    """What the model takes for one sample besides its ids: the processor's own reading of its pictures."""
    if not pictures:
        return {}
    made = processor(text=[processor.image_token * len(pictures)], images=[list(pictures)], return_tensors="pt")
    inputs = {k: v for k, v in made.items() if k not in ("input_ids", "attention_mask", "mm_token_type_ids")}
    if "image_grid_thw" in inputs:
        inputs["mm_token_type_ids"] = (torch.tensor([ids]) == processor.image_token_id).long()
    return inputs


def logprobs_and_values(policy, critic, processor, sample):
    """Of one (prompt, response, pictures): log-probability of each response token and the value before it."""
    prompt, response, pictures = sample
    ids = prompt + response
    inputs = inputs_of(processor, pictures, ids)
    logits = policy(input_ids=torch.tensor([ids]), **inputs).logits[0]
    values = critic(input_ids=torch.tensor([ids]), **inputs)[0]
    chosen = []
    for t, token in enumerate(response):
        row = logits[len(prompt) + t - 1]
        chosen.append(row[token] - torch.logsumexp(row, dim=0))
    return torch.stack(chosen), values[len(prompt) - 1 : len(ids) - 1]


def gradients(policy, critic, processor, samples, rewards):
    """Gradients of the two losses at the ratio 1, gamma = lambda = 1, advantages normalised over all tokens."""
    tokens = sum(len(response) for _, response, _ in samples)
    with torch.no_grad():
        values = [logprobs_and_values(policy, critic, processor, sample)[1] for sample in samples]
    advantages = [[r - float(v) for v in own] for r, own in zip(rewards, values, strict=True)]
    flat = [a for own in advantages for a in own]
    mean = math.fsum(flat) / tokens
    std = math.sqrt(math.fsum((a - mean) ** 2 for a in flat) / tokens)
    policy_loss, value_loss = 0.0, 0.0
    for sample, own, reward in zip(samples, advantages, rewards, strict=True):
        logprobs, now = logprobs_and_values(policy, critic, processor, sample)
        for t in range(len(own)):
            policy_loss = policy_loss - logprobs[t] * (own[t] - mean) / std / tokens
            value_loss = value_loss + 0.5 * (now[t] - reward) ** 2 / tokens
    policy_loss.backward()
    value_loss.backward()
    return [{name: p.grad for name, p in model.named_parameters()} for model in (policy, critic)]
