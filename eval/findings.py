"""What should make a reader of an evaluation look twice, told beside its figures."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

MUCH_TRUNCATED = 0.10
"""From this share of truncated samples on the figures say more about `max_tokens` than about the model."""

SOME = 0.01
"""From this share of samples on the other findings are told."""

ABOUT = ("limited", "rows", "set_aside", "repeated")
"""What is known of a suite's problems, as it stands in an entry of `results.json`."""

_TAIL = 300


def gold_unread(text: str, gold: str) -> bool:
    """Whether the gold stands at the end of a response, by itself and outside the thinking.

    The check of matharena's viewer ("gold present but not extracted"): a response that was judged otherwise and of
    which this is true may have been misread. One digit alone stands in too many texts to tell anything.

    Args:
        text: the response; its last 300 characters are looked at.
        gold: the right answer as the data has it.
    """
    bare = gold.strip().strip("$").strip()
    if len(bare) < 2 or len(bare) > _TAIL:
        return False
    end = text.rpartition("</think>")[2][-_TAIL:]
    return re.search(rf"(?<![\w.\\{{]){re.escape(bare)}(?![\w}}]|\.\d)", end) is not None


def findings(
    rows: Sequence[Mapping[str, Any]],
    golds: Mapping[str, str | None],
    *,
    max_tokens: int,
    temperature: float,
    about: Mapping[str, Any] | None = None,
) -> list[str]:
    """Sentences for whoever reads the figures; none where there is nothing to say.

    Args:
        rows: judged samples.
        golds: the right answer by problem id.
        max_tokens, temperature: of the sampling.
        about: `limited` (`{"problems": 20, "of": 500}`), `rows` (`verified`, `unverified`, `other`), `set_aside` (bad
            rows, a line a reason) and `repeated` (how many rows) where known.
    """
    sampled = [row for row in rows if row["metric"] == "sample"]
    said = about_rows(about or {})
    truncated = [row for row in sampled if row["finish_reason"] == "length"]
    if len(truncated) >= MUCH_TRUNCATED * len(sampled) and truncated:
        right = sum(bool(row["right"]) for row in truncated)
        but = f", of which {right:,} held the right answer" if right else ""
        said.append(
            f"{_share(truncated, sampled)} truncated at {max_tokens:,} tokens and counted as wrong{but} -> raise"
            " max_tokens"
        )
    others = sorted({str(row["finish_reason"]) for row in sampled} - {"stop", "length"})
    if others:
        ended = [row for row in sampled if row["finish_reason"] in others]
        words = ", ".join(others).encode("utf-8", "replace").decode()  # a terminal takes no half surrogate pair
        said.append(f"{_share(ended, sampled)} ended by {words} and counted as wrong")
    said += _shares(sampled, golds)
    if temperature > 0 and _repeats(sampled):
        said.append(
            "all samples of every problem are the same text though they were sampled -> seed or temperature does not"
            " reach the engine"
        )
    return said


def about_rows(about: Mapping[str, Any]) -> list[str]:
    """Sentences on the problems themselves; `about` as in `findings`, or an entry of `results.json`."""
    said = []
    if about.get("limited"):
        limited = about["limited"]
        said.append(
            f"limited to the first {limited['problems']:,} of {limited['of']:,} problems: not the suite's figure"
        )
    if about.get("rows") == "other":
        said.append("its rows are not those that the suite's entry knows: another revision of the data")
    if about.get("set_aside"):
        said.append(f"rows set aside and in no figure: {'; '.join(about['set_aside'])}")
    if about.get("repeated"):
        said.append(f"{about['repeated']:,} rows repeat the problem and answer of another, and count as problems too")
    return said


def _shares(sampled: Sequence[Mapping[str, Any]], golds: Mapping[str, str | None]) -> list[str]:
    said = []
    empty = [row for row in sampled if not row["text"].strip()]
    unread = [
        row
        for row in sampled
        if row["verdict"] in ("wrong", "no_answer")
        and (gold := golds.get(row["id"])) is not None
        and gold_unread(row["text"], gold)
    ]
    unscored = [row for row in sampled if row["correct"] is None]
    late = [row for row in sampled if row["verdict"] in ("timeout", "crash")]
    for found, words in (
        (empty, "are empty"),
        (unread, "have the gold at their end and were not judged right -> look at them: the answer may be misread"),
        (late, "made the grader run into its limits and counted as wrong"),
    ):
        if found and len(found) >= SOME * len(sampled):
            said.append(f"{_share(found, sampled)} {words}")
    if unscored:
        short = len({row["id"] for row in unscored})
        said.append(
            f"{_share(unscored, sampled)} could not be scored (bad gold or a fault) and are left out; {short:,}"
            " problems have fewer scored samples than n, and are in no figure that needs more than they have (pass@n)"
        )
    return said


def _share(found: Sequence[Any], of: Sequence[Any]) -> str:
    return f"{len(found):,} of {len(of):,} samples ({100 * len(found) / len(of):.1f} %)"


def _repeats(sampled: Sequence[Mapping[str, Any]]) -> bool:
    texts: dict[str, list[str]] = defaultdict(list)
    for row in sampled:
        texts[row["id"]].append(row["text"])
    several = [found for found in texts.values() if len(found) > 1]
    # Fewer problems, or answers of some characters, may agree by chance.
    return (
        len(several) >= 5
        and all(len(set(found)) == 1 for found in several)
        and any(len(found[0]) > 40 for found in several)
    )
