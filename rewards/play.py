"""The rules of a dialogue as a reward: play, then answers, several voices, a scene and an answer line a problem.

Each rule is a plain yes or no and its rate is logged by itself, as long lists of rules are what gets gamed. The rules
are ours: the paper's (arXiv:2505.07049) are not known to us but for "rule-based".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from reasonrl.errors import RewardError
from reasonrl.plays import ENVIRONMENT, Play, form_of, read_play
from reasonrl.plugins import near
from reasonrl.rewards.answer_lines import Answers, find_answers
from reasonrl.rewards.completions import text_of
from reasonrl.rewards.compound import items_of, line_form

RULES: dict[str, str] = {
    "tags": "both parts open and close, the play before the answers",
    "nested": "no tag inside another",
    "single": "one play, one answer part, and nothing outside them",
    "voices": "two voices with two turns each; the environment is none",
    "spoken": "every turn says something",
    "fresh": "most turns say what was not said word for word before",
    "scenes": "a scene a problem",
    "complete": "an answer line a problem",
    "extra": "no more answers than problems",
    "numbering": "answer lines are numbered 1, 2, … in order",
    "worked": "every final answer is said in the play, too",
}
"""Rules by name, and what holds where one is kept. `nested` and `single` are not asked where `tags` is broken."""
SCORES = ("gate", "share")
_SHORT = 64
Log = Callable[..., None]


class PlayReward:
    r"""1 if a response keeps all rules of a play, else 0; or the share of rules that it keeps.

    Args:
        rules: names of `RULES`; None takes all.
        score: `gate` (the product) or `share` (easier to game: a rule less costs little).
        play, answer: tags.
        scene, speaker: how scenes and turns begin (`reasonrl.plays.PlayForm`); None: the usual ways.
        environment: voices that are no agents.
        line: form of an answer's line with groups `number` and `answer`; None: a number and a box.
        voices, turns: how many voices must have how many turns.
        fresh: least share of turns that are not word for word one before.

    The number of problems is the column `k`, or that of `items`; 1 without them.
    """

    token_level = False
    instant = True

    def __init__(
        self,
        rules: Sequence[str] | None = None,
        score: str = "gate",
        play: str = "play",
        answer: str = "answer",
        scene: str | None = None,
        speaker: str | None = None,
        environment: Sequence[str] = ENVIRONMENT,
        line: str | None = None,
        voices: int = 2,
        turns: int = 2,
        fresh: float = 0.5,
    ) -> None:
        chosen = tuple(RULES if rules is None else rules)
        for rule in chosen:
            if rule not in RULES:
                raise RewardError(f"reward 'play': rule {rule!r} is unknown{near(str(rule), RULES)}")
        if not chosen:
            raise RewardError(f"reward 'play': rules is empty -> name some of {', '.join(RULES)}")
        if score not in SCORES:
            raise RewardError(f"reward 'play': score {score!r} is unknown{near(str(score), SCORES)}")
        try:
            self.form = form_of(play, answer, scene, speaker, tuple(environment))
        except ValueError as problem:
            raise RewardError(f"reward 'play': {problem}") from problem
        self.__name__ = "play"
        self.rules, self.score = chosen, score
        self.line = line_form(line, "play")
        self.voices, self.turns, self.fresh = voices, turns, fresh

    def __call__(
        self,
        prompts: Sequence[Any] | None = None,
        completions: Sequence[Any] = (),
        completion_ids: Sequence[Any] | None = None,
        *,
        log_extra: Log | None = None,
        log_metric: Log | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Scores; the broken rules of each go to `log_extra` as `play_broken`, each rule's pass rate to `log_metric` as
        `play/<rule>`.
        """
        kept = [
            self.kept(text_of(said), problems_in(columns, place, len(completions)))
            for place, said in enumerate(completions)
        ]
        if log_extra is not None:
            log_extra(
                "play_broken", [" ".join(rule for rule, held in of_one.items() if held is False) for of_one in kept]
            )
        if log_metric is not None:
            for rule in self.rules:
                asked = [of_one[rule] for of_one in kept if of_one[rule] is not None]
                if asked:
                    log_metric(f"play/{rule}", sum(map(bool, asked)) / len(asked))
        return [self._score(of_one) for of_one in kept]

    def kept(self, text: str, k: int = 1) -> dict[str, bool | None]:
        """Whether each of the rules is kept; None where it is not asked."""
        play = read_play(text, self.form)
        given = _given(find_answers(play.answer_text, self.line), k)
        return {rule: _CHECKS[rule](self, play, given, k) for rule in self.rules}

    def _score(self, kept: Mapping[str, bool | None]) -> float:
        if self.score == "gate":
            return float(all(held is not False for held in kept.values()))
        return sum(held is True for held in kept.values()) / len(kept)

    def _single(self, play: Play) -> bool:
        tags = play.tags
        if tags.outside or len(tags.blocks) != 2:
            return False
        return (tags.blocks[0][0], tags.blocks[1][0]) == (self.form.play, self.form.answer)

    def _voices(self, play: Play) -> bool:
        return sum([turns >= self.turns for turns in play.voices().values()]) >= self.voices

    def _fresh(self, play: Play) -> bool:
        said = [turn[1] for turn in play.turns]
        return not said or len(set(said)) >= self.fresh * len(said)


def _given(found: Answers, k: int) -> Given:
    """Answers with their numbers; without any numbered line, as many boxes as problems count by order."""
    if not found.lines and len(found.loose) == k:
        return [(number, answer) for number, answer in enumerate(found.loose, start=1)]
    return [*found.lines, *[(None, answer) for answer in found.loose]] if found.loose else [*found.lines]


def _numbered(given: Given, k: int) -> bool:
    numbers = [line[0] for line in given if line[0] is not None]
    if len(numbers) == k:
        return numbers == list(range(1, k + 1))
    return all(before < after for before, after in zip([0, *numbers], numbers, strict=False))


def _worked(play: Play, given: Given) -> bool:
    body = play.body_text
    missing = [line[1] for line in given if not _stands(line[1], body)]
    if not missing:
        return True
    plain = _plain(body)
    return all(_stands(_plain(answer), plain) for answer in missing)


def _plain(text: str) -> str:
    for mark in (" ", "\n", "$", "\\left", "\\right", "\\!", "\\,"):
        text = text.replace(mark, "")
    return text


def _stands(answer: str, text: str) -> bool:
    """Whether an answer occurs, and not only inside a longer number or word."""
    at = text.find(answer) if answer else 0
    while at >= 0:
        end = at + len(answer)
        joined = answer[:1].isalnum() and at > 0 and text[at - 1].isalnum()
        joined = joined or (answer[-1:].isalnum() and end < len(text) and text[end].isalnum())
        if not joined:
            return True
        # Long ones overlap themselves in made-up texts only, where single steps would take long.
        at = text.find(answer, at + 1 if len(answer) <= _SHORT else end)
    return False


Given: TypeAlias = list[tuple[int | None, str]]
"""Final answers with their numbers."""

_CHECKS: dict[str, Callable[[PlayReward, Play, Given, int], bool | None]] = {
    "tags": lambda reward, play, given, k: play.tags.sound,
    "nested": lambda reward, play, given, k: not play.tags.nested if play.tags.sound else None,
    "single": lambda reward, play, given, k: reward._single(play) if play.tags.sound else None,
    "voices": lambda reward, play, given, k: reward._voices(play),
    "spoken": lambda reward, play, given, k: "" not in [turn[1] for turn in play.turns],
    "fresh": lambda reward, play, given, k: reward._fresh(play),
    "scenes": lambda reward, play, given, k: len(play.scenes) >= k,
    "complete": lambda reward, play, given, k: len(given) >= k,
    "extra": lambda reward, play, given, k: len(given) <= k,
    "numbering": lambda reward, play, given, k: _numbered(given, k),
    "worked": lambda reward, play, given, k: _worked(play, given),
}


def problems_in(columns: Mapping[str, Any], place: int, count: int) -> int:
    """How many problems the prompt of a sample asks."""
    cell = columns["k"][place] if isinstance(columns.get("k"), Sequence) and len(columns["k"]) == count else None
    if isinstance(cell, int) and not isinstance(cell, bool):
        return cell
    return len(items_of(columns, place, count)) if columns.get("items") is not None else 1
