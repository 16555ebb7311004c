"""Malformed recipes: what is wrong with each, and what the message has to say."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

GOOD = """\
recipe: good
seed: 0
model: tiny:qwen2
data:
  train: {path: rows.jsonl, columns: {problem: question}}
  made: {world: arithmetic, n: 64, args: {operations: 2}}
rollout: {batch_size: 8}
stages:
  sft:
    kind: sft
    data: ${data.made}
    max_steps: 5
  rl:
    kind: ppo
    model: ${stage:sft}
    data: ${data.train}
    reward: math
    prompts_per_step: 8
    num_generations: 2
    critic_steps: 4
    max_completion_length: 32
    max_steps: 3
  before:
    kind: eval
    model: ${stage:sft}
    max_tokens: 16
    suites: {test: {data: "${data.made}", n: 4, k: [1, 4]}}
  after:
    kind: eval
    model: ${stage:rl}
    max_tokens: 16
    suites: {test: {data: "${data.made}", n: 4}}
  table:
    kind: compare
    rows: {before: "${stage:before}", after: "${stage:after}"}
    baseline: before
arms:
  discount: {stages.rl.gamma: 0.9}
studies:
  short: {arms: [default, discount], seeds: [0, 1]}
"""
ROWS = '{"question": "1+1?", "answer": "2", "pass_rate": 0.5}\n'
REWARD = "def score(completions, **columns):\n    raise SystemExit('imported')\n\nraise SystemExit('imported')\n"


@dataclass(frozen=True)
class Case:
    """One malformed recipe.

    Attributes:
        name: what is wrong.
        says: fragments that the message has to hold; `@12` stands for `recipe.yaml:12`.
        swap: lines of the good recipe to replace, text -> text.
        text: the whole recipe instead, as text or bytes.
        arguments: command-line arguments after the recipe.
        files: further files.
        problems: how many problems have to be reported.
        recipe: the recipe argument.
    """

    name: str
    says: tuple[str, ...]
    swap: tuple[tuple[str, str], ...] = ()
    text: str | bytes | None = None
    arguments: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = field(default=())
    problems: int = 1
    recipe: str = "recipe.yaml"

    def write(self, folder: Path) -> None:
        """Lay the files out in an empty folder."""
        text: str | bytes = GOOD if self.text is None else self.text
        for before, after in self.swap:
            assert isinstance(text, str) and before in text, before
            text = text.replace(before, after, 1)
        (folder / "recipe.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        (folder / "rows.jsonl").write_text(ROWS)
        (folder / "my_reward.py").write_text(REWARD)
        for name, content in self.files:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(content)


def swap(name: str, before: str, after: str, *says: str, problems: int = 1) -> Case:
    """A case that replaces one text of the good recipe."""
    return Case(name, says, swap=((before, after),), problems=problems)


def line(name: str, text: str, *says: str, problems: int = 1) -> Case:
    """A case that adds one line to the stage `rl`, as line 23."""
    return swap(name, "    max_steps: 3\n", f"    max_steps: 3\n    {text}\n", "@23", *says, problems=problems)


def override(name: str, token: str, *says: str, problems: int = 1) -> Case:
    """A case with a wrong command-line token."""
    return Case(name, (f"'{token}'", *says), arguments=(token,), problems=problems)


KEYS = [
    line("typo in a key", "lerning_rate: 1e-4", "stages.rl.lerning_rate", "did you mean 'learning_rate'?"),
    line("a key another library has", "lr: 1e-4", "did you mean 'learning_rate'?"),
    swap("typo at the top", "seed: 0", "sed: 0", "@2: sed", "did you mean 'seed'?"),
    line("an alien key", "colour: red", "unknown key 'colour'", "allowed: ", "prompts_per_step", "remove colour"),
    swap("typo in the kind", "kind: ppo", "kind: pop", "@14", "unknown kind 'pop'", "did you mean 'ppo'?"),
    swap("no kind", "    kind: ppo\n", "", "@13: stages.rl", "has no kind"),
    swap("typo in a data source", "made: {world:", "made: {wrld:", "@6", "did you mean 'world'?"),
    swap("typo in a suite", "n: 4, k:", "m: 4, k:", "@27", "unknown key 'm'", problems=2),
    swap("typo in rollout", "{batch_size: 8}", "{batchsize: 8}", "@7: rollout.batchsize", "did you mean 'batch_size'?"),
    swap("typo in a column of ours", "{problem: question}", "{problm: question}", "@5", "did you mean 'problem'?"),
    swap("a missing value", "    max_completion_length: 32\n", "", "@13", "max_completion_length: is needed"),
    swap("no reward", "    reward: math\n", "", "stages.rl.reward", "is needed"),
    Case("no stages", ("the recipe has no stages",), text="recipe: x\n"),
    swap("a stage name with a dot", "  sft:", "  s.ft:", "@9", "allowed: letters, digits", problems=3),
    swap("an unknown engine", "{batch_size: 8}", "{engine: server}", "@7", "did you mean 'servers'?"),
    swap("servers from nowhere", "{batch_size: 8}", "{engine: servers}", "@7", "at urls or are started"),
    swap(
        "servers from two places",
        "{batch_size: 8}",
        "{engine: servers, start: 1, urls: [http://a]}",
        "@7",
        "one of both",
    ),
    swap("servers without the engine", "{batch_size: 8}", "{start: 2}", "@7: rollout.start", "engine: servers only"),
    swap(
        "a started server's option",
        "{batch_size: 8}",
        "{engine: servers, urls: [http://a], enforce_eager: true}",
        "@7",
        "servers that are started",
    ),
    swap(
        "a key for a server of ours",
        "{batch_size: 8}",
        "{engine: servers, start: 1, api_key_env: KEY}",
        "@7",
        "servers at urls",
    ),
]
OVERLAP = [
    line(
        "gradients before a normalised batch is whole",
        "normalize_advantages: true\n    train_while_generating: true",
        "normalize_advantages: is true",
        "set normalize_advantages: false",
    ),
    line(
        "two policy steps of samples on their way",
        "actor_steps: 2\n    train_while_generating: true\n    normalize_advantages: false",
        "actor_steps: is 2",
        "use actor_steps: 1",
    ),
    line(
        "groups over processes of samples on their way",
        "launch: {num_processes: 16}\n    train_while_generating: true\n    advantage: group",
        "launch.num_processes: is 16",
        "use a divisor of",
        "gamma: is 0.9, but advantage: group",
        problems=2,
    ),
    line("overlap with the policy as engine", "max_staleness: 1", "max_staleness: is 1", "rollout.own_copy: true"),
    line(
        "two steps of staleness",
        "max_staleness: 2\n    rollout: {own_copy: true}",
        "is 2; allowed: 0 (samples",
        "use 1",
    ),
    line("staleness by another name", "one_step_off: 1", "did you mean 'max_staleness'?"),
    line("a negative staleness", "max_staleness: -1", "is -1; allowed: a number of at least 0"),
    line("a copy for servers", "rollout: {engine: vllm, own_copy: true}", "rollout.own_copy", "weights of its own"),
    swap(
        "an evaluation that compares with no trainer",
        "n: 4, k: [1, 4]}}\n",
        "n: 4, k: [1, 4]}}\n    rollout: {engine: vllm, max_logprob_gap: 0.1}\n",
        "rollout.max_logprob_gap",
        "in training only",
    ),
    line("a mode without its correction", "vllm_importance_sampling_mode: token_mask", "the correction is off"),
    line("an unknown correction", "vllm_importance_sampling_mode: mask", "token_truncate, token_mask"),
    line(
        "a correction of a nucleus",
        "top_p: 0.9\n    vllm_importance_sampling_correction: true",
        "top_p: is 0.9",
        "a nucleus is another one",
    ),
    line(
        "a correction without bounds",
        "vllm_importance_sampling_clip_max: null\n    vllm_importance_sampling_correction: true",
        "clip_max: is null",
        "use 2.0",
    ),
    line(
        "bounds that leave out equal policies",
        "vllm_importance_sampling_clip_max: 0.5\n    vllm_importance_sampling_correction: true",
        "clip_max: is 0.5",
        "allowed: at least 1",
    ),
]
VALUES = [
    line("text for a number", "learning_rate: fast", "is 'fast'; allowed: a number"),
    line("a quoted number", 'learning_rate: "1e-4"', "is '1e-4'; allowed: a number", "remove the quotes"),
    line("a number for a flag", "bf16: 1", "is 1; allowed: true or false"),
    swap(
        "an option of another engine", "{batch_size: 8}", "{enforce_eager: true}", "@7", "engine: vllm or servers only"
    ),
    swap("an unknown dtype", "{batch_size: 8}", "{dtype: float8}", "@7: rollout.dtype", "allowed: float32, bfloat16"),
    swap("vLLM's name for ours", "{batch_size: 8}", "{max_num_seqs: 8}", "@7", "did you mean 'batch_size'?"),
    swap("a fraction for a count", "max_steps: 3", "max_steps: 2.5", "@22", "is 2.5; allowed: a whole number"),
    swap("a list for a number", "max_steps: 3", "max_steps: [3]", "@22", "is [3]; allowed: a whole number"),
    swap("nothing after the colon", "max_steps: 3", "max_steps:", "@22", "is empty (null); allowed: a whole number"),
    swap("a negative count", "prompts_per_step: 8", "prompts_per_step: -8", "@18", "is -8; allowed: a number above 0"),
    swap("a negative seed", "seed: 0", "seed: -1", "@2: seed", "is -1; allowed: a number of at least 0"),
    line("a negative rate", "learning_rate: -1.0e-5", "is -1e-05; allowed: a number of at least 0"),
    line("gamma above 1", "gamma: 1.01", "is 1.01; allowed: a number of at most 1"),
    line("a probability above 1", "top_p: 1.5", "is 1.5; allowed: a number of at most 1"),
    line("a probability of 0", "top_p: 0", "is 0; allowed: a number above 0"),
    line("not a number", "beta: .nan", "is nan; allowed: a finite number"),
    line("typo in a choice", "advantage: grup", "is 'grup'; allowed: gae, group, rloo", "did you mean 'group'?"),
    swap(
        "a stage that is a number",
        "  table:\n    kind: compare\n",
        "  odd: 3\n  table:\n    kind: compare\n",
        "@33",
        "is 3",
    ),
    swap("data that is a number", "data: ${data.made}\n    max", "data: 3\n    max", "@11", "is 3; allowed: a mapping"),
    swap("a tracker nobody knows", "seed: 0", "report_to: wandbb", "@2", "'wandbb'", "did you mean 'wandb'?"),
    swap("a list for the seed of a study", "seeds: [0, 1]", "seeds: 0", "@40", "is 0; allowed: a list", "write [0]"),
    swap("a seed twice", "seeds: [0, 1]", "seeds: [1, 1]", "@40", "names 1 twice"),
]
COMBINATIONS = [
    swap(
        "critic steps that do not divide",
        "critic_steps: 4",
        "critic_steps: 3",
        "@20",
        "is 3, which does not divide",
        "= 16",
    ),
    line("policy steps that do not divide", "actor_steps: 5", "is 5, which does not divide", "prompts_per_step: 10"),
    line("processes that do not divide", "launch: {num_processes: 3}", "stages.rl.launch.num_processes", "is 3"),
    swap(
        "groups of one",
        "num_generations: 2",
        "advantage: rloo",
        "advantage: rloo",
        "needs at least 2",
        "gamma: is 0.9, but advantage: rloo",
        problems=2,
    ),
    line("a critic's lambda without a critic", "lam_value: 1.0\n    advantage: reinforce_pp", "lam_value: is 1.0"),
    line("two lambdas of the policy", "lam: 0.9\n    lam_horizon_fraction: 0.05", "lam: is 0.9", "use one of both"),
    line("a horizon beyond the response", "lam_horizon_fraction: 2", "is 2; allowed: a number of at most 1"),
    line("an adapter's rank by another name", "lora: {rank: 8}", "lora.rank: unknown key", "did you mean 'r'?"),
    line("an adapter without settings", "lora: true", "lora: is True; allowed: a mapping", "write lora: {r: 16}"),
    line("a way to split that is not there", "launch: {fsdp: true}", "launch.fsdp: is True; allowed:", "full_shard"),
    line("a trainer's name for its baseline", "advantage: grpo", "is 'grpo'; allowed: gae", "write group"),
    line("a ratio's name for a loss", "loss_type: gspo", "importance_sampling_level: sequence"),
    line("an alien lambda", "lam_critic: 1.0", "did you mean 'lam_value'?"),
    line(
        "two meanings of a cut response",
        "truncation_bootstrap: true\n    mask_truncated_completions: true",
        "truncation_bootstrap: is true",
        "use one of both",
    ),
    line(
        "a cut response's score and the value after it",
        "truncation_bootstrap: true\n    reward_requires_stop: false",
        "use reward_requires_stop: true, or truncation_bootstrap: false",
    ),
    line(
        "a scale without groups", "scale_rewards: batch", "advantage: gae", "normalize_advantages is what scales them"
    ),
    swap(
        "steps and epochs", "max_steps: 5", "max_steps: 5\n    num_train_epochs: 2", "@12", "both say how long to train"
    ),
    line("validation without data", "eval_steps: 2", "there is no eval_data"),
    swap("pass@k above n", "k: [1, 4]", "k: [1, 8]", "@27", "pass@8 from n = 4"),
    swap(
        "a source of two kinds",
        "{path: rows.jsonl,",
        "{path: rows.jsonl, hub: a/b,",
        "@5: data.train",
        "gives path and hub",
    ),
    swap(
        "a source of no kind",
        "{world: arithmetic, n: 64, args: {operations: 2}}",
        "{shuffle: true}",
        "@6",
        "none of them",
    ),
    swap(
        "a baseline that is no row",
        "baseline: before",
        "baseline: befor",
        "@36",
        "'befor', which is no row",
        "before, after",
    ),
    Case(
        "two problems at once",
        ("the recipe has 2 problems", "@18", "is 7.5", "@37", "'seedz'"),
        swap=(("prompts_per_step: 8", "prompts_per_step: 7.5"), ("arms:\n", "seedz: 1\narms:\n")),
        problems=2,
    ),
    Case(
        "a typo does not hide a wrong combination, nor a wrong reference",
        (
            "@21",
            "does not divide",
            "@23",
            "did you mean 'learning_rate'?",
            "@31",
            "there is no stage 'lr'",
            "did you mean 'rl'?",
        ),
        swap=(
            ("critic_steps: 4", "critic_steps: 3"),
            ("max_steps: 3", "max_steps: 3\n    learnin_rate: 1"),
            ("${stage:rl}", "${stage:lr}"),
        ),
        text=GOOD.replace("    max_completion_length: 32\n", "").replace(
            "    reward: math\n", "    reward: math\n    max_completion_length: 32\n"
        ),
        problems=3,
    ),
]
FILES = [
    swap(
        "a missing data file",
        "rows.jsonl",
        "rws.jsonl",
        "@5: data.train.path",
        "'rws.jsonl'",
        "did you mean 'rows.jsonl'?",
    ),
    swap("a pattern without a match", "rows.jsonl", "'shards/*.jsonl'", "@5", "no file matches 'shards/*.jsonl'"),
    swap(
        "a missing model folder", "model: tiny:qwen2", "model: ./nowhere", "@3: model", "there is no folder './nowhere'"
    ),
    swap("a built-in model nobody knows", "tiny:qwen2", "tiny:qwn2", "@3", "did you mean 'tiny:qwen2'?"),
    swap("a size nobody knows", "tiny:qwen2", "tiny:qwen2:hiden_size=8", "@3", "did you mean 'hidden_size'?"),
    swap("a missing base", "seed: 0", "base: [comon.yaml]", "@2: base", "there is no file 'comon.yaml'"),
    Case(
        "a base that is built on itself",
        ("a.yaml:1: base", "recipe.yaml -> a.yaml -> recipe.yaml"),
        swap=(("seed: 0", "base: a.yaml"),),
        files=(("a.yaml", "base: recipe.yaml\n"),),
    ),
    Case(
        "a problem in a base",
        ("a.yaml:2: rollout.bach_size", "did you mean 'batch_size'?"),
        swap=(("seed: 0", "base: a.yaml"),),
        files=(("a.yaml", "seed: 3\nrollout: {bach_size: 1}\n"),),
    ),
    swap("a missing column", "{problem: question}", "{problem: qestion}", "@5", "no column 'qestion'", "'question'"),
    swap("a world nobody knows", "world: arithmetic", "world: arithmetics", "@6", "did you mean 'arithmetic'?"),
    swap("an argument the world lacks", "operations: 2", "operation: 2", "@6", "did you mean 'operations'?"),
    swap(
        "a reward nobody knows",
        "reward: math",
        "reward: maths",
        "@17",
        "there is no reward 'maths'",
        "did you mean 'math'?",
    ),
    swap(
        "a missing reward file", "reward: math", "reward: my_rewrd.py:score", "@17", "did you mean my_reward.py:score?"
    ),
    swap(
        "a missing reward function", "reward: math", "reward: my_reward.py:scor", "@17", "defines no 'scor'", "'score'?"
    ),
    swap("a reward file without a function", "reward: math", "reward: my_reward.py", "@17", "names no function"),
    swap("a reward without what it needs", "reward: math", "reward: length_band", "@17", "max_tokens", "is needed by"),
    swap(
        "a reward inside a gate that nobody knows",
        "reward: math",
        "reward: {name: gate, args: {parts: [stop, {name: fromat}]}}",
        "@17",
        "there is no reward 'fromat'",
        "did you mean 'format'?",
    ),
    swap(
        "a default that no route has",
        "reward: math",
        "reward: {name: route, args: {rewards: {math: math, brief: stop}, default: mth}}",
        "@17",
        "args.default",
        "did you mean 'math'?",
    ),
    swap(
        "a word an argument does not know",
        "reward: math",
        "reward: {name: format, args: {style: boxd}}",
        "@17",
        "args.style",
        "did you mean 'boxed'?",
    ),
    swap("a reward term without a name", "reward: math", "reward: [{weight: 1}]", "@17", "stages.rl.reward.0.name"),
    swap(
        "a suite nobody knows",
        'suites: {test: {data: "${data.made}", n: 4}}',
        "suites: [aime24, aime42]",
        "@32",
        "no suite 'aime42' -> did you mean 'aime2",
    ),
    swap(
        "a format nobody reads", "{path: rows.jsonl,", "{path: rows.jsonl, format: jsnl,", "@5", "did you mean 'jsonl'?"
    ),
]
REFERENCES = [
    swap(
        "a reference inside a text", "model: ${stage:rl}", "model: my-${stage:rl}", "@30", "has to be the whole value"
    ),
    swap("a kind that is no text", "kind: ppo", "kind: [ppo]", "@14: stages.rl.kind", "is no text"),
    swap("an unknown stage", "${stage:rl}", "${stage:lr}", "@30", "there is no stage 'lr'", "did you mean 'rl'?"),
    swap(
        "a stage of its own",
        "model: ${stage:sft}\n    data",
        "model: ${stage:rl}\n    data",
        "@15",
        "refers to its own stage",
    ),
    swap(
        "a later stage",
        "model: ${stage:sft}\n    data",
        "model: ${stage:after}\n    data",
        "@15",
        "'after'",
        "makes no model",
    ),
    Case(
        "a circle",
        ("@11", "stage 'rl' stands after 'sft'", "(cyclic: sft -> rl -> sft)"),
        swap=(("    data: ${data.made}\n", "    model: ${stage:rl}\n    data: ${data.made}\n"),),
    ),
    swap(
        "a critic of a stage without one", "model: ${stage:rl}", "model: ${stage:sft.critic}", "@30", "makes no critic"
    ),
    swap("a row that is no evaluation", 'after: "${stage:after}"', 'after: "${stage:rl}"', "@35", "of kind eval"),
    swap("a step beyond the end", "model: ${stage:rl}", "model: ${stage:rl@step=9}", "@30", "steps 1 to 3"),
    swap(
        "a malformed reference", "model: ${stage:rl}", "model: ${stage:rl@last}", "@30", "not a well-formed reference"
    ),
    swap("previous without a loop", "model: ${stage:rl}", "model: ${previous:rl}", "@30", "not in a loop"),
    line("a reference for a number", "learning_rate: ${stage:sft}", "a reference is not possible here"),
    swap(
        "a loop over an unknown stage", "arms:\n", "loop: {stages: [rll], times: 2}\narms:\n", "@37", "'rll'", "'rl'?"
    ),
    swap(
        "a loop with a gap", "arms:\n", "loop: {stages: [sft, before], times: 2}\narms:\n", "@37", "next to each other"
    ),
    swap(
        "a dangling interpolation",
        "${data.train}",
        "${data.trian}",
        "@16",
        "'data.trian'",
        "did you mean ${data.train}?",
    ),
    swap("an unset variable", "path: rows.jsonl", "path: '${oc.env:NOT_SET_ANYWHERE}'", "@5", "NOT_SET_ANYWHERE"),
    swap("an open brace", "${data.train}", "${data.train", "@16", "no well-formed interpolation"),
    swap("an unknown resolver", "${data.train}", "${nope:x}", "@16", "there is no resolver 'nope'"),
    swap(
        "interpolation in a circle",
        "recipe: good",
        "recipe: ${output}\noutput: ${recipe}",
        "@1",
        "cannot be resolved",
        problems=2,
    ),
    swap("a mandatory value", "seed: 0", "seed: ???", "@2: seed", "has no value yet"),
    swap(
        "a mandatory value that another stands for",
        "    max_steps: 3\n",
        "    max_steps: ???\n    save_steps: ${stages.rl.max_steps}\n",
        "stages.rl.max_steps: has no value yet",
    ),
]
EXPRESSIONS = [
    swap(
        "keep: syntax",
        "{path: rows.jsonl,",
        "{path: rows.jsonl, keep: '0 < < 1',",
        "@5: data.train.keep",
        "is not a condition",
    ),
    swap(
        "keep: an unknown name",
        "{path: rows.jsonl,",
        "{path: rows.jsonl, keep: 'pas_rate > 0',",
        "@5",
        "mean 'pass_rate'?",
    ),
    swap("keep: a call", "{path: rows.jsonl,", "{path: rows.jsonl, keep: 'open(1) > 0',", "@5", "calls 'open'"),
    swap(
        "keep: an attribute",
        "{path: rows.jsonl,",
        "{path: rows.jsonl, keep: 'a.__class__ > 0',",
        "@5",
        "uses Attribute",
    ),
    swap("keep: a number", "{path: rows.jsonl,", "{path: rows.jsonl, keep: 'pass_rate + 1',", "@5", "not a condition"),
]
TRL = [
    line("an argument TRL lacks", "max_grad_nrm: 1.0", "did you mean 'max_grad_norm'?"),
    line("nearly an argument of TRL's", "dataloader_num_wrkers: 1", "did you mean 'dataloader_num_workers'?"),
    line("an argument of the wrong type", "dataloader_num_workers: two", "is 'two'; allowed: a whole number"),
    line("an optimizer nobody knows", "optim: adamww", "is 'adamww'; allowed: adamw_torch"),
    line("an argument we set", "output_dir: here", "is set by the library", "set output at the top level"),
    line("an argument with no effect here", "label_smoothing_factor: 0.1", "the loss is PPO's"),
    line(
        "a field of the stage as TRL's",
        "trl_args: {learning_rate: 1.0}",
        "stages.rl.trl_args: holds learning_rate",
    ),
    line("a batch in TRL's words", "per_device_train_batch_size: 4", "prompts_per_step x num_generations"),
]
STUDIES = [
    swap("a study with an unknown arm", "[default, discount]", "[default, discont]", "@40", "did you mean 'discount'?"),
    swap(
        "an arm that hits no stage",
        "stages.rl.gamma",
        "stages.lr.gamma",
        "@38",
        "this hits nothing",
        "no 'lr' under stages",
    ),
    swap(
        "an arm that hits no key", "stages.rl.gamma", "stages.rl.gama", "@38: stages.rl.gama", "did you mean 'gamma'?"
    ),
    swap("an arm with a wrong value", "gamma: 0.9}", "gamma: 9}", "@38: stages.rl.gamma", "is 9; allowed"),
    swap(
        "an arm that sets a key twice",
        "{stages.rl.gamma: 0.9}",
        "{stages.rl: {gamma: 1}, stages.rl.gamma: 0.9}",
        "@38",
        "another key",
    ),
    swap(
        "an arm of arms",
        "stages.rl.gamma: 0.9",
        "arms.x.seed: 1",
        "@38: arms.discount.arms",
        "set arms in the recipe file",
    ),
    Case("an unknown arm", ("'--arm discont'", "did you mean 'discount'?"), arguments=("--arm", "discont")),
]
COMMAND_LINE = [
    override("no equals sign", "stages.rl.max_steps", "has no '='"),
    override("an empty part", "stages..max_steps=3", "an empty part"),
    override("an unknown key", "stages.rl.max_step=3", "stages.rl.max_step", "did you mean 'max_steps'?"),
    override("an unknown stage on the command line", "stages.lr.max_steps=3", "hits nothing", "did you mean 'rl'?"),
    override("an unknown source", "data.trian.path=rows.jsonl", "hits nothing", "did you mean 'train'?"),
    override("a wrong value that stages inherit", "model=3", "model: is 3; allowed: a text", problems=1),
    override("a key below an unknown key", "stages.rl.foo.bar=3", "stages.rl.foo", "unknown key 'foo'"),
    override("another base", "base=other.yaml", "set base in the recipe file"),
    override("reaching into a number", "seed.x=3", "reaches into seed, which is 0"),
    override("reaching into a list", "studies.short.seeds.0=3", "which is a list"),
    override("a wrong value", "stages.rl.max_steps=many", "is 'many'; allowed: a whole number"),
    override("a value that is no YAML", "stages.rl.reward=[math", "is not YAML"),
    override("a missing file", "data.train.path=rows.json", "there is no file or folder 'rows.json'", "'rows.jsonl'"),
    override(
        "a second kind of source", "data.train.world=arithmetic", "gives path and world", "set the others to null"
    ),
]
TEXTS = [
    Case("a bracket left open", ("@3", "is not YAML"), text="recipe: x\nseed: 0\nstages: {a: 1\n"),
    Case("a colon too many", ("@2", "is not YAML", "column"), text="recipe: x\nseed: 0: 1\n"),
    Case("indentation", ("@3", "is not YAML"), text="stages:\n  a: {kind: sft}\n b: {kind: sft}\n"),
    Case("a tab", ("@2", "indented with a tab"), text="stages:\n\ta: {kind: sft}\n"),
    swap(
        "a key twice",
        "    max_steps: 3\n",
        "    max_steps: 3\n    max_steps: 4\n",
        "@23: stages.rl.max_steps",
        "on line 22",
    ),
    Case("an empty file", ("recipe.yaml", "is empty"), text=""),
    Case("only a comment", ("is empty",), text="# nothing\n"),
    Case("a list at the top", ("@1", "has a list at the top"), text="- recipe: x\n"),
    Case("a single value", ("@1", "has a single value at the top"), text="recipe\n"),
    Case("a binary file", ("is a binary file",), text=b"\x7fELF\x00\x01\x02"),
    Case("not UTF-8", ("@2", "is not UTF-8: byte 0xe9"), text=b"recipe: x\nmodel: caf\xe9\n"),
    Case("a control character", ("@2", "control character"), text="recipe: x\nmodel: a\x07b\n"),
    Case(
        "a Python object",
        ("@1: seed", "has the tag", "python/object"),
        text="seed: !!python/object/apply:os.system [ls]\n",
    ),
    Case("two documents", ("is not YAML", "document"), text="recipe: a\n---\nrecipe: b\n"),
    Case("an undefined anchor", ("@1", "undefined alias"), text="recipe: *name\n"),
    Case("a key that is no text", ("@2", "put it in quotes"), text="stages:\n  no: {kind: sft}\n"),
    Case("a folder", ("sub: is a folder",), recipe="sub", files=(("sub/other.yaml", "recipe: x\n"),)),
    Case("no such file", ("there is no recipe 'recpe.yaml'", "did you mean 'recipe.yaml'?"), recipe="recpe.yaml"),
    Case(
        "no such shipped recipe", ("there is no recipe 'quickstrat'", "did you mean 'quickstart'?"), recipe="quickstrat"
    ),
]
CASES = [
    *KEYS,
    *OVERLAP,
    *VALUES,
    *COMBINATIONS,
    *FILES,
    *REFERENCES,
    *EXPRESSIONS,
    *TRL,
    *STUDIES,
    *COMMAND_LINE,
    *TEXTS,
]
