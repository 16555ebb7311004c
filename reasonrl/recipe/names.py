"""Names of rewards, worlds and suites that a recipe may use: a table of the built-in ones, and what entry points add.

The recipe floor imports no other room, so the built-in names stand here once more; a test holds them equal to the
registries.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.metadata import entry_points

# name -> the names of its arguments
_JUDGE = frozenset(
    {
        "endpoint",
        "votes",
        "temperature",
        "max_tokens",
        "seed",
        "re_asks",
        "keep_thinking",
        "problem",
        "prompt",
    }
)
_SPATIAL = frozenset(
    {"measure", "tau", "gold", "frame", "gold_frame", "gold_layout", "image_size", "right_at", "least"}
)
REWARDS: dict[str, frozenset[str]] = {
    "math": frozenset({"policy", "gold", "workers", "time_limit"}),
    "choice": frozenset({"gold", "options", "policy"}),
    "exact": frozenset({"pattern", "gold", "groups"}),
    "format": frozenset({"style", "think_in_prompt"}),
    "length": frozenset({"max_tokens", "buffer_tokens"}),
    "overlong": frozenset({"max_tokens", "buffer_tokens"}),
    "length_band": frozenset({"max_tokens", "min_tokens", "part", "ramp_tokens", "unit", "end_ids"}),
    "repetition": frozenset({"ngram_size", "max_penalty", "unit", "per_token"}),
    "cosine": frozenset({"max_tokens", "correct", "wrong", "exceed", "reward", "unit"}),
    "code": frozenset(
        {
            "score",
            "tests",
            "time_limit",
            "total_time_limit",
            "memory_mb",
            "max_tests",
            "tolerance",
            "workers",
            "requires_isolation",
        }
    ),
    "boxes": _SPATIAL | {"layout"},
    "points": _SPATIAL,
    "stop": frozenset({"eos_token_ids", "max_tokens"}),
    "compound": frozenset({"score", "kind", "line", "tag", "framed", "policy", "workers", "time_limit"}),
    "play": frozenset(
        {
            "rules",
            "score",
            "play",
            "answer",
            "scene",
            "speaker",
            "environment",
            "line",
            "voices",
            "turns",
            "fresh",
            "think_in_prompt",
        }
    ),
    "gate": frozenset({"parts", "begin_all"}),
    "route": frozenset({"rewards", "column", "default"}),
    "llm_verifier": _JUDGE | {"vote_rule", "gold", "reject_unsupported", "rule_first"},
    "pairwise": _JUDGE | {"reference", "scale", "length_penalty", "length_tolerance", "flags"},
    "checklist": _JUDGE | {"rubric", "per_item"},
}
# name -> the arguments that it cannot do without
REQUIRED_ARGS: dict[str, frozenset[str]] = {
    "exact": frozenset({"pattern"}),
    "length": frozenset({"max_tokens", "buffer_tokens"}),
    "overlong": frozenset({"max_tokens", "buffer_tokens"}),
    "length_band": frozenset({"max_tokens"}),
    "cosine": frozenset({"max_tokens"}),
    "gate": frozenset({"parts"}),
    "route": frozenset({"rewards"}),
    "llm_verifier": frozenset({"endpoint"}),
    "pairwise": frozenset({"endpoint"}),
    "checklist": frozenset({"endpoint"}),
}
# name -> the arguments that hold rewards themselves: one, a list of them, or a mapping of names to them
NESTED_REWARDS: dict[str, str] = {"gate": "parts", "route": "rewards", "cosine": "reward"}
# (name, argument) -> the words it may be
ARG_CHOICES: dict[tuple[str, str], frozenset[str]] = {
    ("format", "style"): frozenset({"boxed", "think", "think_answer"}),
    ("length_band", "part"): frozenset({"whole", "think"}),
    ("length_band", "unit"): frozenset({"tokens", "words", "characters"}),
    ("repetition", "unit"): frozenset({"words", "tokens"}),
    ("cosine", "unit"): frozenset({"tokens", "words", "characters"}),
    ("compound", "score"): frozenset({"mean", "all"}),
    ("compound", "kind"): frozenset({"math", "choice", "exact"}),
    ("compound", "policy"): frozenset({"strict", "default", "lenient"}),
    ("play", "score"): frozenset({"gate", "share"}),
    ("code", "score"): frozenset({"all", "pass_rate"}),
    ("boxes", "measure"): frozenset({"iou", "step_gui"}),
    ("boxes", "frame"): frozenset({"pixels", "unit", "thousand"}),
    ("boxes", "layout"): frozenset({"xyxy", "xywh"}),
    ("points", "measure"): frozenset({"step_gui", "gaussian", "linear", "inside"}),
    ("points", "frame"): frozenset({"pixels", "unit", "thousand"}),
    ("math", "policy"): frozenset({"strict", "default", "lenient"}),
    ("exact", "groups"): frozenset({"first", "all"}),
}
WORLDS: dict[str, frozenset[str]] = {
    "big_integers": frozenset({"kinds", "low", "high", "modulus"}),
    "arithmetic": frozenset({"operations", "modulus", "hard_facts", "slip", "self_correction", "teacher_seed"}),
    "compound_chain": frozenset(
        {
            "k",
            "shares",
            "scenes",
            "voices",
            "checks",
            "slip",
            "hard_facts",
            "hard_slip",
            "teacher_seed",
            "modulus",
            "places",
        }
    ),
    "reflective": frozenset(
        {
            "preset",
            "operations",
            "operators",
            "hard_facts",
            "slip",
            "easy_slip",
            "repair",
            "false_repair",
            "recheck",
            "teacher_seed",
            "each",
        }
    ),
    "visual": frozenset({"kinds", "difficulty", "modality", "size", "wear", "slip"}),
    "grid": frozenset(
        {
            "mix",
            "operands",
            "misread",
            "needless",
            "recompute",
            "halves",
            "backward",
            "noise",
            "contrast",
            "modulus",
            "slack",
        }
    ),
    "worksheet": frozenset({"slip", "room", "messages", "copies", "longest"}),
}
READERS = frozenset({"jsonl", "json", "csv", "parquet"})
# Of the shipped entries of eval/suites.
SUITES = frozenset(
    [
        "aime24",
        "aime25",
        "aime26",
        "amc23",
        "apex_2025",
        "blink",
        "brumo_2025",
        "charxiv_descriptive",
        "charxiv_reasoning",
        "cmimc_2025",
        "dynamath",
        "gpqa_diamond",
        "gsm8k",
        "hallusionbench",
        "hle_text",
        "hmmt_feb_2025",
        "hmmt_nov_2025",
        "imo_answerbench",
        "imo_answerbench_v2",
        "livecodebench_v5",
        "livecodebench_v6",
        "logicvista",
        "math",
        "math500",
        "mathverse_vision_only",
        "mathvision",
        "mathvision_testmini",
        "mathvision_testmini_200",
        "mathvista",
        "minerva",
        "mm_vet",
        "mmbench_cn",
        "mmbench_en",
        "mme",
        "mmlu",
        "mmlu_pro",
        "mmmu_pro",
        "mmmu_pro_vision",
        "mmstar",
        "olympiadbench",
        "phyx",
        "pope",
        "realworldqa",
        "smt_2025",
        "we_math",
    ]
)
PROTOCOLS = frozenset(["bcpg", "dapo", "matharena", "open_r1", "orz", "ovr", "pacore", "qwen25_math", "step3vl"])
# Models built in code -> the sizes that may follow, as in tiny:qwen2:hidden_size=256
_TINY_SIZES = frozenset(
    {
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
        "spread_by_width",
        "seed",
    }
)
_TINY_VISION_SIZES = _TINY_SIZES - {"spread_by_width"} | {"patch_size", "vision_hidden_size", "vision_layers"}
TINY_MODELS: dict[str, frozenset[str]] = {
    "tiny:qwen2": _TINY_SIZES,
    "tiny:qwen3": _TINY_SIZES,
    "tiny:llava": _TINY_VISION_SIZES | {"image_size"},
    "tiny:qwen2_5_vl": _TINY_VISION_SIZES | {"max_image_tokens"},
    "tiny:idefics3": _TINY_VISION_SIZES | {"image_size", "max_image_size"},
}


@cache
def known_names(group: str) -> frozenset[str]:
    """Built-in and installed names of `rewards`, `worlds`, `suites`, `readers` or `judges`."""
    built_in: dict[str, Iterable[str]] = {"rewards": REWARDS, "worlds": WORLDS, "readers": READERS, "suites": SUITES}
    return frozenset(built_in.get(group, ())) | {entry.name for entry in entry_points(group=f"reasonrl.{group}")}
