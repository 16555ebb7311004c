"""The rules of a dialogue as a reward: play, then answers, several voices, a scene and an answer line a problem.

Each rule is a plain yes or no and its rate is logged by itself, as long lists of rules are what gets gamed. The rules
are ours: the paper's (arXiv:2505.07049) are not known to us but for "rule-based".
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from reasonrl.errors import RewardError
from reasonrl.plays import ENVIRONMENT, Play, by_voice, form_of, read_play
from reasonrl.plugins import near
from reasonrl.rewards.answer_lines import Answers, find_answers
from reasonrl.rewards.completions import text_of
from reasonrl.rewards.compound import items_of, line_form

RULES: dict[str, str] = {
    "tags": "both parts open and close, the play before the answers",
    "nested": "no tag inside another",
    "single": "one play, one answer part, and nothing outside them",
    "think": "where there is a think block, it closes once, behind the play and before the answers",
    "voices": "two voices with two turns each; the environment is none",
    "spoken": "every turn says something: a letter or a digit at least",
    "fresh": "most turns say what was not said before in the same words",
    "scenes": "a scene a problem, and in each something is said; by a voice, where there are any",
    "complete": "an answer line a problem, none of them empty",
    "extra": "no more answers than problems",
    "numbering": "answer lines are numbered 1, 2, … in order",
    "worked": "every final answer is said in the play, too: by a voice, where there are any",
}
"""Rules by name, and what holds where one is kept. `nested`, `single` and `think` are not asked where `tags` is broken,
and `think` not where no think block is."""
SCORES = ("gate", "share")
_SHORT, _TRIES = 64, 32
_SAID = re.compile(r"[^\W_]")
_MARKS = string.punctuation + " " + "".join(map(chr, range(32))) + "…。，！？：；「」“”‘’–—"
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
        fresh: least share of turns that do not repeat one before, in whatever case and between whatever marks.
        think_in_prompt: the chat template's generation prompt already opens `<think>`: the response has to close it.

    The number of problems is that of the column `items`, or the column `k`; 1 without them.
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
        think_in_prompt: bool = False,
    ) -> None:
        _check_numbers({"voices": voices, "turns": turns}, fresh, environment)
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
        self.think_in_prompt = think_in_prompt

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
        seen = _Seen(play, _given(find_answers(play.answer_text, self.line), k), k)
        return {rule: _CHECKS[rule](self, seen) for rule in self.rules}

    def _score(self, kept: Mapping[str, bool | None]) -> float:
        if self.score == "gate":
            return float(all(held is not False for held in kept.values()))
        return sum(held is True for held in kept.values()) / len(kept)

    def _single(self, seen: _Seen) -> bool | None:
        tags = seen.play.tags
        if not tags.sound:
            return None
        if tags.outside or len(tags.blocks) != 2:
            return False
        return (tags.blocks[0][0], tags.blocks[1][0]) == (self.form.play, self.form.answer)

    def _voices(self, seen: _Seen) -> bool:
        return sum([turns >= self.turns for turns in by_voice(seen.agents).values()]) >= self.voices

    def _fresh(self, seen: _Seen) -> bool:
        return len(set(seen.words)) >= self.fresh * len(seen.words)

    def _think(self, seen: _Seen) -> bool | None:
        play = seen.play
        opens, closes = play.thinks
        if not play.tags.sound or not (opens or closes or self.think_in_prompt):
            return None
        if len(closes) != 1 or len(opens) > (0 if self.think_in_prompt else 1):
            return False
        close, begin = closes[0], play.body[0]
        if opens and close < begin:  # templates that do without thinking write an empty block first
            return opens[0] < close and not play.text[opens[0] + len("<think>") : close].strip()
        return (not opens or opens[0] < begin) and play.body[1] <= close < play.answer[0]


class _Seen:
    """A play, its final answers and how many were asked; and of its turns what several rules look at."""

    __slots__ = ("agents", "given", "k", "play", "words")

    def __init__(self, play: Play, given: Given, k: int) -> None:
        self.play, self.given, self.k = play, given, k
        self.agents = play.agents()
        self.words = [turn[1].strip(_MARKS).lower() for turn in play.turns]


def _says(text: str) -> bool:
    """Whether there is a letter or a digit in it."""
    return text[:1].isalnum() or _SAID.search(text) is not None


def _spoken(reward: PlayReward, seen: _Seen) -> bool:
    if seen.play.text.isascii():  # no other marks than those that were taken off
        return "" not in seen.words
    return all(map(_says, seen.words))


def _scenes(reward: PlayReward, seen: _Seen) -> bool:
    agents, held = seen.agents, 0
    for scene in seen.play.scenes:
        for speaker, text, _, _ in scene.turns:
            if (speaker in agents or not agents) and _says(text):
                held += 1
                break
    return held >= seen.k


def _check_numbers(counts: Mapping[str, Any], fresh: Any, environment: Any) -> None:
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise RewardError(f"reward 'play': {name} {value!r} -> a whole number of at least 1")
    if isinstance(fresh, bool) or not isinstance(fresh, (int, float)) or not 0 <= fresh <= 1:
        raise RewardError(f"reward 'play': fresh {fresh!r} -> a share of the turns, from 0 to 1")
    if isinstance(environment, str) or not all(isinstance(name, str) for name in environment):
        raise RewardError(f"reward 'play': environment {environment!r} -> a list of names, such as [environment]")


def _given(found: Answers, k: int) -> Given:
    """Answers with their numbers; without any numbered line, as many boxes as problems count by order."""
    if not found.lines and len(found.loose) == k:
        return [(number, answer) for number, answer in enumerate(found.loose, start=1)]
    return [*found.lines, *[(None, answer) for answer in found.loose]] if found.loose else [*found.lines]


def _numbered(reward: PlayReward, seen: _Seen) -> bool:
    numbers = [line[0] for line in seen.given if line[0] is not None]
    if len(numbers) == seen.k:
        return numbers == list(range(1, seen.k + 1))
    return all(before < after for before, after in zip([0, *numbers], numbers, strict=False))


def _worked(reward: PlayReward, seen: _Seen) -> bool:
    play, k = seen.play, seen.k
    finals = seen.given if len(seen.given) <= k else dict(seen.given).items()  # an answer said again is looked for once
    said = [turn[1] for turn in play.turns if turn[0] in seen.agents] if play.turns else [play.body_text]
    missing = []
    for number, answer in finals:
        if answer and (number is None or number <= k):
            for text in said:
                if answer in text and _stands(answer, text):
                    break
            else:
                missing.append(answer)
    if not missing:
        return True
    plain = _plain("\n".join(said))
    return all(_stands(_plain(answer), plain) for answer in missing)


def _plain(text: str) -> str:
    for mark in (" ", "\n", "$", "\\left", "\\right", "\\!", "\\,"):
        text = text.replace(mark, "")
    return text


def _stands(answer: str, text: str) -> bool:
    """Whether an answer occurs, and not only inside a longer number or word."""
    at = text.find(answer) if answer else -1
    if at < 0:
        return False
    first, last, size = answer[0].isalnum(), answer[-1].isalnum(), len(answer)
    for _ in range(_TRIES):
        joined = (first and at > 0 and text[at - 1].isalnum()) or (last and text[at + size : at + size + 1].isalnum())
        if not joined:
            return True
        at = text.find(answer, at + 1)
        if at < 0:
            return False
    if size > _SHORT:  # it overlaps itself in made-up texts only, where every place would take too long
        return False
    edges = (r"(?<![^\W_])" if first else "", r"(?![^\W_])" if last else "")
    return re.compile(edges[0] + re.escape(answer) + edges[1]).search(text, at) is not None


Given: TypeAlias = list[tuple[int | None, str]]
"""Final answers with their numbers."""

_CHECKS: dict[str, Callable[[PlayReward, _Seen], bool | None]] = {
    "tags": lambda reward, seen: seen.play.tags.sound,
    "nested": lambda reward, seen: not seen.play.tags.nested if seen.play.tags.sound else None,
    "single": PlayReward._single,
    "think": PlayReward._think,
    "voices": PlayReward._voices,
    "spoken": _spoken,
    "fresh": PlayReward._fresh,
    "scenes": _scenes,
    "complete": lambda reward, seen: len([line for line in seen.given if line[1]]) >= seen.k,
    "extra": lambda reward, seen: len(seen.given) <= seen.k,
    "numbering": _numbered,
    "worked": _worked,
}


def problems_in(columns: Mapping[str, Any], place: int, count: int) -> int:
    """How many problems the prompt of a sample asks."""
    if columns.get("items") is not None and columns["items"][place] is not None:
        return len(items_of(columns, place, count))
    cell = columns["k"][place] if isinstance(columns.get("k"), Sequence) and len(columns["k"]) == count else None
    return cell if isinstance(cell, int) and not isinstance(cell, bool) else 1
