"""What a `ppo` stage comes to over all its steps, in lines for people: draws, updates, most tokens, schedules."""

from __future__ import annotations

from reasonrl.recipe.ppo_stage import PPOStage
from reasonrl.recipe.schedules import MixSchedule, Schedule


def run_lines(stage: PPOStage) -> list[str]:
    """`run: 900 steps x 512 prompts = 460,800 prompt draws, …`, and one line a schedule."""
    steps, prompts = stage.max_steps, stage.prompts_per_step
    samples = prompts * stage.num_generations
    critic = stage.critic_steps if stage.advantage == "gae" else 0
    lengths = None if stage.schedules is None else stage.schedules.max_completion_length
    updates = f"{steps * stage.actor_steps * stage.num_iterations:,} policy"
    updates += f" and {steps * critic:,} critic updates" if critic else " updates"
    lines = [
        f"run: {steps:,} steps x {prompts:,} prompts = {steps * prompts:,} prompt draws, {steps * samples:,} samples,"
        f" {updates}; {_most_tokens(stage, lengths, samples)}"
    ]
    for name in () if stage.schedules is None else type(stage.schedules).model_fields:
        one = getattr(stage.schedules, name)
        if one is not None:
            lines.append(f"schedule {name}: {_told(one)}")
    return lines


def _most_tokens(stage: PPOStage, lengths: Schedule | None, samples: int) -> str:
    most = stage.max_completion_length * samples * stage.max_steps
    if lengths is not None and lengths.at is not None and lengths.between == "step":
        ends = [*(min(step, stage.max_steps) for step in lengths.at), stage.max_steps]
        starts = [0, *ends[:-1]]
        spans = zip(starts, ends, lengths.values, strict=True)
        most = sum(int(value) * samples * (end - start) for start, end, value in spans)
    return f"at most {most:,} response tokens"


def _told(one: Schedule | MixSchedule) -> str:
    if isinstance(one, MixSchedule):
        shares = [", ".join(f"{name} {weight:g}" for name, weight in phase.items()) for phase in one.weights]
        return _phases(shares, one.at) + f" (by {one.column})"
    values = [f"{value:,.0f}" if value >= 100 else f"{value:g}" for value in one.values]
    if one.plateau is not None:
        rule = one.plateau
        when = f"{rule.metric} rises by at most {rule.rise:.0%} over {rule.window} steps"
        return f"{', '.join(values)}; the next when {when}"
    assert one.at is not None, "the schema asks for one of both"
    if one.between == "linear":
        return "straight lines through " + ", ".join(f"{v} at step {s}" for v, s in zip(values, one.at, strict=True))
    return _phases(values, one.at)


def _phases(values: list[str], at: tuple[int, ...]) -> str:
    parts = [f"{value} to step {step}" for value, step in zip(values, at, strict=False)]
    return ", ".join([*parts, f"then {values[-1]}" if parts else values[-1]])
