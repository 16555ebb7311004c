"""Where rows, rewards and models come from, and the defaults that stages inherit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, PlainSerializer, PlainValidator, Tag
from pydantic_core import PydanticCustomError

from reasonrl.expressions import Expression, ExpressionError
from reasonrl.recipe.fields import (
    OPERATIONAL,
    Config,
    Count,
    Flag,
    Issue,
    NonNegativeCount,
    Positive,
    PositiveFraction,
    Text,
)
from reasonrl.recipe.references import Reference, is_reference

PACKAGE = Path(__file__).resolve().parents[1]
COLUMNS = ("problem", "answer", "solution", "prompt", "id", "reward", "images")


def _paths(value: Any) -> str | tuple[str, ...] | Reference:
    if is_reference(value):
        try:
            return value if isinstance(value, Reference) else Reference.parse(value)
        except ValueError as error:
            raise PydanticCustomError("reference_syntax", "{message}", {"message": str(error)}) from error
    items = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, (list, tuple)) else ()
    if not items or not all(isinstance(item, str) and item for item in items):
        raise PydanticCustomError(
            "reasonrl",
            "is {value}; allowed: a file, a folder, a glob, or a list of them, or a stage",
            {"value": repr(value)},
        )
    return items[0] if isinstance(value, str) else items


def _written(value: Any) -> Any:
    return str(value) if isinstance(value, Reference) else value


def _expression(value: Any) -> Any:
    if isinstance(value, str):
        try:
            Expression(value)
        except ExpressionError as error:
            raise PydanticCustomError("reasonrl", "{message}", {"message": str(error)}) from error
    return value


class CompoundSource(Config):
    """Prompts of several of the rows' problems, for training (`reasonrl.data_tools.compound`).

    Attributes:
        k: numbers of problems in a prompt; each prompt draws one of them.
        framed: word even a single problem as several are worded.
        kind: of the answers.
    """

    k: Annotated[tuple[Count, ...], BeforeValidator(lambda value: (value,) if isinstance(value, int) else value)] = (1,)
    framed: Flag = True
    kind: Literal["math", "choice"] = "math"
    hints: ClassVar[Mapping[str, str]] = {"train_k": "k", "sizes": "k", "frame": "framed"}


SYSTEM_PROMPTS = ("dialogue", "monologue")
"""Shipped system prompts, `data_tools/<name>_prompt.md`."""


def system_prompt_path(name: str) -> Path:
    """The file of a shipped system prompt, or the file that is named; it need not be there."""
    return PACKAGE / "data_tools" / f"{name}_prompt.md" if name in SYSTEM_PROMPTS else Path(name).expanduser()


def read_system_prompt(raw: dict[str, Any]) -> dict[str, Any]:
    """Put the text of `system_prompt_file` under `system_prompt`, where there is such a file and no other text."""
    name = raw.get("system_prompt_file")
    if isinstance(name, str) and raw.get("system_prompt") is None:
        path = system_prompt_path(name)
        if path.is_file():
            raw["system_prompt"] = path.read_text(encoding="utf-8").strip()
    return raw


def system_prompt_issues(given: Mapping[str, Any]) -> list[Issue]:
    """What is wrong with `system_prompt_file`."""
    name = given.get("system_prompt_file")
    if not isinstance(name, str):
        return []
    path = system_prompt_path(name)
    if not path.is_file():
        text = f"there is no file {name!r}; relative paths start at the working directory, {Path.cwd()}"
        return [Issue("system_prompt_file", text, f"a file, or one of ours: {', '.join(SYSTEM_PROMPTS)}")]
    if given.get("system_prompt") not in (None, path.read_text(encoding="utf-8").strip()):
        return [Issue("system_prompt_file", "is given, and system_prompt too", "keep one of them")]
    return []


class DataSource(Config):
    """Rows from files, from the hub, or from a synthetic world; exactly one of `path`, `hub` and `world`.

    Attributes:
        path: a file, a folder, a glob, or a list of them, relative to the working directory; or `${stage:NAME}`, what a
            stage made, to be filtered or to have its columns renamed here.
        hub: a dataset's id on the hub, with `name` (configuration), `split` and `revision`.
        world: a synthetic world's name, with its `args`, `split` and `n` rows.
        format: jsonl, json, csv, parquet, an installed reader, or `file.py:function`; None tells from the ending.
        columns: our column -> their column; ours are problem, answer, solution, prompt, id, reward, images.
        system_prompt: the first message of every prompt; system_prompt_file names a file with it, or one of ours
            (`dialogue`, `monologue`).
        compound: several rows' problems in one prompt, for training.
        template: the user's message with column fields, such as `{problem}`; None takes the problem as it is.
        keep: a condition over numeric columns that a row has to meet, such as `0 < pass_rate < 1`.
        limit: at most so many rows, after `keep`.
        n: rows to make (world only).
        shuffle: order the rows by the recipe's seed.
    """

    path: Annotated[str | tuple[str, ...] | Reference, PlainValidator(_paths), PlainSerializer(_written)] | None = None
    hub: Text | None = None
    name: Text | None = None
    revision: Text | None = None
    world: Text | None = None
    args: dict[str, Any] = Field(default_factory=dict)
    format: Text | None = None
    split: Text | None = None
    columns: dict[Literal["problem", "answer", "solution", "prompt", "id", "reward", "images"], Text] = Field(
        default_factory=dict
    )
    system_prompt: str | None = None
    system_prompt_file: Annotated[Text | None, OPERATIONAL] = None
    compound: CompoundSource | None = None
    template: Text | None = None
    keep: Annotated[Text, BeforeValidator(_expression)] | None = None
    limit: Count | None = None
    n: Count | None = None
    shuffle: Flag = False

    @classmethod
    def prepare(cls, raw: dict[str, Any]) -> dict[str, Any]:
        return read_system_prompt(raw)

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        issues = system_prompt_issues(given)
        if given.keys() >= {"path", "hub", "world"}:
            used = [key for key in ("path", "hub", "world") if given[key] is not None]
            if len(used) != 1:
                names = " and ".join(used) or "none of them"
                fix = f"remove all but one, or set the others to null ({used[0]}: null)" if used else "add path: <file>"
                issues.append(
                    Issue(used[-1] if used else "", f"gives {names}; exactly one of path, hub and world is needed", fix)
                )
        owners = {"name": "hub", "revision": "hub", "n": "world", "args": "world", "format": "path"}
        for key, owner in owners.items():
            if given.get(key) and owner in given and given[owner] is None:
                issues.append(
                    Issue(
                        key,
                        f"belongs to a {owner} source, and this one has no {owner}",
                        f"remove {key} or give {owner}",
                    )
                )
        return issues


class RolloutConfig(Config):
    """How samples are generated: the engine and how much it does at a time.

    Attributes:
        batch_size: most samples decoded together (vLLM's `max_num_seqs`).
        max_batch_tokens: most response tokens of samples decoded together; the smaller of both counts.
        own_copy: the transformers engine decodes with a copy of the policy, as `max_staleness` needs; in training only.
        dtype: of the engine's weights; by default the policy's, in an evaluation the checkpoint's.
        length_aware: while training, learn how long answers are and draw the longest first, on servers of their own
            where there are several; samples stay the same.
        max_logprob_gap: largest mean difference (nats a token) allowed between engine and trainer, in the text both
            read and in the tokens drawn; training stops above it.
        lora: how a policy's adapter goes to vLLM: `merge` (the default) sends whole weights at every step, `adapter`
            the base once and then the adapter alone, whose product vLLM computes.
        urls, start: running vLLM servers, or how many to start on this machine.
        served_model, api_key_env: what to ask servers at `urls` for, and the variable that holds their key.
        weights_dir: folder for weights on their way to servers, seen by all of them.
        stall_timeout, request_timeout, recovery_timeout: seconds between two pieces of a sample, for a whole one, and
            without any server that can draw.

    The others are vLLM's own, under its names; None leaves them to vLLM (on CPU: eager, 1 GiB of cache).
    """

    engine: Literal["transformers", "vllm", "servers"] = "transformers"
    batch_size: Annotated[Count | None, OPERATIONAL] = None
    length_aware: Annotated[Flag, OPERATIONAL] = False
    max_batch_tokens: Annotated[Count | None, OPERATIONAL] = None
    own_copy: Annotated[Flag, OPERATIONAL] = False
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    max_logprob_gap: Annotated[Positive | None, OPERATIONAL] = None
    lora: Annotated[Literal["merge", "adapter"] | None, OPERATIONAL] = None
    max_model_len: Annotated[Count | None, OPERATIONAL] = None
    max_num_batched_tokens: Annotated[Count | None, OPERATIONAL] = None
    gpu_memory_utilization: Annotated[PositiveFraction | None, OPERATIONAL] = None
    kv_cache_memory_bytes: Annotated[Count | None, OPERATIONAL] = None
    enforce_eager: Annotated[Flag | None, OPERATIONAL] = None
    enable_prefix_caching: Annotated[Flag | None, OPERATIONAL] = None
    enable_sleep_mode: Annotated[Flag | None, OPERATIONAL] = None
    tensor_parallel_size: Annotated[Count | None, OPERATIONAL] = None
    urls: Annotated[tuple[Text, ...] | None, OPERATIONAL] = None
    start: Annotated[Count | None, OPERATIONAL] = None
    served_model: Annotated[Text | None, OPERATIONAL] = None
    api_key_env: Annotated[Text | None, OPERATIONAL] = None
    weights_dir: Annotated[Text | None, OPERATIONAL] = None
    stall_timeout: Annotated[Positive | None, OPERATIONAL] = None
    request_timeout: Annotated[Positive | None, OPERATIONAL] = None
    recovery_timeout: Annotated[Positive | None, OPERATIONAL] = None

    hints: ClassVar[Mapping[str, str]] = {
        "max_num_seqs": "batch_size",
        "torch_dtype": "dtype",
        "gpu_memory": "gpu_memory_utilization",
        "tp": "tensor_parallel_size",
        "prefix_caching": "enable_prefix_caching",
        "sleep": "enable_sleep_mode",
        "base_url": "urls",
        "servers": "start",
        "vllm_server_base_url": "urls",
    }

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        engine = given.get("engine")
        issues = []
        if given.get("own_copy") and engine != "transformers":
            text = f"is true, but engine: {engine} has weights of its own anyway"
            issues.append(Issue("own_copy", text, "remove it"))
        for key in (*VLLM_OPTIONS, *SERVERS_OPTIONS):
            knows = "servers" if key in SERVERS_OPTIONS else "vllm" if key == "enable_sleep_mode" else "vllm or servers"
            if given.get(key) is not None and engine not in knows.split(" or "):
                fix = f"remove it, or set engine: {knows}"
                issues.append(Issue(key, f"is {given[key]}, which means something to engine: {knows} only", fix))
        if engine != "servers":
            return issues
        if (given.get("urls") is None) == (given.get("start") is None):
            issues.append(
                Issue("engine", "servers are at urls or are started, one of both", "start: 2, or urls: [http…]")
            )
        elif given.get("start") is None:
            for key in STARTED_OPTIONS:
                if given.get(key) is not None:
                    text = f"is {given[key]}, which means something to servers that are started"
                    issues.append(Issue(key, text, "give it to the servers at urls when you start them"))
        else:
            for key in ("served_model", "api_key_env"):
                if given.get(key) is not None:
                    issues.append(
                        Issue(key, f"is {given[key]!r}, which means something to servers at urls", "remove it")
                    )
        return issues


#: Fields of `rollout` that mean something in training only; evaluations do not inherit them.
TRAINING_OPTIONS = ("own_copy", "length_aware", "max_logprob_gap")
#: Fields of `rollout` that only vLLM's engines read.
VLLM_OPTIONS = (
    "dtype",
    "max_model_len",
    "max_num_batched_tokens",
    "gpu_memory_utilization",
    "kv_cache_memory_bytes",
    "enforce_eager",
    "enable_prefix_caching",
    "enable_sleep_mode",
    "tensor_parallel_size",
    "lora",
)
#: Of these, what is said to a server when it is started.
STARTED_OPTIONS = (
    "max_model_len",
    "max_num_batched_tokens",
    "gpu_memory_utilization",
    "kv_cache_memory_bytes",
    "enforce_eager",
    "enable_prefix_caching",
    "tensor_parallel_size",
)
#: Fields of `rollout` that only the fleet of servers reads.
SERVERS_OPTIONS = (
    "urls",
    "start",
    "served_model",
    "api_key_env",
    "weights_dir",
    "stall_timeout",
    "request_timeout",
    "recovery_timeout",
)


class RewardTerm(Config):
    """One reward of a weighted sum."""

    name: Text
    weight: Annotated[float, Field(strict=True, allow_inf_nan=False)] = 1.0
    args: dict[str, Any] = Field(default_factory=dict)


class Loop(Config):
    """Stages that are repeated; their instances are named `train.1`, `train.2`, …"""

    stages: Annotated[tuple[str, ...], Field(min_length=1)]
    times: Count


class Study(Config):
    """Arms and seeds to be run and compared.

    Attributes:
        overrides: tokens `a.b=c` for all its runs, under those of the command line: a short study takes smaller exams.
    """

    arms: Annotated[tuple[str, ...], Field(min_length=1)] = ("default",)
    seeds: Annotated[tuple[NonNegativeCount, ...], Field(min_length=1)] = (0,)
    overrides: tuple[Text, ...] = ()

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        return [
            Issue(key, f"names {value!r} twice", "name each once")
            for key in ("arms", "seeds")
            if key in given
            for value in sorted({item for item in given[key] if list(given[key]).count(item) > 1})
        ]


def _reference_tag(value: Any) -> str:
    return "@reference" if is_reference(value) else "@value"


def _reward_tag(value: Any) -> str:
    return (
        "@list"
        if isinstance(value, (list, tuple))
        else "@term"
        if isinstance(value, (Mapping, RewardTerm))
        else "@name"
    )


def _named_term(value: Any) -> Any:
    """A reward of a list; a bare name is short for `{name: …}`."""
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, (Mapping, RewardTerm)):
        allowed = "is {value}; allowed: a reward's name, or a mapping of name, weight and args"
        raise PydanticCustomError("reasonrl", allowed, {"value": repr(value)})
    return value


def _plain_reward(value: Any) -> Any:
    if isinstance(value, RewardTerm):
        return value.model_dump()
    return [term.model_dump() for term in value] if isinstance(value, tuple) else value


# A tag that begins with '@' names a branch of a union, not a key: messages leave it out.
ModelSource = Annotated[
    Annotated[Text, Tag("@value")] | Annotated[Reference, Tag("@reference")], Discriminator(_reference_tag)
]
Data = Annotated[
    Annotated[DataSource, Tag("@value")] | Annotated[Reference, Tag("@reference")], Discriminator(_reference_tag)
]
Seconds = Annotated[
    Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False), Tag("@value")]
    | Annotated[Reference, Tag("@reference")],
    Discriminator(_reference_tag),
]
ListedReward = Annotated[RewardTerm, BeforeValidator(_named_term)]
RewardSpec = Annotated[
    Annotated[
        Annotated[Text, Tag("@name")]
        | Annotated[RewardTerm, Tag("@term")]
        | Annotated[tuple[ListedReward, ...], Field(min_length=1), Tag("@list")],
        Discriminator(_reward_tag),
    ],
    AfterValidator(_plain_reward),
    PlainSerializer(lambda value: value),  # plain already: the union's own serializer would warn about it
]
