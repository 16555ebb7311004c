"""PaCoRe: reasoning in coordinated rounds (arXiv 2601.05593), as an algorithm, a batch command and a server.

plan = Plan(rounds=(32, 4))
outcome = client.run(run_rounds(Rounds([{"role": "user", "content": "1+1?"}], plan, seed=0), asking(client, 1.0, 1.0)))
"""

from reasonrl.pacore.compaction import Compacted, get_compaction
from reasonrl.pacore.errors import PacoreError, RoundFailed
from reasonrl.pacore.over_endpoint import asking, run_rounds
from reasonrl.pacore.plan import LEVELS, Fit, Plan, read_rounds
from reasonrl.pacore.rounds import Answer, Call, Failure, Outcome, RoundRecord, Rounds
from reasonrl.pacore.synthesis import SynthesisPrompt

__all__ = [
    "LEVELS",
    "Answer",
    "Call",
    "Compacted",
    "Failure",
    "Fit",
    "Outcome",
    "PacoreError",
    "Plan",
    "RoundFailed",
    "RoundRecord",
    "Rounds",
    "SynthesisPrompt",
    "asking",
    "get_compaction",
    "read_rounds",
    "run_rounds",
]
