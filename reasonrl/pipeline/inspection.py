"""What a dry run can look at without training: tokenizers, rows, prompt lengths, memory."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.errors import ModelError
from reasonrl.pipeline.context import StageResult

if TYPE_CHECKING:
    from reasonrl.recipe import StageInstance

MEASURED_ROWS = 256
HEAD = 160
NO_ROWS = frozenset({"system_prompt", "system_prompt_file", "template", "compound"})
"""Fields of a data source that say how rows are asked, not which."""


def is_data_source(value: Any) -> bool:
    """Whether a config value is a data source (known by its fields)."""
    return all(hasattr(value, name) for name in ("path", "hub", "world"))


class Inspection:
    """Looks at models and data of the stages, standing in for what earlier stages have not made yet.

    Args:
        instances: the stages.
        finished: results of those that are done.
        seed: the recipe's.

    Attributes:
        unchecked: what would need the hub.
    """

    def __init__(self, instances: Sequence[StageInstance], finished: Mapping[str, StageResult], seed: int) -> None:
        self._configs: dict[str, Any] = {instance.name: instance.config for instance in instances}
        self._finished = finished
        self._seed = seed
        self._tokenizers: dict[str, Any] = {}
        self._sizes: dict[Any, Any] = {}
        self.unchecked: list[str] = []

    def model_lines(self, config: Any) -> list[str]:
        """Tokenizer and memory of the stage's models, as far as they are on this machine."""
        lines: list[str] = []
        policy = self._resolve(getattr(config, "model", None))
        if policy is None:
            return lines
        name, stand_in = policy
        if self.tokenizer(name) is not None:
            lines.append(f"model: {name}{stand_in}, tokenizer of {len(self.tokenizer(name))} tokens")
            lines += self._memory_lines(config, name)
        return lines

    def needs_hub(self, config: Any) -> bool:
        """Whether something this stage reads is on the hub alone; it is then listed as unchecked.

        Raises ModelError for a local model that is not there.
        """
        needed = False
        for field in ("model", "critic_model"):
            policy = self._resolve(getattr(config, field, None))
            needed |= policy is not None and self.tokenizer(policy[0]) is None
        for _, source in _sources(config):
            if is_data_source(source) and source.hub is not None:
                self._leave_unchecked(f"data set {source.hub}")
                needed = True
        return needed

    def data_lines(self, config: Any) -> list[str]:
        """Rows, prompt lengths and the first prompt of each of the stage's data sources."""
        policy = self._resolve(getattr(config, "model", None))
        name, stand_in = policy if policy is not None else (None, "")
        # Steps are judged by their labels; the other stages check answers, unless their reward reads something else.
        require: tuple[str, ...] = ("problem",) if config.kind in ("prm", "segment") else ("problem", "answer")
        if config.kind == "rollout":
            from reasonrl.pipeline.stages.common import required_columns

            require = required_columns(config.reward)
        lines: list[str] = []
        for key, source in _sources(config):
            of_stage = source.path if is_data_source(source) else source
            if hasattr(of_stage, "stage"):
                made = self._finished[of_stage.stage].data if of_stage.stage in self._finished else None
                lines.append(f"{key}: {made or f'{of_stage}, not made yet: nothing to look at'}")
            elif source.hub is None:
                lines += self._rows(key, source, name, stand_in, require)
        return lines

    def plan_lines(self, config: Any) -> list[str]:
        """The sums of training on samples that are still to be drawn; nothing for other stages."""
        if config.kind != "bcpg":
            return []
        drawn = config
        while drawn is not None and drawn.kind != "rollout":
            source = getattr(drawn.data, "path", drawn.data)
            drawn = self._configs.get(getattr(source, "stage", ""))
            if drawn is not None and not hasattr(drawn, "data"):
                return []
        if drawn is None or not is_data_source(drawn.data) or drawn.data.hub is not None:
            return []
        from reasonrl.data_tools import load_rows
        from reasonrl.recipe.logged_plan import LoggedPlan

        options = drawn.data.model_dump(exclude=NO_ROWS)
        if hasattr(drawn.data.path, "stage"):
            return []
        rows = load_rows(**options, seed=self._seed, require=("problem",))
        plan = LoggedPlan(
            len(rows),
            drawn.n,
            drawn.max_tokens,
            config.epochs,
            config.max_steps,
            config.samples_per_step,
            config.launch.num_processes,
        )
        return [f"plan: {plan}"]

    def tokenizer(self, name: str | None) -> Any:
        """The tokenizer of a model on this machine; None (and listed as unchecked) if the hub would be needed."""
        from reasonrl.models import is_tiny, load_tokenizer

        if name is None:
            return None
        if name not in self._tokenizers:
            self._tokenizers[name] = None
            if is_tiny(name) or Path(name).exists() or _is_cached(name):
                self._tokenizers[name] = load_tokenizer(name)
            elif name.startswith((".", "/", "~")) or name.count("/") > 1:
                raise ModelError(f"model: {name!r} is not there -> give a folder that is, a hub id, or 'tiny:qwen2'")
            else:
                self._leave_unchecked(f"model {name}")
        return self._tokenizers[name]

    def _leave_unchecked(self, item: str) -> None:
        if item not in self.unchecked:
            self.unchecked.append(item)

    def _resolve(self, value: Any) -> tuple[str, str] | None:
        """The model a `model` field stands for, and words that mark a stand-in.

        A stage that is not done is stood in for by the model it starts from.
        """
        if value is None or isinstance(value, str):
            return None if value is None else (value, "")
        wanted = str(value)
        while not isinstance(value, str):
            if value.stage in self._finished and self._finished[value.stage].model is not None:
                return str(self._finished[value.stage].model), ""
            value = getattr(self._configs[value.stage], "model", None)
            if value is None:
                return None
        return value, f" (stand-in: {wanted} is not made yet)"

    def _rows(self, key: str, source: Any, model: str | None, stand_in: str, require: tuple[str, ...]) -> list[str]:
        from reasonrl.data_tools import as_messages, load_rows, prompt_ids, render_prompt
        from reasonrl.pipeline.stages.common import compounded

        options = source.model_dump(exclude=NO_ROWS)
        rows = compounded(load_rows(**options, seed=self._seed, require=require), source, self._seed)
        lines = [f"{key}: {len(rows)} rows from {source.path or source.world} ({rows.report})"]
        tokenizer = self.tokenizer(model)
        if tokenizer is None:
            return lines
        messages = [as_messages(row, source.system_prompt, source.template) for row in rows[:MEASURED_ROWS]]
        lengths = [len(prompt_ids(tokenizer, message)) for message in messages]
        if lengths:
            lines.append(
                f"{key}: prompts of {min(lengths)} to {max(lengths)} tokens, median {statistics.median(lengths):g} "
                f"(first {len(lengths)} rows{', tokenizer a stand-in' if stand_in else ''})"
            )
            first = render_prompt(tokenizer, messages[0])
            lines.append(f"{key}: first prompt {first[:HEAD]!r}{'…' if len(first) > HEAD else ''}")
        return lines

    def _memory_lines(self, config: Any, name: str) -> list[str]:
        """Weights, gradients and AdamW's two moments, per process; a lower bound without activations."""
        if config.kind not in ("sft", "ppo", "prm", "bcpg", "dpo"):
            return []
        words = [self._memory_of(config, config.lora, name, "reward model" if config.kind == "prm" else "policy")]
        if config.kind == "ppo" and config.advantage == "gae":
            critic = (self._resolve(config.critic_model) or (name, ""))[0]
            critic = critic if self.tokenizer(critic) is not None else name
            words.append(self._memory_of(config, config.critic_lora, critic, "critic"))
        tokens = config.tokens_per_microbatch if config.kind == "ppo" else None
        logits = (
            ""
            if tokens is None
            else f", and up to {_gib(4 * tokens * self._vocabulary(name))} for a micro-batch's logits"
        )
        way = config.launch.deepspeed or config.launch.fsdp
        sharing = f"shared out by {way}" if way else "not sharded"
        return [
            f"memory: {', '.join(text for text, _ in words)}: {_gib(sum(size for _, size in words))} a process for"
            f" weights, gradients and optimizer (16 bytes a trained parameter, {sharing}){logits}; activations come on"
            " top"
        ]

    def _memory_of(self, config: Any, lora: Any, name: str, what: str) -> tuple[str, float]:
        """Words for a model's parameters, and the bytes that training holds for them."""
        from reasonrl.models.lora import Lora
        from reasonrl.models.memory import BASE_BYTES, training_bytes

        adapter = Lora.of(lora)
        found = self._parameters(name, adapter)
        base = str((getattr(config, "trl_args", {}).get("model_init_kwargs") or {}).get("dtype", "float32"))
        if adapter is not None and adapter.quantised:
            base = "4bit" if adapter.load_in_4bit else "8bit"
        size = training_bytes(
            found,
            base=base if base in BASE_BYTES else "float32",
            zero_stage=config.launch.zero_stage,
            processes=config.launch.num_processes,
        )
        text = f"{what} {found.total / 1e6:.1f} M parameters"
        return (text if adapter is None else f"{text} ({found.trained / 1e6:.1f} M trained)"), size

    def _parameters(self, name: str, lora: Any = None) -> Any:
        """Parameter counts, from the config alone: nothing is allocated."""
        key = (name, lora)
        if key not in self._sizes:
            from transformers import AutoConfig

            from reasonrl.models import resolve_model
            from reasonrl.models.memory import count_parameters

            self._sizes[key] = count_parameters(AutoConfig.from_pretrained(resolve_model(name)), lora)
        return self._sizes[key]

    def _vocabulary(self, name: str) -> int:
        return len(self.tokenizer(name))


def _gib(count: float) -> str:
    return f"{count / 2**30:.2g} GiB" if count >= 2**30 else f"{count / 2**20:.2g} MiB"


def _sources(config: Any) -> Iterator[tuple[str, Any]]:
    """The data fields of a stage: sources and references, by dotted key."""
    for key in ("data", "eval_data"):
        value = getattr(config, key, None)
        if value is not None:
            yield key, value
    suites = getattr(config, "suites", None)
    if isinstance(suites, Mapping):
        for name, suite in suites.items():
            yield f"suites.{name}.data", suite.data


def _is_cached(name: str) -> bool:
    """Whether a hub model's config is in the local cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except HFValidationError:
        return False
