"""Running untrusted Python programs: one locked-down process tree for each program.

`host` is our side of it; `setup`, `seccomp`, `serve` and `programs` run inside.
"""

from reasonrl.rewards.sandbox.host import Isolation, Limits, Outcome, Sandbox, isolation

__all__ = ["Isolation", "Limits", "Outcome", "Sandbox", "isolation"]
