"""Plans: sizes against public counts and real models, memory against sums by hand, batch arithmetic of every recipe."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from reasonrl.cli import main
from reasonrl.errors import ModelError, RunError
from reasonrl.plan import GPUS, Efficiency, ModelShape, shape_of_config
from reasonrl.plan.command import load_without_data, recipe_report
from reasonrl.plan.hardware import GB, parse_gpu
from reasonrl.plan.memory import Setting, Trained, activation_bytes, longest_sequence, training_memory
from reasonrl.plan.recipe_plan import Hardware, plan_recipe
from reasonrl.plan.shapes import public_shape
from reasonrl.plan.timing import Lengths, StepWork, decode_seconds, training_seconds
from reasonrl.recipe import shipped_recipes

#: What the checkpoints' own files add up to.
COUNTS = {
    "Qwen/Qwen2.5-0.5B-Instruct": 494_032_768,
    "Qwen/Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B": 14_770_033_664,
    "Qwen/Qwen2.5-32B-Instruct": 32_763_876_352,
    "Qwen/Qwen2.5-72B": 72_706_203_648,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": 1_777_088_000,
    "Qwen/Qwen2.5-VL-7B-Instruct": 8_292_166_656,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
}
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "tie_word_embeddings": False,
}
ORZ = ["model=Qwen/Qwen2.5-7B", "stages.rl.prompts_per_step=128", "stages.rl.num_generations=64", "stages.rl.bf16=true"]
ORZ += ["stages.rl.max_completion_length=8000", "stages.rl.max_prompt_length=2048", "stages.rl.critic_steps=16"]
ORZ += ["stages.rl.gradient_checkpointing=true"]


@pytest.mark.parametrize("name", COUNTS)
def test_public_checkpoints_have_their_parameters(name):
    assert public_shape(name).parameters == COUNTS[name]


def test_a_model_that_nothing_is_known_of_is_refused_with_the_nearest():
    with pytest.raises(ModelError, match=r"Qwen2\.5-7B"):
        public_shape("Qwen/Qwen2.5-7BB")


@pytest.fixture(scope="module", params=["qwen2", "qwen3", "llama"])
def small(request):
    """A real model with its config's shape."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(request.param, **SMALL, **({"head_dim": 16} if request.param == "qwen3" else {}))
    return AutoModelForCausalLM.from_config(config), shape_of_config(config.to_dict())


def test_parameters_of_a_config_are_the_models(small):
    model, shape = small
    assert shape.parameters == sum(one.numel() for one in model.parameters())


def test_lora_parameters_are_pefts(small):
    from peft import LoraConfig, get_peft_model

    model, shape = small
    import copy

    adapted = get_peft_model(copy.deepcopy(model), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    trained = sum(one.numel() for one in adapted.parameters() if one.requires_grad)
    assert shape.linear_parameters(4) == trained


def test_activations_are_what_autograd_keeps(small):
    """Bytes of the tensors that a forward pass saves, each storage once, parameters left out."""
    import torch

    model, shape = small
    kept: dict[int, int] = {}
    own = {one.untyped_storage().data_ptr() for one in model.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens = 256
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model.model(input_ids=torch.arange(tokens).remainder(96)[None], use_cache=False)
    assert out.last_hidden_state.shape[1] == tokens
    planned = activation_bytes(Trained(shape), Setting(microbatch_tokens=tokens))
    assert planned == pytest.approx(sum(kept.values()), rel=0.12)


def test_memory_by_hand():
    shape = ModelShape(64, 160, 2, 4, 2, 100, tied=True)
    model, count = Trained(shape), shape.parameters
    alone = training_memory(model, Setting(microbatch_tokens=1))
    assert alone.held == {"policy weights": 4 * count, "policy optimizer": 8 * count}
    assert alone.phases["policy update"]["gradients"] == 4 * count
    for zero, bytes_each in ((0, 16), (1, 8 + 8 / 4), (2, 4 + 12 / 4), (3, 16 / 4)):
        memory = training_memory(model, Setting(processes=4, zero=zero, microbatch_tokens=1))
        parts = memory.parts
        held = parts["policy weights"] + parts["policy optimizer"] + parts["gradients"]
        assert held == pytest.approx(bytes_each * count)
    both = training_memory(model, Setting(microbatch_tokens=1), critic=Trained(shape, head=True))
    # Gradients are cleared after each model's update: never both at once.
    assert both.peak - alone.peak == pytest.approx(12 * count)
    lora = training_memory(Trained(shape, adapter=1000, base="bfloat16"), Setting(microbatch_tokens=1))
    assert lora.held["policy weights"] == 2 * count + 4 * 1000 and lora.held["policy optimizer"] == 8000


def test_checkpointing_keeps_one_layer_and_the_inputs():
    shape = public_shape("Qwen2.5-7B")
    whole = activation_bytes(Trained(shape), Setting(half=True, microbatch_tokens=1000))
    kept = activation_bytes(Trained(shape), Setting(half=True, checkpointing=True, microbatch_tokens=1000))
    assert 12 < whole / kept < 28
    room = 20 * GB
    setting = Setting(half=True, checkpointing=True)
    longest = longest_sequence(room, Trained(shape), setting)
    held = training_memory(Trained(shape), replace(setting, microbatch_tokens=longest)).phases["policy update"]
    assert held["activations"] + held["logits"] == pytest.approx(room, rel=1e-3)


def test_time_by_hand():
    shape, gpu, share = public_shape("Qwen2.5-7B"), GPUS["h100-80"], Efficiency()
    work = StepWork(100, Lengths(1000, 1000, 0), policy_reads=0)
    seconds = training_seconds(work, shape, None, gpu, 8, share)
    bare = 6 * shape.multiplied * 100_000 / (8 * gpu.flops * share.train)
    assert bare < seconds["policy update"] < 1.1 * bare  # attention comes on top
    again = training_seconds(replace(work, checkpointing=True), shape, None, gpu, 8, share)
    assert again["policy update"] == pytest.approx(seconds["policy update"] * 4 / 3)
    alone, _ = decode_seconds(replace(work, samples=1), shape, gpu, 1, 1, 30 * GB, share)
    each = 2 * shape.multiplied / (gpu.bandwidth * share.decode)
    assert alone == pytest.approx(1000 * each, rel=0.01)
    many, at_once = decode_seconds(work, shape, gpu, 1, 1, 30 * GB, share)
    assert at_once == 100 and many < 3 * alone
    long_tail, _ = decode_seconds(replace(work, lengths=Lengths(1000, 9000, 0)), shape, gpu, 1, 1, 30 * GB, share)
    assert long_tail == pytest.approx(many + 8000 * each, rel=0.01)


@pytest.mark.parametrize("name", [name for name in shipped_recipes() if not name.startswith("mini/")])
def test_the_table_knows_the_model_of_every_full_recipe(name):
    assert plan_recipe(load_without_data(name, []), Hardware(GPUS["h100-80"], 64))


@pytest.mark.parametrize("name", shipped_recipes())
def test_batch_arithmetic_of_every_recipe(name):
    resolved = load_without_data(name, [])
    for gpus in (1, 6, 64):
        for plan in plan_recipe(resolved, Hardware(GPUS["h100-80"], gpus), fallback="Qwen/Qwen2.5-7B"):
            stage = resolved.recipe.stages[plan.name.split(".")[0]]
            if stage.kind != "ppo":
                continue
            assert plan.batch is not None and plan.best is not None and plan.work is not None
            samples = stage.prompts_per_step * stage.num_generations
            assert plan.batch.samples == plan.work.samples == samples
            assert plan.batch.samples_per_process * plan.best.trainers == samples
            assert plan.batch.samples_per_critic_step * stage.critic_steps == samples
            assert plan.batch.samples_per_actor_step * stage.actor_steps == samples
            assert plan.best.trainers + plan.best.servers <= gpus
            assert f"num_processes: {plan.best.trainers}" in plan.best.launch


def orz(gpus: int, gpu: str = "h100-80", **options) -> dict:
    text = recipe_report("text_rl", ORZ, gpus=gpus, gpu=gpu, mean_length=2000, as_json=True, **options)
    return json.loads(text)["stages"][0]


def test_open_reasoner_zero_7b_fits_the_machines_it_was_trained_on():
    """Published: 4 machines of 8 devices, all roles on each device, 0.7 to 0.75 of the memory for the engine."""
    stage = orz(32)
    best = stage["placements"][0]
    assert stage["fits"] and best["name"] == "colocated" and best["trainers"] == 32
    assert 0.55 < best["memory"]["engine"] / GPUS["h100-80"].memory < 0.8
    assert not orz(1)["fits"] and not orz(2)["fits"]


def test_what_does_not_fit_says_so_with_the_numbers():
    said = recipe_report("text_rl", [*ORZ, "stages.rl.gradient_checkpointing=false"], gpus=8, gpu="a10-24")
    assert "! does not fit 8 x a10-24" in said
    long = recipe_report("text_rl", [*ORZ, "stages.rl.max_completion_length=400000"], gpus=64, gpu="h100-80")
    assert "! a sequence of 402048 tokens does not fit" in long and "no sequence parallelism" in long


def test_negative_samples_on_64_devices_take_the_published_hours_at_a_low_share():
    """Published: about 14 h for 8 passes over 470 M tokens with a 14 B model on 64 devices."""
    shape, tokens = public_shape("DeepSeek-R1-Distill-Qwen-14B"), 470e6 / 66208
    work = StepWork(512, Lengths(tokens, 22000, 0), policy_reads=0, checkpointing=True)
    seconds = sum(training_seconds(work, shape, None, GPUS["h100-80"], 64, Efficiency()).values())
    hours = seconds * 8 * 66208 / 512 / 3600
    assert 4.5 < hours < 8  # what 35 % of the peak would take; 14 h are 15 % of it
    assert 0.12 < 0.35 * hours / 14 < 0.20


def test_command_options():
    run = CliRunner()
    arguments = ["plan", "gpu24", "--gpus", "1", "--gpu", "rtx4090-24", "--json"]
    out = json.loads(run.invoke(main, arguments).output)
    assert out["stages"][0]["fits"] and out["hardware"]["gpus"] == 1
    assert run.invoke(main, ["plan", "gpu24"]).exit_code == 2
    assert run.invoke(main, ["plan"]).exit_code == 2
    wrong = run.invoke(main, [*arguments, "--efficiency", "train=2"])
    assert wrong.exit_code == 2 and "train" in wrong.output
    with pytest.raises(RunError, match="h100-80"):
        parse_gpu("h100")
    assert parse_gpu("mine:48:200:1.5").flops == 200e12


def test_lengths_of_a_log_and_a_picture(tmp_path):
    rows = [{"length": 100 * (place + 1), "problem_id": "a"} for place in range(4)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    picture = tmp_path / "plan.png"
    arguments = ["plan", "gpu24", "--gpus", "8", "--rollout-log", str(tmp_path / "log.jsonl"), "--plot", str(picture)]
    done = CliRunner().invoke(main, arguments)
    assert "+ 250 tokens (longest 400)" in done.output, done.output
    assert picture.read_bytes().startswith(b"\x89PNG")
