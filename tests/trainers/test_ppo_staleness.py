"""Overlap of steps: whose weights drew which sample, and what a stop, an error or a resume makes of samples ahead."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import time

import pytest
import torch
from helpers import even_share, make_run, movement_gap

from reasonrl.errors import ModelError
from reasonrl.rollout import Request, SamplingParams, build_engine
from reasonrl.rollout.stamps import STAMP_COLUMNS
from reasonrl.trainers.checkpoints import latest_complete
from reasonrl.trainers.drawing import Drawing, Order
from reasonrl.trainers.sampler import PromptStream

AHEAD = {"max_staleness": 1, "own_copy": True}


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("reasonrl-draw")]


def timeless(lines):
    return [{k: v for k, v in line.items() if not k.startswith(("time/", "rate/", "memory/"))} for line in lines]


def untimed(samples):
    return {
        step: [{name: value for name, value in row.items() if name not in STAMP_COLUMNS} for row in rows]
        for step, rows in samples.items()
    }


def test_each_sample_is_one_step_old_and_knows_it(tmp_path):
    run = make_run(tmp_path, max_steps=4, **AHEAD)
    drawn, original = [], run.trainer.engine.stream

    def keep(requests, params):
        weights = {name: tensor.clone() for name, tensor in run.trainer.engine.model.state_dict().items()}
        drawn.append((threading.current_thread() is threading.main_thread(), weights))
        return original(requests, params)

    policies = [run.start]
    run.trainer.engine.stream = keep
    run.trainer._on_completions = lambda step, samples: policies.append(
        {name: tensor.clone() for name, tensor in run.policy.state_dict().items()}
    )
    run.trainer.train()
    assert [here for here, _ in drawn] == [True, False, False, False], "nothing is drawn after the last step"
    # Steps 1 and 2 are drawn by the start's weights, 3 by those after step 1, 4 by those after step 2. (The completions
    # of a step are handed out before the last optimizer step, so entry k holds the weights that step k began with.)
    for (_, weights), policy in zip(drawn, [policies[1], policies[1], policies[2], policies[3]], strict=True):
        assert all(torch.equal(weights[name], policy[name]) for name in policy)
    assert not all(torch.equal(policies[2][name], policies[3][name]) for name in run.start)
    assert [line["rollout/staleness_mean"] for line in run.metrics] == [0, 1, 1, 1]
    assert [line["rollout/staleness_max"] for line in run.metrics] == [0, 1, 1, 1]
    assert ["time/generate_ahead" in line for line in run.metrics] == [False, True, True, True]
    assert threads() == []


def test_without_overlap_an_engine_of_its_own_changes_nothing(tmp_path):
    """The same samples, weights and metrics, to the last bit."""
    own = make_run(tmp_path / "a", max_steps=3, own_copy=True)
    shared = make_run(tmp_path / "b", max_steps=3)
    for run in (own, shared):
        run.trainer.train()
    for one, other in zip(timeless(own.metrics), timeless(shared.metrics), strict=True):
        # The copy lies elsewhere in memory, so its forward passes may round otherwise.
        assert max(line.pop("sampling/logprob_difference") for line in (one, other)) < 1e-6
        one.pop("rollout/sync_mb", None), other.pop("rollout/sync_mb", None)
        assert one == other
    assert untimed(own.samples) == untimed(shared.samples)
    assert [line["rollout/staleness_max"] for line in own.metrics] == [0, 0, 0]
    assert all(torch.equal(a, b) for a, b in zip(own.policy.parameters(), shared.policy.parameters(), strict=True))


def test_figures_are_those_of_the_batch_that_is_trained(tmp_path):
    """What an engine says of itself while the next batch is being drawn is about that one."""
    run = make_run(tmp_path, max_steps=3, **AHEAD)
    engine = run.trainer.engine
    original, begun = engine.stream, []

    def counted(requests, params):
        begun.append(1)
        return original(requests, params)

    engine.stream = counted
    engine.figures = lambda: {"servers/batches": float(len(begun))}
    engine.metrics = lambda figures=None: dict(engine.figures() if figures is None else figures)
    run.trainer.train()
    assert [line["servers/batches"] for line in run.metrics] == [1, 2, 3]


def test_what_was_begun_and_not_taken_is_given_up_at_the_end(tmp_path):
    class Begins:
        __name__ = "begins"
        kept = ended = 0

        def begin(self, prompt, completion, row):
            self.kept += 1

        def forget(self):
            self.kept, self.ended = 0, self.ended + 1

        def __call__(self, completions, completion_ids, **columns):
            return even_share(completions, completion_ids)

    reward = Begins()
    run = make_run(tmp_path, rewards=(reward,), max_steps=3, stop=lambda: True, **AHEAD)
    run.trainer.train()
    assert len(run.metrics) == 1 and reward.kept == 0 and reward.ended == 1


def test_dropout_beside_an_engine_that_sets_the_generator_back_is_refused():
    from reasonrl.models import load_policy
    from reasonrl.rollout.vllm_engine import VLLMEngine
    from reasonrl.trainers.sampling_watch import refuse_dropout

    def policy(dropout):
        model, _ = load_policy("tiny:qwen2")
        model.config.attention_dropout = dropout
        return model

    cpu, wet = torch.device("cpu"), policy(0.1)
    with pytest.raises(ModelError, match="masks repeat"):
        refuse_dropout(VLLMEngine, (wet, None), cpu)
    refuse_dropout(object(), (wet, None), cpu)
    refuse_dropout(VLLMEngine, (policy(0.0), None), cpu)
    refuse_dropout(VLLMEngine, (wet, None), torch.device("cuda"))


def test_the_next_batch_is_known_ahead():
    stream = PromptStream(5, prompts_per_step=3, num_generations=2, steps=9, seed=1)
    whole = list(stream)
    assert [stream.batch(step) for step in range(9)] == [whole[6 * step : 6 * step + 6] for step in range(9)]
    small = PromptStream(2, prompts_per_step=7, num_generations=1, steps=3, seed=0)
    assert [index for step in range(3) for index in small.batch(step)] == list(small)


def test_drawing_and_training_happen_at_once(tmp_path):
    """Each step sleeps in its reward while the engine sleeps in its stream: together they take as long as one."""
    nap, steps = 0.4, 4

    def slow(completions, completion_ids, **columns):
        time.sleep(nap)
        return even_share(completions, completion_ids)

    def wall(**settings):
        run = make_run(tmp_path / str(settings["max_staleness"]), rewards=(slow,), max_steps=steps, **settings)
        original = run.trainer.engine.stream

        def napping(requests, params):
            time.sleep(nap)
            yield from original(requests, params)

        run.trainer.engine.stream = napping
        run.trainer.train()
        return [line["time/step"] for line in run.metrics]

    alone, together = wall(max_staleness=0, own_copy=True), wall(**AHEAD)
    assert min(alone) > 2 * nap
    assert sum(alone[1:]) - sum(together[1:]) > 0.6 * nap * (steps - 1)


@pytest.mark.parametrize("slow", [False, True])
def test_a_stop_does_not_wait_for_samples_and_a_resume_goes_on_exactly(tmp_path, slow):
    """Samples that are all in are written; a drawing that is not at its end is ended, and what it drew with is kept."""
    settings = {**AHEAD, "max_steps": 6, "save_strategy": "steps", "save_steps": 100, "actor_steps": 2}
    settings |= {"eval_rows": 3, "eval_strategy": "steps", "eval_steps": 4}
    whole = make_run(tmp_path / "whole", **settings)
    whole.trainer.train()
    asked = []

    def stop():
        if first.trainer.state.global_step < 2:
            return False
        if not slow:
            first.trainer.drawing.settle()
        asked.append(time.monotonic())
        return True

    first = make_run(tmp_path / "parts", stop=stop, **settings)
    if slow:
        decode, streams = first.trainer.engine._advance, []
        stream = first.trainer.engine.stream
        first.trainer.engine.stream = lambda requests, params: (streams.append(1), stream(requests, params))[1]
        # The third drawing, that of step 3, would take half a minute.
        first.trainer.engine._advance = lambda *given: (time.sleep(2.0 * (len(streams) == 3)), decode(*given))
    first.trainer.train()
    assert time.monotonic() - asked[0] < 20 and threads() == []
    step, checkpoint = latest_complete(tmp_path / "parts")
    record = json.loads((checkpoint / "drawn" / "rank_0.json").read_text())
    there = {"step": None, "ranks": 1, "samples": 0, "ended": 2} if slow else {"step": 2, "ranks": 1, "samples": 8}
    assert step == 2 and record == there
    assert (checkpoint / "drawn" / "weights").exists() is slow
    second = make_run(tmp_path / "parts", **settings)
    second.trainer.train(resume_from_checkpoint=str(checkpoint))
    ours, theirs = timeless(first.metrics + second.metrics), timeless(whole.metrics)
    assert ours == theirs
    assert untimed({**first.samples, **second.samples}) == untimed(whole.samples)
    assert all(torch.equal(a, b) for a, b in zip(whole.policy.parameters(), second.policy.parameters(), strict=True))
    assert [line["rollout/staleness_max"] for line in second.metrics] == [1, 1, 1, 1]


def test_without_the_weights_that_drew_a_resume_draws_by_its_own(tmp_path, caplog):
    settings = {**AHEAD, "max_steps": 4, "save_strategy": "steps", "save_steps": 100}
    first = make_run(tmp_path, stop=lambda: first.trainer.state.global_step >= 2, **settings)
    decode = first.trainer.engine._advance
    first.trainer.engine._advance = lambda *given: (time.sleep(0.3), decode(*given))
    first.trainer.engine.held_weights = lambda: None
    first.trainer.train()
    assert "cannot give the weights that drew" in caplog.text
    second = make_run(tmp_path, **settings)
    second.trainer.train(resume_from_checkpoint=True)
    assert [line["rollout/staleness_max"] for line in second.metrics] == [0, 1]


def test_a_checkpoint_that_lost_its_samples_is_refused(tmp_path):
    settings = {**AHEAD, "save_strategy": "steps", "save_steps": 1}
    run = make_run(tmp_path, max_steps=2, **settings)
    run.trainer.train()
    assert json.loads((tmp_path / "checkpoint-2" / "drawn" / "rank_0.json").read_text())["step"] is None
    (tmp_path / "checkpoint-1" / "drawn" / "rank_0.json").write_text('{"step": 5, "ranks": 1, "samples": 8}')
    with pytest.raises(ModelError, match="for step 6, not for step 2"):
        make_run(tmp_path, max_steps=3, **settings).trainer.train(str(tmp_path / "checkpoint-1"))
    shutil.rmtree(tmp_path / "checkpoint-1" / "drawn")
    with pytest.raises(ModelError, match="holds no samples drawn ahead"):
        make_run(tmp_path, max_steps=3, **settings).trainer.train(str(tmp_path / "checkpoint-1"))
    longer = make_run(tmp_path, max_steps=3, **settings)
    longer.trainer.train(str(tmp_path / "checkpoint-2"))
    assert [line["rollout/staleness_max"] for line in longer.metrics] == [0], "after the old end nothing was drawn"


def test_samples_of_another_seed_are_refused(tmp_path):
    settings = {**AHEAD, "save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    make_run(tmp_path, **settings).trainer.train()
    with pytest.raises(ModelError, match="answer other requests"):
        make_run(tmp_path, seed=1, **settings).trainer.train(str(tmp_path / "checkpoint-1"))


@pytest.mark.parametrize("where", ["drawing", "scoring"])
def test_an_error_ends_the_step_and_leaves_no_thread(tmp_path, where):
    run = make_run(tmp_path, max_steps=4, save_strategy="steps", save_steps=1, **AHEAD)
    original, streams = run.trainer.engine.stream, []

    def broken(requests, params):
        streams.append(len(requests))
        for number, sample in enumerate(original(requests, params)):
            if where == "drawing" and len(streams) == 3 and number == 2:
                raise OSError("the engine is gone")
            yield sample
            time.sleep(0.02)

    run.trainer.engine.stream = broken
    if where == "scoring":
        run.trainer._refuse_unscored = lambda batch: (_ for _ in ()).throw(OSError("the reward is gone"))
    with pytest.raises(OSError, match="is gone"):
        run.trainer.train()
    assert threads() == []
    if where == "drawing":
        # The samples of step 3 failed while step 2 trained: step 2 is there, and its checkpoint says what it lacks.
        assert [line["step"] for line in run.metrics] == [1, 2]
        step, checkpoint = latest_complete(tmp_path)
        assert step == 2 and json.loads((checkpoint / "drawn" / "rank_0.json").read_text())["step"] is None


def test_ctrl_c_ends_the_thread(tmp_path):
    def interrupted(completions, **columns):
        raise KeyboardInterrupt

    run = make_run(tmp_path, rewards=(interrupted,), **AHEAD)
    with contextlib.suppress(KeyboardInterrupt):
        run.trainer.train()
    assert threads() == []
    assert run.trainer.drawing.holds(1) is False


def test_samples_that_are_too_old_are_refused(tmp_path):
    run = make_run(tmp_path, max_steps=4, **AHEAD)
    original, seen = run.trainer.engine.sync_weights, []

    def forgetful(weights, version):
        seen.append(version)
        original(weights, min(version, 1))

    run.trainer.engine.sync_weights = forgetful
    with pytest.raises(ModelError, match=r"step 4 was drawn by weights of version 1, 2 steps older.*max_staleness = 1"):
        run.trainer.train()
    assert seen == [0, 1, 2, 3]


def test_an_engine_that_is_the_policy_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"policy's own module.*own_copy"):
        make_run(tmp_path, max_staleness=1)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_staleness": 2}, "max_staleness = 2, allowed are 0"),
        ({"max_staleness": -1}, "max_staleness = -1, allowed are 0"),
        ({**AHEAD, "top_p": 0.9}, "a nucleus is another one"),
        (
            {"vllm_importance_sampling_correction": True, "vllm_importance_sampling_mode": "none"},
            "allowed are 'token_tr",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, settings, says):
    with pytest.raises(ValueError, match=says):
        make_run(tmp_path, **settings)


def test_the_correction_is_on_with_staleness_and_off_without(tmp_path):
    ahead, plain = make_run(tmp_path / "a", **AHEAD), make_run(tmp_path / "b")
    assert ahead.trainer.args.vllm_importance_sampling_correction is True
    assert plain.trainer.args.vllm_importance_sampling_correction is False


@pytest.mark.parametrize("mode", ["token_truncate", "sequence_mask"])
def test_the_correction_between_equal_policies_changes_next_to_nothing(tmp_path, mode):
    """At staleness 0 the ratios are 1 but for rounding."""
    on = make_run(
        tmp_path / "a", vllm_importance_sampling_correction=True, vllm_importance_sampling_mode=mode, actor_steps=2
    )
    off = make_run(tmp_path / "b", actor_steps=2)
    for run in (on, off):
        run.trainer.train()
    assert movement_gap(on.start, on.policy.state_dict(), off.policy.state_dict()) < 1e-3
    kind = "truncated" if mode == "token_truncate" else "dropped"
    for line in on.metrics:
        assert line["sampling/importance_ratio_mean"] == pytest.approx(1, abs=1e-4)
        assert line["sampling/importance_ratio_max"] == pytest.approx(1, abs=1e-3)
        assert line[f"sampling/importance_{kind}_fraction"] == 0
    assert not any(name.startswith("sampling/importance") for name in off.metrics[0])


def test_what_the_mask_drops_gives_no_gradient(tmp_path):
    """A mask that nothing passes leaves the policy where it is, and says so."""
    settings = {"vllm_importance_sampling_correction": True, "vllm_importance_sampling_mode": "token_mask"}
    run = make_run(tmp_path, learning_rate=0.1, max_steps=1, **settings)
    original = run.trainer.update.logprobs
    run.trainer.update.logprobs = lambda model, batch, *rest: original(model, batch, *rest) + 1.0
    run.trainer.train()
    assert run.metrics[0]["sampling/importance_dropped_fraction"] == 1
    assert run.metrics[0]["sampling/importance_ratio_mean"] == pytest.approx(2.718281828, rel=1e-4)
    assert max(run.moved().values()) == 0


def test_samples_arrive_in_the_thread_that_draws_them(tmp_path):
    """The hook for what starts on single samples: called for each once, before its step asks for it."""
    run = make_run(tmp_path, max_steps=3, **AHEAD)
    seen = []
    run.trainer.drawing.arrived = lambda order, sample: seen.append(
        (order.step, int(sample.request.id), threading.current_thread() is threading.main_thread())
    )
    run.trainer.train()
    assert sorted((step, place) for step, place, _ in seen) == [(s, p) for s in range(3) for p in range(8)]
    assert {(step, main) for step, _, main in seen} == {(0, True), (1, False), (2, False)}


def test_closing_ends_a_drawing_before_its_time():
    class Slow:
        ended = False

        def stream(self, requests, params):
            try:
                while True:
                    time.sleep(0.01)
                    yield from ()
                    yield build_sample(requests[0])
            finally:
                self.ended = True

    from reasonrl.rollout import Sample

    def build_sample(request):
        return Sample(request, (1,), "", (0.0,), "stop", 0)

    engine = Slow()
    drawing = Drawing(engine, 1)
    drawing.start(Order(1, [{"id": 0}], [Request("0", (1,), 0)], SamplingParams(4)))
    assert drawing.holds(1) and not drawing.holds(0)
    time.sleep(0.05)
    started = time.monotonic()
    drawing.close()
    assert time.monotonic() - started < 20 and engine.ended and threads() == [] and not drawing.holds(1)


def test_a_copy_takes_all_weights_or_none():
    from helpers import TINY

    from reasonrl.models import load_policy
    from reasonrl.models.weights import checkpoint_weights

    policy, tokenizer = load_policy(TINY)
    engine = build_engine("transformers", policy, tokenizer, own_copy=True)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.5)
    names = [name for name, _ in checkpoint_weights(policy)]
    own = dict(engine.model.named_parameters())
    assert not any(torch.equal(own[name], tensor) for name, tensor in checkpoint_weights(policy))
    with pytest.raises(ModelError, match=rf"1 weights were not given: {names[-1]}"):
        engine.sync_weights(list(checkpoint_weights(policy))[:-1], 1)
    engine.sync_weights(checkpoint_weights(policy), 2)
    assert engine.weight_version == 2
    assert all(torch.equal(own[name], tensor) for name, tensor in checkpoint_weights(policy))
    assert not any(parameter.requires_grad for parameter in engine.model.parameters())
