"""Rewards of tokens from a process reward model, as one plain script. It imports nothing of reasonrl.

Every step is read by a pass of its own over the prompt and the text up to the step's end; where a step ends among the
drawn tokens is found by decoding every prefix of them whole.
"""

import torch


def right(backbone, head, ids):
    """P(right) at the last of some tokens."""
    hidden = backbone(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
    return float(torch.sigmoid(head.to(hidden) @ hidden))


def scores_of(backbone, head, tokenizer, prompt, text, ends):
    """P(right) of each step; `ends`: one past its last character."""
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    scores = []
    for end in ends:
        lengths = [len(tokenizer.decode(whole[:count])) for count in range(1, len(whole) + 1)]
        enough = min(length for length in lengths if length >= end)
        count = max(place for place, length in enumerate(lengths, start=1) if length == enough)
        scores.append(right(backbone, head, prompt + whole[:count]))
    return scores


def covered_by(tokenizer, drawn):
    """How many characters each prefix of the drawn tokens is sure of."""
    sure = []
    for count in range(1, len(drawn) + 1):
        text = tokenizer.decode(drawn[:count], skip_special_tokens=True)
        broken = text.endswith("\ufffd") and count < len(drawn)
        sure.append((sure or [0])[-1] if broken else len(text))
    return sure


def token_rewards(scores, tokenizer, drawn, ends, form, offset, weight):
    """One reward for each drawn token."""
    sure = covered_by(tokenizer, drawn)
    rewards, before = [0.0] * len(drawn), offset
    for score, end in zip(scores, ends, strict=True):
        starts = [0, *sure]
        of_step = [t for t in range(len(drawn)) if starts[t] < end and sure[t] > starts[t]]
        rewards[of_step[-1]] += weight * (score - (offset if form == "score" else before))
        before = score
    return rewards
