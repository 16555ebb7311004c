"""Reading a play: a response that reasons as named voices in scenes, then answers (arXiv:2505.07049).

    play = read_play("<play>\\n[Scene 1: a desk, problem 1]\\nAda: It is 7.\\nBo: Yes.\\n</play><answer>7</answer>")
    play.scenes[0].problem, play.voices()       # 1, {"Ada": 1, "Bo": 1}

Every line of the play is a scene's heading, the begin of a turn (`Name: …`), or goes on with the turn before it. Time
is linear in the length. Standard library only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

SCENE = r"[ \t]*+[\[(*#_]{0,8}+[ \t]*+(?:scene|act)\b[^\n]{0,200}"
SPEAKER = r"[ \t]*+[*_]{0,2}(?P<name>[^\W\d_][^:()\[\]<>*_=+\n]{0,39}+)(?:\([^()\n]{0,80}\)[ \t]*+)?[*_]{0,2}:[*_]{0,2}"
ENVIRONMENT = ("environment", "narrator", "stage")
_PROBLEM = re.compile(r"(?:problem|question|task)[ \t]*#?[ \t]*([0-9]{1,3})", re.IGNORECASE)


@dataclass(frozen=True)
class PlayForm:
    """How a play is marked.

    Attributes:
        play, answer: tags of its two parts.
        scene: what a scene's heading matches, from the begin of its line (any case); group `number`, if there, is the
            problem that the scene serves.
        speaker: what begins a turn; group `name` names the voice.
        environment: voices (in small letters) that are no agents: they set scenes and keep track.
    """

    play: str = "play"
    answer: str = "answer"
    scene: str = SCENE
    speaker: str = SPEAKER
    environment: tuple[str, ...] = ENVIRONMENT

    @cached_property
    def tag(self) -> re.Pattern[str]:
        """Any of the tags."""
        return re.compile(rf"<(/?)({re.escape(self.play)}|{re.escape(self.answer)})>")

    @cached_property
    def line(self) -> re.Pattern[str]:
        """What begins a scene or a turn, behind a line feed."""
        return re.compile(rf"\n(?:(?P<heading_>(?i:{self.scene}))|{self.speaker})")

    @cached_property
    def places(self) -> tuple[int, int, int]:
        """Which groups of `line` are the heading, the voice's name and the problem's number (0: there is none)."""
        groups = self.line.groupindex
        return groups["heading_"], groups["name"], groups.get("number", 0)

    @cached_property
    def marks(self) -> tuple[str, str, str, str]:
        """The tags in the order of a sound play."""
        return f"<{self.play}>", f"</{self.play}>", f"<{self.answer}>", f"</{self.answer}>"


DEFAULT_FORM = PlayForm()


class Turn(NamedTuple):
    """What one voice says: `text` stands within [start, end) of the response, white space around it; `speaker` is None
    for directions that nobody says.
    """

    speaker: str | None
    text: str
    start: int
    end: int


class Scene(NamedTuple):
    """A stretch of the play.

    Attributes:
        title: its heading; empty for turns before the first heading.
        problem: the number of the problem that it serves, if it says so.
        turns: in order.
        start, end: of all of it in the response, the heading included.
    """

    title: str
    problem: int | None
    turns: tuple[Turn, ...]
    start: int
    end: int


class Tags(NamedTuple):
    """How the tags stand.

    Attributes:
        sound: all that open close, in their order, and both parts are there.
        nested: one opens inside another.
        blocks: (tag, start, end) of the outermost parts, tags not included.
        outside: whether anything but white space stands outside them.
    """

    sound: bool
    nested: bool
    blocks: tuple[tuple[str, int, int], ...]
    outside: bool


class Play(NamedTuple):
    """A response that was read as a play.

    Attributes:
        text: the response.
        tags: how its tags stand.
        body: [start, end) of the play; what comes nearest to it where tags are missing.
        answer: [start, end) of the answer part, likewise.
        scenes: with a heading, in order; turns before the first heading are in `prologue`.
        prologue: a scene without a heading, or None.
        turns: all that is said, without directions.
        form: how it is marked.
    """

    text: str
    tags: Tags
    body: tuple[int, int]
    answer: tuple[int, int]
    scenes: tuple[Scene, ...]
    prologue: Scene | None
    turns: tuple[Turn, ...]
    form: PlayForm

    def is_agent(self, speaker: str) -> bool:
        """Whether a voice is not the environment."""
        return speaker.lower() not in self.form.environment

    def voices(self) -> dict[str, int]:
        """Turns by agent, in order of appearance."""
        counts: dict[str, int] = {}
        for turn in self.turns:
            name = turn[0] or ""
            counts[name] = counts.get(name, 0) + 1
        return {name: count for name, count in counts.items() if self.is_agent(name)}

    @property
    def answer_text(self) -> str:
        """The answer part."""
        return self.text[self.answer[0] : self.answer[1]]

    @property
    def body_text(self) -> str:
        """The play."""
        return self.text[self.body[0] : self.body[1]]


def read_play(text: str, form: PlayForm = DEFAULT_FORM) -> Play:
    """Read a response; whatever is missing is missing from what is returned, and nothing is an error."""
    text = _without_think(text)
    tags = _tags(text, form)
    body, answer = _parts(text, tags, form)
    prologue, *scenes = _scenes(text, *body, form)
    said = tuple([turn for scene in (prologue, *scenes) for turn in scene[2] if turn[0] is not None])
    return Play(text, tags, body, answer, tuple(scenes), prologue if prologue.turns else None, said, form)


@lru_cache(maxsize=8)
def form_of(
    play: str = "play",
    answer: str = "answer",
    scene: str | None = None,
    speaker: str | None = None,
    environment: tuple[str, ...] = ENVIRONMENT,
) -> PlayForm:
    """A form with some of its marks replaced (None: the default's).

    Raises:
        ValueError: a pattern is no regular expression, or `speaker` has no group `name`.
    """
    form = PlayForm(play, answer, scene or SCENE, speaker or SPEAKER, tuple(name.lower() for name in environment))
    for name, pattern in (("scene", form.scene), ("speaker", form.speaker)):
        try:
            groups = re.compile(pattern).groupindex
            _ = form.line
        except re.error as problem:
            raise ValueError(f"{name} {pattern!r} is no regular expression: {problem}") from problem
        if name == "speaker" and "name" not in groups:
            raise ValueError(f"speaker {pattern!r} has no group `name`, such as '(?P<name>[AB]):'")
    return form


def _without_think(text: str) -> str:
    """The text with the tags of a think block blanked, so that places stay: the play may live inside it."""
    if "think>" not in text:
        return text
    return text.replace("<think>", "       ").replace("</think>", "        ")


def _tags(text: str, form: PlayForm) -> Tags:
    """How the tags stand; where each stands once and in order, as nearly always, by five plain searches."""
    opens, closes, asks, ends = form.marks
    begin = text.find(opens)
    stop = text.find(closes, begin)
    ask = text.find(asks, stop)
    end = text.find(ends, ask)
    if 0 <= begin < stop < ask < end and sum(map(text.count, form.marks)) == 4:
        play, answer = (form.play, begin + len(opens), stop), (form.answer, ask + len(asks), end)
        around = text[:begin], text[stop + len(closes) : ask], text[end + len(ends) :]
        outside = any([part and not part.isspace() for part in around])
        return Tags(True, False, (play, answer), outside)
    return _any_tags(text, form)


def _any_tags(text: str, form: PlayForm) -> Tags:
    """How the tags stand, whatever their number and order."""
    stack: list[tuple[str, int]] = []
    opened = {form.play: 0, form.answer: 0}
    blocks: list[tuple[str, int, int]] = []
    sound, nested, outside, behind = True, False, False, 0
    for found in form.tag.finditer(text):
        closing, name = found.groups()
        if not stack and not outside:
            outside = not text[behind : found.start()].isspace() and found.start() > behind
        if not closing:
            nested = nested or bool(stack)
            stack.append((name, found.end()))
            opened[name] += 1
            continue
        if not opened[name]:
            sound = False
            behind = found.end()
            continue
        while True:
            open_name, start = stack.pop()
            opened[open_name] -= 1
            if open_name == name:
                break
            sound = False
        if not stack:
            blocks.append((name, start, found.start()))
            behind = found.end()
    if stack:
        sound = False
    elif text[behind:].strip():
        outside = True
    names = [name for name, _, _ in blocks]
    both = form.play in names and form.answer in names and names.index(form.play) < _last(names, form.answer)
    return Tags(sound and both, nested, tuple(blocks), outside)


def _last(names: list[str], wanted: str) -> int:
    return len(names) - 1 - names[::-1].index(wanted)


def _parts(text: str, tags: Tags, form: PlayForm) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where the play and the answers stand; of several blocks the first play and the last answer."""
    if tags.sound:
        body = next((start, end) for name, start, end in tags.blocks if name == form.play)
        answer = next((start, end) for name, start, end in reversed(tags.blocks) if name == form.answer)
        return body, answer
    opens, closes = text.find(f"<{form.play}>"), text.find(f"</{form.play}>")
    asks, ends = text.rfind(f"<{form.answer}>"), text.rfind(f"</{form.answer}>")
    begin = 0 if opens < 0 else opens + len(form.play) + 2
    after = asks + len(form.answer) + 2 if asks >= 0 else closes + len(form.play) + 3 if closes >= 0 else len(text)
    stop = closes if closes >= 0 else asks if asks >= 0 else len(text)
    last = ends if ends >= after else len(text)
    return (begin, max(begin, stop)), (after, last)


def _scenes(text: str, start: int, end: int, form: PlayForm) -> list[Scene]:
    """Scenes in order; the first is what stands before any heading."""
    # A line begins behind a line feed, which the pattern starts with: one pass in C finds all that begins something.
    body, shift = "\n" + text[start:end], start - 1
    scenes: list[Scene] = []
    turns: list[Turn] = []
    title, problem, scene_start, speaker, said_from = "", None, start, None, 1
    heading_at, name_at, number_at = form.places
    for found in form.line.finditer(body):
        stop, behind = found.span()
        said = body[said_from:stop].strip()
        if said or speaker is not None:
            # What a `Turn(…)` calls, without the call: there are many turns.
            turns.append(tuple.__new__(Turn, (speaker, said, said_from + shift, stop + shift)))
        said_from = behind
        heading = found[heading_at]
        if heading is None:
            speaker = found[name_at].rstrip()
            continue
        scenes.append(Scene(title, problem, tuple(turns), scene_start, stop + 1 + shift))
        title, problem = heading.strip(), _problem_of(found[number_at] if number_at else None, heading, number_at > 0)
        turns, speaker, scene_start = [], None, stop + 1 + shift
    said = body[said_from:].strip()
    if said or speaker is not None:
        turns.append(Turn(speaker, said, said_from + shift, len(body) + shift))
    scenes.append(Scene(title, problem, tuple(turns), scene_start, end))
    return scenes


def _problem_of(number: str | None, heading: str, marked: bool) -> int | None:
    if marked:
        return int(number) if number else None
    found = _PROBLEM.search(heading)
    return None if found is None else int(found[1])


SHORT_FORM = form_of("p", "a", r"\[[^\n]*\]", "(?P<name>[AB]):")
"""How plays of the compound chains' world are marked."""


def form_in(text: str) -> PlayForm | None:
    """Which of the known forms a response is written in; None where it is no play."""
    for form in (DEFAULT_FORM, SHORT_FORM):
        if f"<{form.play}>" in text:
            return form
    return None
