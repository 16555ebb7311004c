"""Cognitive behaviours in responses: counts by a judge and by patterns, rates, and how they carry over from language to
vision.

Source: OVR (arXiv 2507.05255), sections 2 and 5.2, App. C. Prompts, definitions, patterns and intervals are ours.
"""

from reasonrl.eval.behaviours.agreement import Agreement, agreement, cohens_kappa
from reasonrl.eval.behaviours.catalogue import Behaviour, Catalogue, Pair, read_catalogue
from reasonrl.eval.behaviours.lexical import lexical_count
from reasonrl.eval.behaviours.rates import Rate, Transfer, behaviour_rate, shares, transfer_rate

__all__ = [
    "Agreement",
    "Behaviour",
    "Catalogue",
    "Pair",
    "Rate",
    "Transfer",
    "agreement",
    "behaviour_rate",
    "cohens_kappa",
    "lexical_count",
    "read_catalogue",
    "shares",
    "transfer_rate",
]
