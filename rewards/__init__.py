"""Rewards: verdicts on text, and the registry through which recipes name them. No torch.

verdict = verify("1/2", r"the answer is \\boxed{0.5}")
reward = get_reward([{"name": "math"}, {"name": "format", "weight": 0.1}])
reward(prompts, completions, answer=golds)          # also as TRL's `reward_funcs=[reward]`
"""

from reasonrl.rewards.combining import check_rows
from reasonrl.rewards.math import verify
from reasonrl.rewards.registry import RewardFunction, available_rewards, get_reward, get_rewards
from reasonrl.rewards.verdict import SCORE_OF_STATUS, STATUSES, Verdict

__all__ = [
    "SCORE_OF_STATUS",
    "STATUSES",
    "RewardFunction",
    "Verdict",
    "available_rewards",
    "check_rows",
    "get_reward",
    "get_rewards",
    "verify",
]
