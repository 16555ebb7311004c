"""The recipe bcpg_nsa_code, cut down and run: programs of a small policy are run against tests, and learnt from."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from reasonrl.data_tools.prompts import prompt_ids
from reasonrl.eval.rollouts.rows import read_rollouts
from reasonrl.models import load_policy
from reasonrl.pipeline import train
from reasonrl.recipe import load_recipe

TINY = "tiny:qwen2:hidden_size=64,intermediate_size=128,num_attention_heads=1,num_hidden_layers=1"
JUDGE = Path(__file__).with_name("step_judge.py")
PROGRAMS = {n: f"So:\n\n```python\nprint({n}*int(input()))\n```" for n in (2, 3)}
ROWS = [
    {"problem": word, "tests": {"inputs": ["1\n", "4\n"], "outputs": [f"{n}\n", f"{4 * n}\n"]}}
    for n, word in ((2, "Twice"), (3, "Thrice"))
]


def write_policy(folder: Path) -> None:
    """A policy that knows two programs and not which is asked for: each answers one of the two problems."""
    torch.manual_seed(0)
    model, tokenizer = load_policy(TINY)
    asked = prompt_ids(tokenizer, [{"role": "user", "content": "Any"}])[-6:]
    rows = [asked + tokenizer(text + "<|im_end|>")["input_ids"] for text in PROGRAMS.values()]
    ids = torch.tensor(rows)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(80):
        # Behind prompts of any length: what is written does not hang on what is asked.
        before = torch.randint(0, 200, (2, int(torch.randint(1, 30, ()))))
        given = torch.cat([before, ids], dim=1)
        logits = model(input_ids=given, use_cache=False).logits[:, before.shape[1] + len(asked) - 1 : -1]
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, len(asked) :].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def test_the_tests_judge_what_a_policy_writes(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_policy(tmp_path / "policy")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    given = [
        *("data.train.path=rows.jsonl", "model=policy", "data.train.template='{problem}'"),
        *("rollout.engine=transformers", "rollout.start=null", "rollout.max_model_len=null"),
        "rollout.enable_prefix_caching=null",
        *("stages.sample.n=12", "stages.sample.max_tokens=60", "stages.sample.temperature=1.0"),
        *("stages.sample.reward.args.requires_isolation=false", "stages.sample.reward.args.workers=2"),
        "stages.label.segment={method: rules, shortest: 1, longest: 40}",
        f"stages.label.judges=[{{name: '{JUDGE}:alternating'}}]",
        *("stages.train.samples_per_step=8", "stages.train.num_train_epochs=4", "stages.train.learning_rate=1e-3"),
        *("stages.train.bf16=false", "stages.train.gradient_checkpointing=false"),
        "stages.train.launch={num_processes: 1, deepspeed: null}",
        *(
            f"stages.exam_{name}.{key}"
            for name in ("start", "train")
            for key in (
                *("suites={held: {data: {path: rows.jsonl}}}", "protocol=null", "n=2", "k=[1]", "max_tokens=60"),
                "reward={name: code, args: {workers: 2}}",
            )
        ),
    ]
    train(load_recipe("bcpg_nsa_code", given), say=lambda line: None)
    stages = tmp_path / "runs" / "bcpg_nsa_code" / "stages"
    rows = list(read_rollouts(stages / "sample" / "rollouts.parquet"))
    assert len(rows) == 24, "both problems have right and wrong answers"
    for row in rows:
        if row["text"] in PROGRAMS.values():
            assert row["correct"] == (row["text"] == PROGRAMS[2 if row["problem"] == "Twice" else 3]), row
    verdicts = {row["verdict"] for row in rows}
    assert {"correct", "wrong"} <= verdicts
    done = json.loads((stages / "train" / "done.json").read_text())["result"]["metrics"]
    assert done["samples"] == 24 and done["problems"] == 2 and done["wrong_labelled"] > 2
    assert 0 < done["mined_share"] < 1
    lines = [json.loads(line) for line in (stages / "train" / "metrics.jsonl").read_text().splitlines()]
    # A step's eight samples may all be wrong: the last step that has both kinds is looked at.
    both = [line for line in lines if {"rho_per_token/positive", "rho_per_token/negative"} <= line.keys()]
    assert both[-1]["rho_per_token/positive"] > both[-1]["rho_per_token/negative"]
