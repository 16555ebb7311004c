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
from typing import Any, NamedTuple

SCENE = r"[ \t]*+[\[(*#_]{0,8}+[ \t]*+(?:scene|act)\b[^\n]{0,200}"
_LABELS = (
    "answer,answers,approach,aside,attempt,because,but,case,check,claim,conclusion,definition,equation,example,fact,"
    "final answer,finally,formula,given,goal,hence,hint,however,idea,lemma,method,next,note,now,observation,option,"
    "part,plan,problem,proof,question,reason,remark,result,section,since,so,solution,step,strategy,summary,then,"
    "theorem,therefore,thus,verification,wait,warning"
)
LABELS = frozenset(_LABELS.split(","))
"""Words that stand before a colon in any reasoning (`Note:`, `Step 2:`) and name nobody."""
SPEAKER = (
    r"[ \t*_•\[-]*+(?P<name>[^\W\d_][^:：()（）\[\]<>*_=+\n]{0,39}+)"
    r"\]?+[*_]{0,3}+[ \t]*+(?:[*_]{0,3}+[(（][^()（）\n]{0,80}+[)）][*_]{0,3}+[ \t]*+)?+[:：][*_]{0,3}+"
)
ENVIRONMENT = ("environment", "narrator", "stage")
_PROBLEM = re.compile(r"(?:problem|question|task)[ \t]*#?[ \t]*([0-9]{1,3})")  # of a heading in small letters


@dataclass(frozen=True)
class PlayForm:
    """How a play is marked.

    Attributes:
        play, answer: tags of its two parts.
        scene: what a scene's heading matches, from the begin of its line (any case); group `number`, if there, is the
            problem that the scene serves (in digits).
        speaker: what begins a turn, from the begin of its line; group `name` names the voice.
        environment: voices (in small letters) that are no agents: they set scenes and keep track.
        labels: names (in small letters, numbers behind them left out) that begin no turn.
    """

    play: str = "play"
    answer: str = "answer"
    scene: str = SCENE
    speaker: str = SPEAKER
    environment: tuple[str, ...] = ENVIRONMENT
    labels: frozenset[str] = LABELS

    @cached_property
    def tag(self) -> re.Pattern[str]:
        """Any of the tags."""
        return re.compile(rf"<(/?)({re.escape(self.play)}|{re.escape(self.answer)})>")

    @cached_property
    def line(self) -> re.Pattern[str]:
        """What begins a scene or a turn, behind a line feed; its first group is all of it."""
        return re.compile(rf"(\n(?:(?P<heading_>(?i:{self.scene}))|{self.speaker}))")

    @cached_property
    def places(self) -> tuple[int, int, int]:
        """Which groups of `line` are the heading, the voice's name and the problem's number (0: there is none)."""
        groups = self.line.groupindex
        return groups["heading_"], groups["name"], groups.get("number", 0)

    @cached_property
    def marks(self) -> list[str]:
        """The tags in the order of a sound play."""
        return [f"<{self.play}>", f"</{self.play}>", f"<{self.answer}>", f"</{self.answer}>"]

    @cached_property
    def mark(self) -> re.Pattern[str]:
        """Any of the tags, without groups."""
        return re.compile("<(?:" + "|".join(re.escape(mark[1:]) for mark in self.marks) + ")")

    def labels_in(self, names: list[str | None]) -> frozenset[str]:
        """Which of the names begin no turn."""
        return _labels_in(frozenset(names), self.labels)


@lru_cache(maxsize=16)  # responses that never end name thousands: few are kept
def _labels_in(names: frozenset[str | None], labels: frozenset[str]) -> frozenset[str]:
    return frozenset(name for name in names if name and name.lower().rstrip(" 0123456789\t") in labels)


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
        number: what group `number` of the form's heading is; None where there is no such group, or nothing in it.
        turns: in order.
        start, end: of all of it in the response, the heading included.
    """

    title: str
    number: str | None
    turns: tuple[Turn, ...]
    start: int
    end: int

    @property
    def problem(self) -> int | None:
        """The number of the problem that it serves, if it says so."""
        if self.number is None:
            found = _PROBLEM.search(self.title.casefold())
            return None if found is None else int(found[1])
        return int(self.number) if self.number.isdecimal() else None


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
        thinks: places where `<think>` and where `</think>` stand.
        scenes: with a heading, in order; turns before the first heading are in `prologue`.
        prologue: a scene without a heading, or None.
        turns: all that is said, without directions.
        form: how it is marked.
    """

    text: str
    tags: Tags
    body: tuple[int, int]
    answer: tuple[int, int]
    thinks: tuple[tuple[int, ...], tuple[int, ...]]
    scenes: tuple[Scene, ...]
    prologue: Scene | None
    turns: tuple[Turn, ...]
    form: PlayForm

    def is_agent(self, speaker: str) -> bool:
        """Whether a voice is not the environment."""
        return speaker.lower() not in self.form.environment

    def agents(self) -> dict[str, int]:
        """Turns by agent, names as they are spelt, in order of appearance."""
        counts: dict[Any, int] = {}
        for turn in self.turns:
            counts[turn[0]] = counts.get(turn[0], 0) + 1
        environment = self.form.environment
        return {name: count for name, count in counts.items() if name.lower() not in environment}

    def voices(self) -> dict[str, int]:
        """Turns by agent, a name in any case being one voice, spelt as it is first."""
        return by_voice(self.agents())

    @property
    def answer_text(self) -> str:
        """The answer part."""
        return self.text[self.answer[0] : self.answer[1]]

    @property
    def body_text(self) -> str:
        """The play."""
        return self.text[self.body[0] : self.body[1]]


def by_voice(agents: dict[str, int]) -> dict[str, int]:
    """`Play.agents` with the spellings of a name put together."""
    if len(set(map(str.lower, agents))) == len(agents):
        return agents
    spelt: dict[str, str] = {}
    found: dict[str, int] = {}
    for name, count in agents.items():
        first = spelt.setdefault(name.lower(), name)
        found[first] = found.get(first, 0) + count
    return found


def read_play(text: str, form: PlayForm = DEFAULT_FORM) -> Play:
    """Read a response; whatever is missing is missing from what is returned, and nothing is an error."""
    thinks: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    if "think>" in text:
        thinks, text = _thinks(text), _without_think(text)
    tags = _tags(text, form)
    body, answer = _parts(text, tags, form)
    prologue, *scenes = _scenes(text, *body, form)
    said = tuple([turn for scene in (prologue, *scenes) for turn in scene[2] if turn[0] is not None])
    shown = prologue if prologue.turns else None
    return Play(text, tags, body, answer, thinks, tuple(scenes), shown, said, form)


@lru_cache(maxsize=8)
def form_of(
    play: str = "play",
    answer: str = "answer",
    scene: str | None = None,
    speaker: str | None = None,
    environment: tuple[str, ...] = ENVIRONMENT,
) -> PlayForm:
    """A form with some of its marks replaced (None: the default's). A `^` before a pattern changes nothing: each is
    looked for at the begin of a line.

    Raises:
        ValueError: a tag is no name or one that is taken, a pattern is no regular expression, or `speaker` has no
            group `name`.
    """
    for key, tag in (("play", play), ("answer", answer)):
        if not isinstance(tag, str) or not re.fullmatch(r"[A-Za-z][\w-]*", tag) or tag == "think":
            raise ValueError(f"{key} {tag!r} is no tag -> a word such as 'play', not 'think'")
    if play == answer:
        raise ValueError(f"play and answer are both {play!r} -> two tags")
    own = [str(pattern or usual).removeprefix("^") for pattern, usual in ((scene, SCENE), (speaker, SPEAKER))]
    labels = LABELS if speaker is None else frozenset()
    form = PlayForm(play, answer, own[0], own[1], tuple(name.lower() for name in environment), labels)
    for name, pattern in (("scene", form.scene), ("speaker", form.speaker)):
        try:
            groups = re.compile(pattern).groupindex
            _ = form.line
        except re.error as problem:
            raise ValueError(f"{name} {pattern!r} is no regular expression: {problem}") from problem
        if name == "speaker" and "name" not in groups:
            raise ValueError(f"speaker {pattern!r} has no group `name`, such as '(?P<name>[AB]):'")
    return form


def _thinks(text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Where think tags open and close."""
    opens, closes = (tuple(found.start() for found in re.finditer(tag, text)) for tag in ("<think>", "</think>"))
    return opens, closes


def _without_think(text: str) -> str:
    """The text with the tags of a think block blanked, so that places stay: the play may live inside it."""
    return text.replace("<think>", "       ").replace("</think>", "        ")


def _tags(text: str, form: PlayForm) -> Tags:
    """How the tags stand; plain searches tell where each stands once and in order, as nearly always."""
    opens, closes, asks, ends = form.marks
    if form.mark.findall(text) == form.marks:
        begin, end = text.find(opens), text.rfind(ends)
        ask = text.rfind(asks, begin, end)
        stop = text.rfind(closes, begin, ask)
        before, between, behind = text[:begin], text[stop + len(closes) : ask], text[end + len(ends) :]
        outside = any(map(str.strip, (before, between, behind)))
        blocks = (form.play, begin + len(opens), stop), (form.answer, ask + len(asks), end)
        return Tags(True, False, blocks, outside)
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
        if len(tags.blocks) == 2:
            return tags.blocks[0][1:], tags.blocks[1][1:]
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
    line, (heading_at, name_at, number_at) = form.line, form.places
    pieces = line.split("\n" + text[start:end])
    width = line.groups + 1  # of what begins something, its groups, then the text behind it
    begins, headings, names = pieces[1::width], pieces[heading_at::width], pieces[name_at::width]
    numbers = pieces[number_at::width] if number_at else [None] * len(begins)
    labels = form.labels_in(names)
    scenes: list[Scene] = []
    turns: list[Turn] = []
    title, named, scene_start = "", None, start
    new = tuple.__new__  # what `Turn(…)` comes to, at half its cost: there are many
    speaker, said_from, stop = None, start, start - 1 + len(pieces[0])  # of the turn that is being read
    for begin, heading, name, behind, number in zip(
        begins, headings, names, pieces[width::width], numbers, strict=True
    ):
        if labels and name in labels:  # the turn goes on
            stop += len(begin) + len(behind)
            continue
        said = text[said_from:stop].strip()
        if said or speaker is not None:
            turns.append(new(Turn, (speaker, said, said_from, stop)))
        speaker = None
        if heading is None:
            speaker = name.rstrip()
        else:
            scenes.append(new(Scene, (title, named, tuple(turns), scene_start, stop + 1)))
            title, named = heading.strip(), number
            turns, scene_start = [], stop + 1
        said_from = stop + len(begin)
        stop = said_from + len(behind)
    said = text[said_from:stop].strip()
    if said or speaker is not None:
        turns.append(Turn(speaker, said, said_from, stop))
    scenes.append(Scene(title, named, tuple(turns), scene_start, end))
    return scenes


SHORT_FORM = form_of("p", "a", r"\[[^\n]*\]", "(?P<name>[AB]):")
"""How plays of the compound chains' world are marked."""


def form_in(text: str) -> PlayForm | None:
    """Which of the known forms a response is written in; None where it is no play."""
    for form in (DEFAULT_FORM, SHORT_FORM):
        if f"<{form.play}>" in text:
            return form
    return None
