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


def one_voice_in_two_cases(script: Script) -> None:
    """A monologue whose turns are called Ada and ADA, and words that name nobody."""
    one_voice(script)
    for scene in script.scenes:
        spoken = [place for place, line in enumerate(scene) if line.startswith("Ada:")]
        for place in spoken[::2]:
            scene[place] = scene[place].replace("Ada:", "ADA:")
        for place in spoken[1:-1:2]:
            scene[place] += "\nNote: it goes on.\nStep 2: so it does."


def parrots(script: Script) -> None:
    """Voices that repeat one saying."""
    for scene in script.scenes:
        scene[2:-1] = [f"{line.partition(':')[0]}: Indeed." for line in scene[2:-1]] * 2


def parrots_with_marks(script: Script) -> None:
    """The same words, set apart by marks and capitals alone."""
    parrots(script)
    for scene in script.scenes:
        scene[3:-1] = [
            line.replace("Indeed.", f"{'indeed' if place % 2 else 'INDEED'}{'.' * place}")
            for place, line in enumerate(scene[3:-1])
        ]


def marks_for_words(script: Script) -> None:
    scene = script.scenes[script.some()]
    places = [place for place, line in enumerate(scene[:-1]) if "." in line and place > 2]
    for place in places[-1:]:
        scene[place] = scene[place].partition(":")[0] + ": ..."


def silent_scene(script: Script) -> None:
    """All that is said stands in other scenes, or before the first."""
    place = script.some()
    said = script.scenes[place][1:]
    script.scenes[place][1:] = ["The lamps are lit."] if script.draw.random() < 0.5 else []
    script.scenes.insert(0, said)


def no_scene(script: Script) -> None:
    del script.scenes[script.some()][0]


def empty_box(script: Script) -> None:
    place = script.some()
    script.lines[place] = f"{place + 1}. \\boxed{{ }}"


def answer_of_nobody(script: Script) -> None:
    """An answer that a heading and the environment say, but no voice."""
    place = script.some()
    scene, gold = script.scenes[place], script.golds[place]
    scene[-1] = scene[-1].replace(f" {gold},", " so,")
    scene[0] += f" {gold}"
    scene.insert(1, f"Environment: {gold}, they say.")


def thoughts_not_closed(script: Script) -> None:
    script.before = "<think>\n"


def thoughts_closed_late(script: Script) -> None:
    script.before, script.after = "<think>\n", "\n</think>"


def thoughts_closed_twice(script: Script) -> None:
    script.before, script.tags["</play>"] = "<think>\n", "\n</play>\n</think>\n</think>\n"


def answer_from_nowhere(script: Script) -> None:
    place = script.some()
    script.lines[place] = f"{place + 1}. \\boxed{{{script.golds[place]}99}}"


def thoughts_closed(script: Script) -> None:
    """As a template with thoughts wants it; no defect."""
    if script.draw.random() < 0.3:
        script.before = "<think>\n\n</think>\n\n"
        return
    script.before = script.draw.choice(["", "<think>\n"])  # a template may have opened it
    script.tags["</play>"] += "</think>\n"


DEFECTS: dict[Any, str] = {
    missing_tag: "tags",
    extra_line: "extra",
    extra_block: "single",
    talk_outside: "single",
    wrong_numbering: "numbering",
    nested_tags: "nested",
    hidden_answer: "complete",
    empty_voice: "spoken",
    marks_for_words: "spoken",
    one_voice: "voices",
    one_voice_in_two_cases: "voices",
    parrots: "fresh",
    parrots_with_marks: "fresh",
    no_scene: "scenes",
    silent_scene: "scenes",
    empty_box: "complete",
    answer_from_nowhere: "worked",
    answer_of_nobody: "worked",
    thoughts_not_closed: "think",
    thoughts_closed_late: "think",
    thoughts_closed_twice: "think",
}


def test_each_of_3000_plays_breaks_exactly_the_rule_of_its_defect() -> None:
    draw, reward = random.Random(10), PlayReward()
    seen: Counter[str] = Counter()
    kinds: list[Any] = [None, thoughts_closed, *DEFECTS]
    for number in range(3_000):
        defect, k = kinds[number % len(kinds)], draw.choice([1, 2, 3, 5, 10])
        script = Script(draw, k)
        if defect is not None:
            defect(script)
        text = script.text()
        broken = [rule for rule, held in reward.kept(text, k).items() if held is False]
        wanted = [DEFECTS[defect]] if defect in DEFECTS else []
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
    # A `^` before a pattern changes nothing; a number that is none in digits is left out.
    anchored = get_reward(
        {
            "name": "play",
            "args": {**args, "speaker": "^(?P<name>[AB]):", "scene": r"^SCENE (?P<number>[IVX]+)\b", "turns": 1},
        }
    )
    assert anchored(completions=[text.replace("[L3+4*2-5]", "SCENE IV")], k=[1]) == [1.0]
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

    def grows(short: str, long: str) -> None:
        assert seconds(long) < 40 * seconds(short) + 0.01, short[:80]

    def looped(size: int) -> str:
        """One that is stuck in its play, and says its answer again and again."""
        return f"<play>{'7' * size}</play><answer>" + "1. \\boxed{7}\n" * (size // 14) + "</answer>"

    def renamed(size: int) -> str:
        return "<play>" + "".join(f"Ada{place}: yes\n" for place in range(size // 12)) + "</play>"

    def numbered(size: int) -> str:
        return f"<play>{'7' * size}</play><answer>" + "".join(f"{n}. \\boxed{{7}}\n" for n in range(size // 14))

    for made in (looped, renamed, numbered):
        grows(made(8_000), made(80_000))
    for unit in (
        "Note: a\n",
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
        grows(short, long)


def test_ways_to_write_a_voice() -> None:
    said = [
        "Ada: 1", "**Ada:** 1", "**Ada**: 1", "**Ada** (calm): 1", "**Ada** *(smiles)*: 1", "- Ada: 1", "* Ada: 1",
        "[Ada]: 1", "ada: 1", "Ada\uff1a1", "Ada\uff08calm\uff09\uff1a1", "  _Ada_ : 1",
    ]  # fmt: skip
    for line in said:
        play = read_play(f"<play>\n{line}\n</play>")
        assert {name.lower(): turns for name, turns in play.voices().items()} == {"ada": 1}, line
        assert play.turns[0].text == "1", line
    assert read_play("<play>\n小明：七。\n老王：对。\n</play>").voices() == {"小明": 1, "老王": 1}
    # Words that name nobody: what they begin goes on with the turn before.
    play = read_play("<play>\nAda: a\nTheorem 2:\n- **Step 3:** b\nBo: c\n</play>")
    assert [(turn.speaker, turn.text) for turn in play.turns] == [
        ("Ada", "a\nTheorem 2:\n- **Step 3:** b"),
        ("Bo", "c"),
    ]


def test_a_prompt_that_opens_a_think_block_has_it_closed() -> None:
    script = Script(random.Random(3), 2)
    opened = PlayReward(think_in_prompt=True)
    for closed, kept in ((True, True), (False, False)):
        script.tags["</play>"] = "\n</play>\n</think>\n" if closed else "\n</play>\n"
        assert opened.kept(script.text(), 2)["think"] is kept
        assert PlayReward().kept(script.text(), 2)["think"] is (True if closed else None)
    # What opens it once more is not what the template asks for.
    script.before, script.tags["</play>"] = "<think>", "\n</play>\n</think>\n"
    assert opened.kept(script.text(), 2)["think"] is False


def test_the_number_of_problems_is_that_of_the_items() -> None:
    script = Script(random.Random(4), 2)
    items = json.dumps([{"id": str(place), "answer": gold} for place, gold in enumerate(script.golds)])
    assert PlayReward()(completions=[script.text()], items=[items], k=[8]) == [1.0]
    assert PlayReward()(completions=[script.text()], k=[8]) == [0.0]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"rules": ["tag"]}, "did you mean 'tags'"),
        ({"rules": []}, "rules is empty"),
        ({"score": "sum"}, "score 'sum'"),
        ({"scene": "("}, "no regular expression"),
        ({"speaker": "[AB]:"}, "no group `name`"),
        ({"line": "x"}, "no group 'answer'"),
        ({"play": "think"}, "play 'think' is no tag"),
        ({"answer": ""}, "answer '' is no tag"),
        ({"play": "answer"}, "both 'answer'"),
        ({"environment": "Narrator"}, "environment 'Narrator' -> a list"),
        ({"turns": -1}, "turns -1 -> a whole number"),
        ({"voices": "two"}, "voices 'two'"),
        ({"fresh": 7}, "fresh 7 -> a share"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(args: dict[str, Any], said: str) -> None:
    with pytest.raises(RewardError, match=said):
        get_reward({"name": "play", "args": args})
