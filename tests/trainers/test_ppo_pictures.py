"""PPO with a critic on pictures and text: gradients against a plain script, one trajectory however it is split, planted
faults, and what is refused before training.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import io
from pathlib import Path

import pytest
import torch
from helpers import movement_gap
from PIL import Image
from vision_runs import KINDS, critic_of, image_of, load, make_vision_run, png, rows

from reasonrl.data_tools.pictures import with_pictures
from reasonrl.errors import DataError, ModelError
from reasonrl.models import ScalarHeadModel, load_policy, tiny_path
from reasonrl.trainers import row_prompts as row_prompts_module
from reasonrl.trainers.checkpoint_names import has_other_names, load_by_names

ALL = list(KINDS)
PROMPTS_OF_A_STEP = {"prompts_per_step": 8, "num_generations": 1, "max_steps": 1}


def load_oracle():
    path = Path(__file__).parents[1] / "oracles" / "vision_update.py"
    spec = importlib.util.spec_from_file_location("vision_update", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def gradient_gap(ours, theirs):
    """||a - b|| / ||b|| over all parameters; one that has no gradient has a zero one."""
    gap = sum(
        float(((0 if ours.get(n) is None else ours[n]) - (0 if g is None else g)).square().sum())
        for n, g in theirs.items()
        if g is not None or ours.get(n) is not None
    )
    size = sum(float(g.square().sum()) for g in theirs.values() if g is not None)
    return (gap / size) ** 0.5


def first_update(folder, kind, **settings):
    """The gradients of the first update of a run in float64, and the samples that it trained on."""
    run = make_vision_run(
        folder, kind, dtype=torch.float64, normalize_advantages=True, max_grad_norm=0.0, **PROMPTS_OF_A_STEP, **settings
    )
    caught = {}
    trainer, update = run.trainer, run.trainer.update

    def policy_gradient(model, *rest):
        loss = original(model, *rest)
        caught["policy"] = {n: p.grad.clone() for n, p in run.policy.named_parameters() if p.grad is not None}
        return loss

    def critic_step():
        caught["critic"] = {n: p.grad.clone() for n, p in run.critic.named_parameters() if p.grad is not None}
        return step()

    def keep(collected, *rest):
        caught["collected"], caught["batch"] = collected, rest[0]
        return record(collected, *rest)

    original, update.train_policy = update.train_policy, policy_gradient
    step, trainer.critic.step = trainer.critic.step, critic_step
    record, trainer._record = trainer._record, keep
    trainer.train()
    return run, caught


def oracle_gradients(run, caught, kind):
    policy, processor = load(kind, torch.float64)
    critic = critic_of(policy, torch.float64)
    policy.load_state_dict(run.start)
    critic.load_state_dict(run.critic_start)
    # The row's own bytes, opened here: not what the trainer made of them.
    samples = [
        (
            list(sample.request.prompt_ids),
            list(sample.token_ids),
            [Image.open(io.BytesIO(picture)).convert("RGB") for picture in row["images"] or ()],
        )
        for row, sample in zip(caught["collected"].rows, caught["collected"].samples, strict=True)
    ]
    return load_oracle().gradients(policy, critic, processor, samples, caught["batch"].scores.tolist())


def gaps(run, caught, kind):
    theirs = oracle_gradients(run, caught, kind)
    return [gradient_gap(caught[name], own) for name, own in zip(("policy", "critic"), theirs, strict=True)]


@pytest.mark.parametrize("kind", ALL)
def test_the_gradients_are_those_of_a_plain_script(tmp_path, kind):
    run, caught = first_update(tmp_path, kind, tokens_per_microbatch=60)
    assert max(gaps(run, caught, kind)) < 1e-6, "pixels are read in single precision"
    for name in ("policy", "critic"):
        towers = [n for n in caught[name] if "visual" in n or "vision" in n]
        assert towers and any(float(caught[name][n].abs().max()) > 0 for n in towers), "pictures take part"
    pictured = [sample.request.images for sample in caught["collected"].samples]
    assert sorted(map(len, pictured)) == [0, 0, 1, 1, 1, 1, 1, 2]


def shuffled_images(monkeypatch):
    """Each sample gets the features of the next row that has as many picture tokens."""
    original = row_prompts_module.RowPrompts.features

    def shuffled(self, some, samples):
        given = original(self, some, samples)
        places = [i for i, sample in enumerate(samples) if len(sample.request.images) == 1]
        features = [given[i] for i in places]
        for place, other in zip(places, features[1:] + features[:1], strict=True):
            given[place] = other
        return given

    monkeypatch.setattr(row_prompts_module.RowPrompts, "features", shuffled)


def test_images_shuffled_between_rows_are_caught(tmp_path, monkeypatch):
    shuffled_images(monkeypatch)
    run, caught = first_update(tmp_path, "llava", max_logprob_gap=100.0)
    assert min(gaps(run, caught, "llava")) > 1e-2


def test_the_watch_on_drawn_tokens_stops_a_run_with_shuffled_images(tmp_path, monkeypatch):
    shuffled_images(monkeypatch)
    with pytest.raises(ModelError, match="other log-probabilities than the engine"):
        make_vision_run(tmp_path).trainer.train()


def test_positions_counted_one_by_one_are_caught(tmp_path, monkeypatch):
    """A Qwen2.5-VL that is not told which tokens are images numbers them like text."""
    original = row_prompts_module.RowPrompts.features

    def untold(self, *given):
        return [{k: v for k, v in one.items() if k != "mm_token_type_ids"} for one in original(self, *given)]

    monkeypatch.setattr(row_prompts_module.RowPrompts, "features", untold)
    run, caught = first_update(tmp_path, "qwen2_5_vl", max_logprob_gap=100.0)
    assert max(gaps(run, caught, "qwen2_5_vl")) > 1e-2


@pytest.mark.parametrize("kind", ["llava", "qwen2_5_vl", pytest.param("idefics3", marks=pytest.mark.slow)])
def test_the_split_into_micro_batches_changes_nothing(tmp_path, kind):
    runs = []
    for budget in (70, 100_000):
        settings = {"tokens_per_microbatch": budget, "actor_steps": 2, "critic_steps": 2}
        run = make_vision_run(tmp_path / str(budget), kind, dtype=torch.float64, **settings)
        run.trainer.train()
        runs.append(run)
    for other in runs[1:]:
        assert movement_gap(runs[0].start, other.policy.state_dict(), runs[0].policy.state_dict()) <= 1e-6
        assert movement_gap(runs[0].critic_start, other.critic.state_dict(), runs[0].critic.state_dict()) <= 1e-6


def test_a_resumed_run_is_the_unbroken_one(tmp_path):
    settings = {"max_steps": 4, "prompts_per_step": 4, "actor_steps": 2}
    whole = make_vision_run(tmp_path / "whole", "qwen2_5_vl", **settings)
    whole.trainer.train()
    stops = iter([False, True])
    kwargs = {"save_strategy": "steps", "save_steps": 2}
    broken = make_vision_run(tmp_path / "b", "qwen2_5_vl", stop=lambda: next(stops, True), **settings, **kwargs)
    broken.trainer.train()
    assert broken.trainer.state.global_step == 2
    assert (tmp_path / "b" / "checkpoint-2" / "chat_template.jinja").is_file()
    again = make_vision_run(tmp_path / "b", "qwen2_5_vl", **settings, **kwargs)
    again.trainer.train(resume_from_checkpoint=True)
    assert movement_gap(whole.start, again.policy.state_dict(), whole.policy.state_dict()) <= 1e-3
    assert movement_gap(whole.critic_start, again.critic.state_dict(), whole.critic.state_dict()) <= 1e-3
    assert [s["text"] for s in again.samples[4]] == [s["text"] for s in whole.samples[4]]


def test_a_checkpoint_under_the_names_of_a_first_release_is_read_whole(tmp_path):
    """The fault that the Trainer's own loading would be: not one name fits, and nothing is said."""
    model, _ = load("qwen2_5_vl", torch.float32)
    other, _ = load("qwen2_5_vl", torch.float32)
    model.save_pretrained(tmp_path)
    assert has_other_names(other, tmp_path), "else this guards against nothing"
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    load_by_names(other, tmp_path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name
    (tmp_path / "none").mkdir()
    assert not has_other_names(other, tmp_path / "none")


def test_a_picture_is_processed_once_however_often_it_is_read(tmp_path):
    data = rows([[seed] for seed in range(20, 28)], sizes=((48, 32),))
    run = make_vision_run(tmp_path, data=data, max_steps=3, prompts_per_step=8, num_generations=3, beta=0.01)
    reader = run.trainer.prompts.pictures.reader
    before = reader.reads
    run.trainer.train()
    assert 0 < reader.reads - before <= 8, "8 rows, 3 steps, 3 samples each; policy, critic, reference and engine"
    assert all(torch.isfinite(torch.tensor(line["policy_loss"])) for line in run.metrics)


def test_pictures_of_steps_gone_by_are_let_go(tmp_path):
    data = rows([[seed] for seed in range(20, 44)], sizes=((48, 32),))
    run = make_vision_run(tmp_path, data=data, max_steps=5, prompts_per_step=4, num_generations=2)
    run.trainer.train()
    reader = run.trainer.prompts.pictures.reader
    assert 4 <= reader.kept <= 5, "the last step's four, and the one that stands in for pictures; not all 20"
    assert reader.reads >= 20


def test_streaming_adds_up_the_same_gradients(tmp_path):
    settings = {"normalize_advantages": False, "max_steps": 2}
    plain = make_vision_run(tmp_path / "a", "llava", **settings)
    plain.trainer.train()
    streamed = make_vision_run(tmp_path / "b", "llava", train_while_generating=True, **settings)
    streamed.trainer.train()
    assert movement_gap(plain.start, streamed.policy.state_dict(), plain.policy.state_dict()) <= 1e-3


@pytest.mark.parametrize(("kind", "part"), [("llava", "vision_tower"), ("qwen2_5_vl", "projector")])
def test_frozen_parts_stay_and_the_others_move(tmp_path, kind, part):
    run = make_vision_run(tmp_path, kind, freeze=[part], max_steps=1)
    run.trainer.train()
    tower = "vision_tower." if kind == "llava" else "visual.blocks."
    projector = "multi_modal_projector." if kind == "llava" else "visual.merger."
    inside = {"vision_tower": tower, "projector": projector}
    for now, start in ((run.policy.state_dict(), run.start), (run.critic.state_dict(), run.critic_start)):
        moved = {name for name in start if not torch.equal(now[name], start[name])}
        assert any("language_model" in name for name in moved)
        for name, mark in inside.items():
            assert any(mark in one for one in moved) == (name != part), (name, part)


def test_completions_name_the_row_and_hold_one_placeholder_a_picture(tmp_path):
    run = make_vision_run(tmp_path, max_steps=1, prompts_per_step=8)
    run.trainer.train()
    written = {sample["id"]: sample for sample in run.samples[1]}
    assert [written[f"row{i}"]["prompt"].count("<|image_pad|>") for i in (0, 2, 4)] == [1, 0, 1]
    assert written["row0"]["prompt_tokens"] > len(written["row0"]["prompt"]) / 8
    assert all(not isinstance(value, bytes) for sample in run.samples[1] for value in sample.values())


def test_paths_bytes_and_pil_images_are_the_same_picture(tmp_path):
    image = image_of(1)
    image.save(tmp_path / "a.png")
    prompts = make_vision_run(tmp_path / "run").trainer.prompts
    found = [
        prompts.pictures.prompt({"id": "a", "prompt": "?", "images": picture})
        for picture in (png(image), [image], str(tmp_path / "a.png"), [{"bytes": png(image), "path": None}])
    ]
    assert len({prompt.ids for prompt in found}) == 1
    assert len({prompt.images[0].tobytes() for prompt in found}) == 1


def test_a_text_model_refuses_pictures_and_a_text_critic_too(tmp_path):
    text, _ = load_policy("tiny:qwen2:hidden_size=64,intermediate_size=64,num_attention_heads=1,num_hidden_layers=1")
    critic = ScalarHeadModel(text.model)
    with pytest.raises(ModelError, match=r"critic_model: a ScalarHeadModel cannot read row row0"):
        make_vision_run(tmp_path, critic=critic)


def test_marks_say_where_pictures_stand():
    def form(text, pictures):
        (turn,), ordered = with_pictures([{"role": "user", "content": text}], pictures)
        return "".join("*" if part["type"] == "image" else part["text"] for part in turn["content"]), ordered

    assert form("what?", ["a", "b"]) == ("**what?", ["a", "b"])
    assert form("x <image> y <image> z", ["a", "b"]) == ("x * y * z", ["a", "b"])
    assert form("<image2> after <image1>, <image2>", ["a", "b"]) == ("* after *, <image2>", ["b", "a"])
    assert form("<image1> shows <image2> and <image3>", ["a"]) == ("* shows <image2> and <image3>", ["a"])
    assert form("<image> is a word", []) == ("<image> is a word", [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": [b"no picture"]}, r"row row0: the picture 10 bytes cannot be opened"),
        ({"images": ["gone.png"]}, r"row row0: the picture 'gone.png' cannot be opened: .*gone.png.* -> a path from"),
        ({"prompt": [{"role": "user", "content": "<image> and <image>"}]}, r"row row0: 2 places .* but 1 pictures"),
        ({"images": None, "prompt": [{"role": "user", "content": "<|image_pad|>"}]}, r"row row0: its prompt has 1 tim"),
        ({"prompt": [{"role": "user", "content": "<|image_pad|>?"}]}, r"row row0: its prompt has 2 times"),
    ],
)
def test_rows_whose_pictures_cannot_be_used_are_named_before_training(tmp_path, change, message):
    data = rows([[1], [2]])
    if "images" in change and change["images"] and isinstance(change["images"][0], str):
        data = [{**row, "images": ["gone.png"]} for row in data]
    data[0] |= change
    with pytest.raises(DataError, match=message):
        make_vision_run(tmp_path, data=data, prompts_per_step=2).trainer.train()


def test_a_model_that_makes_other_features_than_the_processor_says_is_refused(tmp_path, monkeypatch):
    policy, processor = load("llava", torch.float32)
    monkeypatch.setattr(processor, "num_additional_image_tokens", 3)
    processor_rows = rows([[31], [32]])
    with pytest.raises(ModelError, match=r"model: a Llava.* cannot read row row0, whose 1 pictures are 6 tokens"):
        make_vision_run(tmp_path, data=processor_rows, prompts_per_step=2)
    assert policy is not None


def test_cut_image_tokens_are_refused_by_name(tmp_path):
    prompts = make_vision_run(tmp_path).trainer.prompts.pictures
    row = rows([[1]])[0]
    prompt = prompts.prompt(row)
    from reasonrl.rollout import Request

    whole = Request("x", prompt.ids, 0, images=prompt.images)
    assert prompts.features(whole, "row0")
    with pytest.raises(ModelError, match=r"row row0: .*do not cut them"):
        prompts.features(dataclasses.replace(whole, prompt_ids=prompt.ids[-6:]), "row0")


def test_lengths_are_those_of_the_prompts(tmp_path):
    for kind in ALL:
        prompts = make_vision_run(tmp_path / kind, kind).trainer.prompts.pictures
        for row in rows(sizes=((40, 56), (64, 30), (20, 90))):
            assert prompts.length(row) == len(prompts.prompt(row).ids)


def test_a_tiny_models_path_is_a_whole_checkpoint():
    for name in KINDS.values():
        assert (tiny_path(name) / "chat_template.jinja").is_file()
