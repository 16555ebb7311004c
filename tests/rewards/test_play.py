"""The rules of a play: right on sound ones, and each planted defect breaks exactly its rule."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from typing import Any

import pytest

from reasonrl.errors import RewardError
from reasonrl.plays import form_of, read_play
from reasonrl.rewards import get_reward
from reasonrl.rewards.play import RULES, PlayReward

NAMES = ["Ada", "Boris", "Dr. Chen", "Émile", "Old Man Fitz", "G'kar", "Hana (a sceptic)", "**Ines**"]
PLACES = ["a workshop", "the harbour at night", "an empty hall: cold", "the library (third floor)"]
SAYINGS = [
    "Let us take the first factor, and see what is left of it.",
    "I would rather count the cases one by one.",
    "Wait. What if the sum is even?\nThen we lose a term, and the rest is small.",
    "So x = 3 + 4: that is more than we need.",
    "You forgot the sign, I think; it must be turned.",
    "Agreed. It goes the way you say.",
]


class Script:
    """A sound play of k problems, in parts that a defect can spoil."""

    def __init__(self, draw: random.Random, k: int) -> None:
        self.draw, self.k = draw, k
        self.golds = [str(draw.randrange(10, 10_000)) for _ in range(k)]
        self.scenes = [self.scene(number, gold) for number, gold in enumerate(self.golds, start=1)]
        self.lines = [f"{number}. \\boxed{{{gold}}}" for number, gold in enumerate(self.golds, start=1)]
        self.tags = {
            "<play>": "<play>\n",
            "</play>": "\n</play>\n",
            "<answer>": "<answer>\n",
            "</answer>": "\n</answer>",
        }
        self.before = self.after = ""

    def scene(self, number: int, gold: str) -> list[str]:
        cast = self.draw.sample(NAMES, self.draw.choice([2, 3]))
        heading = self.draw.choice(
            ["[Scene {0}: {1}, problem {0}]", "**Scene {0}** ({1})", "## Scene {0} - {1}", "ACT {0}. {1}"]
        )
        said = [heading.format(number, self.draw.choice(PLACES))]
        if self.draw.random() < 0.5:
            said.append("(The lamps are lit.)")
        said.append(f"Environment: we are at problem {number}.")
        for turn in range(2 * len(cast)):
            said.append(f"{cast[turn % len(cast)]}: {self.draw.choice(SAYINGS)} ({number}.{turn})")
        said.append(f"{cast[0]}: Then it is {gold}, and we are done with it.")
        return said

    def text(self) -> str:
        body = "\n".join("\n".join(scene) for scene in self.scenes)
        parts = [
            self.tags["<play>"],
            body,
            self.tags["</play>"],
            self.tags["<answer>"],
            "\n".join(self.lines),
            self.tags["</answer>"],
        ]
        return self.before + "".join(parts) + self.after

    def some(self) -> int:
        return self.draw.randrange(self.k)


def missing_tag(script: Script) -> None:
    script.tags[script.draw.choice(list(script.tags))] = "\n"


def extra_line(script: Script) -> None:
    script.lines.append(f"{script.k + 1}. \\boxed{{{script.draw.choice(script.golds)}}}")


def extra_block(script: Script) -> None:
    script.before = f"<answer>\n1. \\boxed{{{script.golds[0]}}}\n</answer>\n"


def talk_outside(script: Script) -> None:
    script.after = "\nI hope that this helps."


def wrong_numbering(script: Script) -> None:
    numbers = list(range(1, script.k + 1))
    while numbers == list(range(1, script.k + 1)):
        numbers = script.draw.choice(
            [[number + 1 for number in numbers], numbers[::-1], [1] * script.k, [7] * script.k]
        )
    script.lines = [f"{number}. \\boxed{{{gold}}}" for number, gold in zip(numbers, script.golds, strict=True)]


def nested_tags(script: Script) -> None:
    inner = script.draw.choice(["<answer>{}</answer>", "<play>{}</play>"])
    scene = script.scenes[script.some()]
    scene[-1] = inner.format(scene[-1]) if inner.startswith("<answer>") else scene[-1] + inner.format(" aside ")


def hidden_answer(script: Script) -> None:
    """An answer line that stands in the play and not in the answer part."""
    place = script.some()
    script.scenes[place].append(script.lines[place])
    del script.lines[place]


def empty_voice(script: Script) -> None:
    scene = script.scenes[script.some()]
    place = script.draw.choice([place for place, line in enumerate(scene[:-1]) if "." in line and place > 2])
    scene[place] = scene[place].partition(":")[0] + ":" + script.draw.choice(["", "  "])


def one_voice(script: Script) -> None:
    for scene in script.scenes:
        scene[1:] = [
            f"Ada: {line.partition(':')[2]}" if ":" in line and not line.startswith("Env") else line
            for line in scene[1:]
        ]


def parrots(script: Script) -> None:
    """Voices that repeat one saying."""
    for scene in script.scenes:
        scene[2:-1] = [f"{line.partition(':')[0]}: Indeed." for line in scene[2:-1]] * 2


def no_scene(script: Script) -> None:
    del script.scenes[script.some()][0]


def answer_from_nowhere(script: Script) -> None:
    place = script.some()
    script.lines[place] = f"{place + 1}. \\boxed{{{script.golds[place]}99}}"


DEFECTS: dict[Any, str] = {
    missing_tag: "tags",
    extra_line: "extra",
    extra_block: "single",
    talk_outside: "single",
    wrong_numbering: "numbering",
    nested_tags: "nested",
    hidden_answer: "complete",
    empty_voice: "spoken",
    one_voice: "voices",
    parrots: "fresh",
    no_scene: "scenes",
    answer_from_nowhere: "worked",
}


def test_each_of_2000_plays_breaks_exactly_the_rule_of_its_defect() -> None:
    draw, reward = random.Random(10), PlayReward()
    seen: Counter[str] = Counter()
    kinds: list[Any] = [None, *DEFECTS]
    for number in range(2_000):
        defect, k = kinds[number % len(kinds)], draw.choice([1, 2, 3, 5, 10])
        script = Script(draw, k)
        if defect is not None:
            defect(script)
        text = script.text()
        broken = [rule for rule, held in reward.kept(text, k).items() if held is False]
        wanted = [] if defect is None else [DEFECTS[defect]]
        assert broken == wanted, f"{getattr(defect, '__name__', 'sound')}, k = {k}:\n{text}"
        seen[wanted[0] if wanted else "sound"] += 1
    assert set(seen) == {"sound", *RULES} and min(seen.values()) > 100


def test_scenes_speakers_and_turns_are_read() -> None:
    text = (
        "<think>\n<play>\nIt is late.\n[Scene 1: a desk, problem 2]\nEnvironment: go on.\nAda (calm): It is 3:4.\n"
        "  So be it.\n**Bo:** No!\n## Scene 2\nBo: ok\n</play>\n</think>\n<answer>\n1. \\boxed{7}\n</answer>"
    )
    play = read_play(text)
    assert play.prologue is not None and play.prologue.turns[0].text == "It is late."
    assert [(scene.title, scene.problem) for scene in play.scenes] == [
        ("[Scene 1: a desk, problem 2]", 2),
        ("## Scene 2", None),
    ]
    assert [(turn.speaker, turn.text) for turn in play.turns] == [
        ("Environment", "go on."),
        ("Ada", "It is 3:4.\n  So be it."),
        ("Bo", "No!"),
        ("Bo", "ok"),
    ]
    assert play.voices() == {"Ada": 1, "Bo": 2} and play.answer_text.strip() == "1. \\boxed{7}"
    assert all(turn.text == text[turn.start : turn.end].strip() for turn in play.turns)
    assert "".join(text[scene.start : scene.end] for scene in (play.prologue, *play.scenes)) == play.body_text


@pytest.mark.parametrize(
    "text", ["", "<play>", "</answer></play>", "<answer><answer>", "<play></play><answer></answer>", ":\n:\n"]
)
def test_anything_is_read(text: str) -> None:
    play = read_play(text)
    assert play.body[0] <= play.body[1] <= len(text) and play.answer[0] <= play.answer[1] <= len(text)
    assert PlayReward()(completions=[text]) == [0.0]


def test_marks_can_be_replaced() -> None:
    args = {
        "play": "p",
        "answer": "a",
        "scene": r"\[[^\n]*\]",
        "speaker": "(?P<name>[AB]):",
        "line": r"^(?P<number>\d)=(?P<answer>\d)$",
    }
    reward = get_reward({"name": "play", "args": {**args, "turns": 1}})
    text = "<p>\n[L3+4*2-5]\nA:3+4=7\nA:7*2=4\nA:4-5=9\nB:749\n</p>\n<a>\n1=9\n</a>"
    assert reward(completions=[text, text.replace("B:", "A:"), text.replace("<p>", "<play>")], k=[1, 1, 1]) == [
        1.0,
        0.0,
        0.0,
    ]
    with pytest.raises(ValueError, match="no group `name`"):
        form_of(speaker="[AB]:")


def test_gate_share_and_rates() -> None:
    draw = random.Random(0)
    sound, spoiled = Script(draw, 2), Script(draw, 2)
    no_scene(spoiled)
    extra: dict[str, Any] = {}
    rates: dict[str, float] = {}
    said, items = [sound.text(), spoiled.text(), "no play"], [json.dumps([{"id": "a", "answer": "1"}] * 2)] * 3
    scores = PlayReward()(
        completions=said, items=items, log_extra=lambda n, v: extra.update({n: v}), log_metric=rates.__setitem__
    )
    assert scores == [1.0, 0.0, 0.0] and extra["play_broken"][:2] == ["", "scenes"]
    assert (
        rates["play/scenes"] == pytest.approx(1 / 3)
        and rates["play/tags"] == pytest.approx(2 / 3)
        and rates["play/single"] == 1
    )
    share = PlayReward(rules=["tags", "scenes"], score="share")
    assert share(completions=said, items=items) == [1.0, 0.5, 0.0]
    # As a part of a gate, what breaks a rule is not graded.
    gate = get_reward(
        {"name": "gate", "args": {"parts": ["stop", "play", {"name": "compound", "args": {"workers": 0}}]}}
    )
    columns = {"items": items, "finish_reason": ["stop"] * 3}
    assert gate(completions=said, **columns) == [0.0, 0.0, 0.0]
    right = json.dumps([{"id": str(place), "answer": gold} for place, gold in enumerate(sound.golds)])
    assert gate(completions=said[:1], items=[right], finish_reason=["stop"]) == [1.0]


def test_time_grows_with_the_length_alone() -> None:
    reward = PlayReward()

    def seconds(text: str) -> float:
        found = []
        for _ in range(3):
            start = time.process_time()
            reward.kept(text, 3)
            found.append(time.process_time() - start)
        return min(found)

    for unit in (
        "Ada: yes.\n",
        "<play>",
        "a" * 50,
        "Ada Ada ",
        "[Scene 1]\n",
        "1. \\boxed{4}\n",
        "(((((",
        ":",
        " \t",
        "<answer>1. \\boxed{",
    ):
        short, long = unit * (8_000 // len(unit)), unit * (80_000 // len(unit))
        assert seconds(long) < 40 * seconds(short) + 0.01, unit


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"rules": ["tag"]}, "did you mean 'tags'"),
        ({"rules": []}, "rules is empty"),
        ({"score": "sum"}, "score 'sum'"),
        ({"scene": "("}, "no regular expression"),
        ({"speaker": "[AB]:"}, "no group `name`"),
        ({"line": "x"}, "no group 'answer'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(args: dict[str, Any], said: str) -> None:
    with pytest.raises(RewardError, match=said):
        get_reward({"name": "play", "args": args})
