"""Process reward models on pictures: scores and training are those of each solution by itself, pictures read or not."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from prm_runs import examples_of, make, records, scorer_of
from vision_runs import KINDS, PICTURES, png

from reasonrl.cli import main
from reasonrl.data_tools.pictures import open_picture
from reasonrl.models import load_tokenizer
from reasonrl.prm import encoding
from reasonrl.prm.scoring import StepScorer, load_scorer
from reasonrl.prm.training_data import prepare_solutions

TEXT = "tiny:qwen2:hidden_size=64,intermediate_size=64,num_attention_heads=1,num_hidden_layers=1"


def plain_script():
    path = Path(__file__).parents[1] / "oracles" / "vision_update.py"
    spec = importlib.util.spec_from_file_location("vision_oracle", path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def alone(model, processor, record):
    """Logits at the step ends of one solution, its prompt and inputs by the processor alone."""
    pictures = [open_picture(one) for one in record["images"] or []]
    content = [*({"type": "image"} for _ in pictures), {"type": "text", "text": record["prompt"][0]["content"]}]
    asked = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    given = {"images": [pictures]} if pictures else {}
    prompt = [int(token) for token in processor(text=[asked], **given)["input_ids"][0]]
    ids, ends = list(prompt), []
    for start, end in record["steps"]:
        ids += processor.tokenizer(record["text"][start:end], add_special_tokens=False)["input_ids"]
        ends.append(len(ids) - 1)
    values = model(input_ids=torch.tensor([ids]), **plain_script().inputs_of(processor, pictures, ids))[0]
    return values[ends]


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_each_solution_by_itself(kind):
    model, processor = scorer_of(kind, torch.float64)
    given = records()
    with torch.no_grad():
        expected = [torch.sigmoid(alone(model.eval(), processor, one)).tolist() for one in given]
    for tokens in (60, 100_000):
        scores = StepScorer(model, processor, tokens_per_microbatch=tokens)(given)
        for ours, theirs in zip(scores, expected, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-9)
    # Rows 0 and 1 differ in their pictures alone (and in their steps).
    other = {**given[1], "images": given[0]["images"]}
    [changed] = StepScorer(model, processor)([other])
    assert max(abs(a - b) for a, b in zip(changed, expected[1], strict=True)) > 1e-4


def plain_loop(trainer, kind):
    """Solution by solution, in the trainer's order."""
    model, processor = scorer_of(kind, torch.float64)
    config, given = trainer.config, records()
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    betas = (config.adam_beta1, config.adam_beta2)
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, eps=config.adam_epsilon)
    losses = []
    for step in range(trainer.total):
        terms = []
        for row in trainer.order(step):
            p = torch.sigmoid(alone(model, processor, given[row]))
            for chance, y in zip(p, given[row]["labels"], strict=True):
                if y is not None:
                    terms.append(-torch.log(chance if y else 1 - chance))
        loss = sum(terms) / len(terms)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    return model, losses


def gap(one, other):
    state = other.state_dict()
    return max(float((tensor - state[name]).abs().max()) for name, tensor in one.state_dict().items())


@pytest.mark.parametrize("kind", ["llava", "qwen2_5_vl"])
def test_training_is_the_plain_loop(kind):
    lines = []
    trainer = make(kind, torch.float64, on_metrics=lines.append)
    assert trainer.anchor is None
    expected, losses = plain_loop(trainer, kind)
    assert trainer.train() == 4
    assert [line["loss"] for line in lines] == pytest.approx(losses, rel=1e-6)
    assert gap(trainer.model, expected) <= 1e-9
    moved = dict(trainer.model.named_parameters())
    start = scorer_of(kind, torch.float64)[0].state_dict()
    assert any("vis" in name and not torch.equal(moved[name], start[name]) for name in moved)


def swapped(monkeypatch):
    """The pictures of a micro-batch come in another order."""
    original = encoding._padded_inputs

    def backwards(rows, *rest):
        inputs = original(rows, *rest)
        return {**inputs, "pixel_values": inputs["pixel_values"].flip(0)} if "pixel_values" in inputs else inputs

    monkeypatch.setattr(encoding, "_padded_inputs", backwards)


def left_out(monkeypatch):
    """Every solution reads the first one's picture."""
    original = encoding.Encoder._features
    first = []

    def of_the_first(self, row):
        first.append(row)
        return original(self, {**row, "images": first[0]["images"][:1] * len(row["images"])})

    monkeypatch.setattr(encoding.Encoder, "_features", of_the_first)


@pytest.mark.parametrize("fault", [swapped, left_out])
def test_a_planted_fault_is_caught(monkeypatch, fault):
    expected = plain_loop(make("llava", torch.float64), "llava")[0]
    fault(monkeypatch)
    trainer = make("llava", torch.float64)
    trainer.train()
    assert gap(trainer.model, expected) > 1e-5


def test_what_cannot_be_read_is_set_aside(tmp_path):
    processor = scorer_of("llava", torch.float32)[1]
    given = records()
    given[0] = {**given[0], "images": [b"no picture"]}
    given[1] = {**given[1], "images": [str(tmp_path / "gone.png")]}
    given[3] = {**given[3], "text": f"a{processor.image_token}", "steps": [[0, 1], [1, 1 + len(processor.image_token)]]}
    prepared = prepare_solutions(given, processor)
    assert len(prepared.encoded) == len(given) - 3 and sum(prepared.set_aside.values()) == 3
    of_text = prepare_solutions(given, load_tokenizer(TEXT))
    pictured = sum(bool(one["images"]) for one in given)
    assert of_text.counts["solutions_set_aside"] == pictured and "reads text only" in str(of_text.first_fault)
    assert len(examples_of(processor, records([[], []]))) == 2


def test_a_recipe_trains_on_pictures_and_the_model_scores_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = []
    for number, record in enumerate(records()):
        names = []
        for place, picture in enumerate(record["images"] or []):
            names.append(f"p{number}.{place}.png")
            (tmp_path / names[-1]).write_bytes(picture if isinstance(picture, bytes) else png(picture))
        given.append({**record, "images": names})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in given))
    stage = {
        "kind": "prm",
        "model": KINDS["llava"],
        "data": {"path": "rows.jsonl"},
        "eval_data": {"path": "rows.jsonl"},
        "max_steps": 2,
        "solutions_per_step": 4,
        "learning_rate": 1e-3,
    }
    (tmp_path / "r.yaml").write_text(json.dumps({"recipe": "r", "output": "run", "stages": {"prm": stage}}))
    dry = CliRunner().invoke(main, ["train", "r.yaml", "--dry-run"], catch_exceptions=False)
    assert dry.exit_code == 0 and "<|image_pad|>how many?" in dry.output, dry.output
    done = CliRunner().invoke(main, ["train", "r.yaml"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    model = tmp_path / "run" / "stages" / "prm" / "model"
    scorer = load_scorer(str(model))
    scores = scorer(given)
    assert [len(row) for row in scores] == [len(one["steps"]) for one in given] and sum(map(bool, PICTURES)) == 6
    call = ["score", "rows.jsonl", "--model", str(model), "--out", "out.jsonl"]
    told = CliRunner().invoke(main, call, catch_exceptions=False)
    assert told.exit_code == 0, told.output
    found = [json.loads(line)["step_scores"] for line in (tmp_path / "out.jsonl").open()]
    for ours, theirs in zip(found, scores, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
