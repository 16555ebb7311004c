r"""Parts of a response: what stands outside the think blocks, tags, formulas in dollars, sentences.

All of it in time linear in the text, whatever the text: responses are hostile.
"""

from __future__ import annotations

import re

from reasonrl.latex import box_spans

_THINK_TAG = re.compile(
    r"<(/?)(?:think(?:ing)?|thoughts?|reasoning)>|\[(/?)THINK\]|◁(/?)think▷|<\|(?:begin|(end))_of_thought\|>",
    re.IGNORECASE,
)
_MATH_SPAN = re.compile(
    r"\$\$(?P<display>[^$]+)\$\$|\$(?P<dollar>[^\s$](?:[^$]*[^\s$])?)\$(?!\d)|\\\((?P<round>.+?)\\\)|\\\[(?P<square>.+?)\\\]",
    re.DOTALL,
)
_TYPE_TAG = re.compile(r"</?(?:b|i|u|em|strong|span|p|code|center|h[1-6])>", re.IGNORECASE)
_LEADING_MARK = re.compile(r"(?:(?:➡️?|→|⇒|∴|👉|✅|>)\s{0,3}(?=[-*$\\\d]))+")
_ALL_BOLD = re.compile(r"\*\*([^*\n]{1,600})\*\*\.?")
_FENCED = re.compile(r"```[A-Za-z]{0,12}\n([^`]*)```")
_SENTENCE_END = re.compile(r"(?<![( ]i\.e)(?<![( ]e\.g)[.!?](?=\s|$|[*\"”])|[。！？।؟]|\n")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s?\{[A-Za-z*]{0,20}\}")
_WORD = re.compile(r"(?<![\\A-Za-zÀ-ɏ])[A-Za-zÀ-ɏ]{2,}")
_OTHER_SCRIPT = re.compile("[Ѐ-ԯԱ-֏א-תء-يٱ-ۓऄ-हঅ-হਅ-ਹઅ-હଅ-ହஅ-ஹఅ-హಅ-ಹഅ-ഹก-ฮა-ჰぁ-ゟ゠-ヿ㐀-䶿一-鿿가-힣]")


def after_thinking(response: str) -> str:
    """The last part of a response that stands outside its think blocks and is not blank; empty if there is none.

    A closing tag without an opening one (the prompt had opened it) ends a block that began with the response; a block
    that never ends reaches to the end.
    """
    parts: list[str] = []
    start, inside, opened = 0, False, 0
    for tag in _THINK_TAG.finditer(response):
        if any(tag.groups()):
            if not inside:
                parts.clear()
            inside, start = False, tag.end()
        elif not inside:
            parts.append(response[start : tag.start()])
            inside, opened = True, tag.start()
    if not inside:
        parts.append(response[start:])
    elif (
        len(parts) == 1
        and response[response.rfind("\n", 0, opened) + 1 : opened].strip()
        and box_spans(response[opened:])
    ):
        return response  # a tag that a sentence mentions
    return next((part for part in reversed(parts) if part.strip()), "")


def without_markup(text: str) -> str:
    """A text without the tags of bold and slanted type, and without the fence around a text that is one block of
    code.
    """
    if "</" in text:
        text = _TYPE_TAG.sub("", text)
    if "```" in text and (fenced := _FENCED.fullmatch(text.strip())) is not None:
        return fenced[1]
    return text


def undressed(text: str) -> str:
    """A short text without the marks of bold around it and the arrow or quote mark before it."""
    text = text.strip()
    mark = _LEADING_MARK.match(text)
    text = text[mark.end() :] if mark else text
    bold = _ALL_BOLD.fullmatch(text)
    return bold[1].strip() if bold else text


def last_tag(text: str, name: str) -> str | None:
    """The content of the last complete `<name>…</name>`; None if there is none."""
    low = lower(text)
    end = low.rfind(f"</{name}>")
    start = low.rfind(f"<{name}>", 0, end) if end >= 0 else -1
    return text[start + len(name) + 2 : end] if start >= 0 else None


def lower(text: str) -> str:
    """Lower case in which every character keeps its place (one capital of Turkish would become two)."""
    return text.replace("İ", "I").lower()


def math_spans(text: str) -> list[tuple[str, int, int]]:
    r"""The formulas in `$…$`, `$$…$$`, `\(…\)` and `\[…\]`: content, start, end. A dollar beside a space is money.

    For short texts: an opening mark that nothing closes is searched to the end of the text.
    """
    if "$" not in text and "\\(" not in text and "\\[" not in text:
        return []
    return [
        (next(group for group in span.groups() if group is not None), span.start(), span.end())
        for span in _MATH_SPAN.finditer(text)
    ]


def words(text: str) -> int:
    """How many words of prose a text holds: runs of two or more letters that are no LaTeX command; a run in a script
    without spaces counts once for every two letters.
    """
    if "\\begin" in text:
        text = _ENVIRONMENT.sub("", text)
    count = len(_WORD.findall(text))
    if not text.isascii():
        others = len(_OTHER_SCRIPT.findall(text))
        count += (others + 1) // 2
    return count


def sentence_end(text: str) -> int:
    """Where the first sentence of a text ends (before its mark); its length if it does not end."""
    end = _SENTENCE_END.search(text)
    return end.start() if end else len(text)


def last_sentences(text: str, count: int, most: int) -> list[str]:
    """The last sentences of a text, the last one first, none of them blank; only the last `most` characters are
    looked at.
    """
    tail = text.rstrip()[-most:]
    found: list[str] = []
    end = len(tail)
    for mark in reversed(list(_SENTENCE_END.finditer(tail))):
        if tail[mark.end() : end].strip(' \t*_#`>-"”'):
            found.append(tail[mark.end() : end].strip())
            if len(found) == count:
                return found
        end = mark.end()
    if tail[:end].strip():
        found.append(tail[:end].strip())
    return found
