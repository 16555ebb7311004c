"""Judge rewards: a model behind an OpenAI-compatible endpoint says how good a response is.

reward = LLMVerifierReward(endpoint={"base_url": "http://localhost:8000/v1", "model": "judge"}, votes=3)
reward(prompts, completions, answer=golds)
"""

from reasonrl.rewards.judges.checklist import ChecklistReward, checklist_score
from reasonrl.rewards.judges.pairwise import PairwiseReward
from reasonrl.rewards.judges.verifier import LLMVerifierReward

__all__ = ["ChecklistReward", "LLMVerifierReward", "PairwiseReward", "checklist_score"]
