"""Policy gradients on logged samples, sample by sample and token by token, with nothing but PyTorch.

A sample is a mapping: `prompt` and `response` (token ids), `advantage`, `weights` (of every response token), `wrong`.
"""

import torch


def token_logprobs(model, sample):
    """[T] log pi of the response's tokens, one sequence at a time."""
    ids = torch.tensor([[*sample["prompt"], *sample["response"]]])
    logits = model(input_ids=ids).logits[0]
    rows = torch.log_softmax(logits, dim=-1)
    first = len(sample["prompt"])
    return [rows[first + place - 1, token] for place, token in enumerate(sample["response"])]


def objective(now, ref, sample, *, tau, method="bcpg", quadratic="sequence", epsilon=0.2):
    """One response's J, before the mean over responses: `now` and `ref` are lists of numbers."""
    length = len(now)
    ratios = [a - b for a, b in zip(now, ref, strict=True)]
    rho = sum(ratios)
    total = 0
    for log_now, ratio, weight in zip(now, ratios, sample["weights"], strict=True):
        advantage = weight * sample["advantage"]
        if method == "grpo_offline":
            r = torch.exp(ratio)
            total = total + torch.minimum(r * advantage, torch.clamp(r, 1 - epsilon, 1 + epsilon) * advantage)
        elif method == "topr" and sample["advantage"] < 0:
            total = total + min(1.0, float(torch.exp(rho.detach()))) * advantage * log_now
        else:
            total = total + advantage * log_now
    squares = rho**2 if quadratic == "sequence" else sum(ratio**2 for ratio in ratios)
    return (total - tau / 2 * squares) / length


def train(model, samples, orders, *, rate, clip, weight_decay, betas, schedule, **terms):
    """One AdamW update a list of sample numbers; returns objectives, gradient norms and mean rho per token of each."""
    with torch.no_grad():
        refs = [[float(value) for value in token_logprobs(model, sample)] for sample in samples]
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=betas)
    lines = []
    for step, order in enumerate(orders):
        for group in optimizer.param_groups:
            group["lr"] = rate * schedule(step)
        found, drift = 0, {True: [], False: []}
        for number in order:
            now = token_logprobs(model, samples[number])
            found = found + objective(now, refs[number], samples[number], **terms) / len(order)
            gone = sum(a.item() - b for a, b in zip(now, refs[number], strict=True)) / len(now)
            drift[samples[number]["wrong"]].append(gone)
        (-found).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
        means = {wrong: sum(values) / len(values) if values else None for wrong, values in drift.items()}
        lines.append({"objective": found.item(), "norm": float(norm), "drift": means})
    return lines


def plain_bcpg(model, groups, refs, tau):
    """J of BCPG alone, without weights: `groups` are lists of (prompt, response, reward), all of the same size."""
    total = 0
    for group, ref_group in zip(groups, refs, strict=True):
        mean = sum(reward for _, _, reward in group) / len(group)
        for (prompt, response, reward), ref in zip(group, ref_group, strict=True):
            now = sum(token_logprobs(model, {"prompt": prompt, "response": response}))
            total = total + (now * (reward - mean) - tau / 2 * (now - ref) ** 2) / len(response) / len(group)
    return total / len(groups)
