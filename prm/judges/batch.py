"""Batches of questions as files: requests in the form of OpenAI's batch API, which vLLM (`vllm run-batch`) and others
read too, and the replies that come back, hours later and in any order.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from reasonrl.errors import DataError, RunError
from reasonrl.prm.annotation.rows import digest_of
from reasonrl.prm.judges.base import Judge, Judged, Keep, Task
from reasonrl.prm.judges.endpoint import EndpointJudge
from reasonrl.rewards.judges.asking import Answer, first_request
from reasonrl.rewards.judges.verdicts import Unreadable

PATH = "/v1/chat/completions"


def name_of(place: int, task: Task) -> str:
    """A question's `custom_id`: the judge's place, the row's, the vote, how often it was answered before (so that no
    reply is taken in twice), and a hash of the solution.
    """
    return f"{place}-{task.place}-{task.vote}-{task.attempt}-{digest_of(task.solution)}"


class BatchWriter:
    """Writes the questions of endpoint judges into a file, which is there once all are in it.

    Args:
        path: of the file; it must not be there yet.

    Attributes:
        requests: written so far.
    """

    def __init__(self, path: Path) -> None:
        if path.exists():
            raise RunError(f"--batch-out {path}: the file is there already -> name another, or remove it")
        self.path, self.requests = path, 0
        self._partial = path.with_name(f"{path.name}.partial")

    def __enter__(self) -> BatchWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._partial.open("w", encoding="utf-8")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
        if kind is None:
            os.replace(self._partial, self.path)
        else:
            self._partial.unlink(missing_ok=True)

    def over(self, place: int, judge: Judge) -> Judge:
        """The judge whose questions go into the file; one that needs no endpoint is asked as ever."""
        return _Written(self, place, judge) if isinstance(judge, EndpointJudge) else judge

    def write(self, name: str, body: dict[str, Any]) -> None:
        """One request."""
        line = {"custom_id": name, "method": "POST", "url": PATH, "body": body}
        self._file.write(json.dumps(line) + "\n")
        self.requests += 1


class BatchReplies:
    """The file that a batch came back in. Where replies stand is held in memory, not what they say.

    Args:
        path: of the file.

    Attributes:
        used: replies to questions of this annotation.
        unreadable: lines that are no reply.

    Raises:
        DataError: there is no such file, or no reply in it.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.used, self.unreadable = path, 0, 0
        self._places: dict[str, int] = {}
        if not path.is_file():
            raise DataError(f"--batch-in {path}: there is no such file")
        with path.open("rb") as file:
            start = 0
            for line in file:
                name = _line(line).get("custom_id")
                if isinstance(name, str):
                    self._places[name] = start
                elif line.strip():
                    self.unreadable += 1
                start += len(line)
        if not self._places:
            raise DataError(f"--batch-in {path}: no line has a custom_id -> give the file of the batch's output")
        self._file = path.open("rb")

    def __len__(self) -> int:
        return len(self._places)

    def __enter__(self) -> BatchReplies:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def over(self, place: int, judge: Judge) -> Judge:
        """The judge whose answers stand in the file."""
        return _Read(self, place, judge) if isinstance(judge, EndpointJudge) else judge

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def get(self, name: str) -> dict[str, Any]:
        """A line of the file."""
        self._file.seek(self._places[name])
        self.used += 1
        return _line(self._file.readline())


class _InOrder:
    """An endpoint judge that nobody waits for: one question after the other, and shards that stay open are let go."""

    in_order = True
    at_once = 1

    def __init__(self, place: int, judge: EndpointJudge) -> None:
        self.place, self.inner, self.votes = place, judge, judge.votes

    def settings(self) -> dict[str, Any]:
        return self.inner.settings()

    def close(self) -> None:
        self.inner.close()


class _Written(_InOrder):
    def __init__(self, file: BatchWriter, place: int, judge: EndpointJudge) -> None:
        super().__init__(place, judge)
        self.file = file

    def answers(self, task: Task) -> bool:
        """Nothing is answered now."""
        return True

    def judge(self, tasks: Iterable[Task], keep: Keep) -> Generator[Judged, None, None]:
        config = self.inner.client.config
        for task in tasks:
            question = self.inner.questions.about(task, 0)
            request = first_request(self.inner.client, question, self.inner.sampling)
            self.file.write(name_of(self.place, task), request.whole_body(config.model, config.extra_body))
        yield from ()


class _Read(_InOrder):
    def __init__(self, file: BatchReplies, place: int, judge: EndpointJudge) -> None:
        super().__init__(place, judge)
        self.file = file

    def answers(self, task: Task) -> bool:
        """Whether the file has a reply to this question."""
        return name_of(self.place, task) in self.file

    def judge(self, tasks: Iterable[Task], keep: Keep) -> Generator[Judged, None, None]:
        for task in tasks:
            name = name_of(self.place, task)
            if name in self.file:
                judged = self.inner.judged(task, self._answer(task, self.file.get(name)))
                keep(judged)
                yield judged

    def _answer(self, task: Task, line: dict[str, Any]) -> Answer:
        """What a line says; a reply that cannot be read is a failure that may be asked about again."""
        from reasonrl.endpoints.reply import read_reply

        question = self.inner.questions.about(task, 0)
        response = line.get("response") or {}
        if line.get("error") or response.get("status_code", 200) != 200:
            why = line.get("error") or response
            return Answer(None, "", f"the batch has an error in place of a reply: {json.dumps(why)[:300]}", 1)
        try:
            request = first_request(self.inner.client, question, self.inner.sampling)
            reply = read_reply(response.get("body"), request)
        except (ValueError, TypeError, KeyError, AttributeError) as problem:
            return Answer(None, "", f"the batch's reply is not the API's: {problem}", 1)
        used = (reply.prompt_tokens or 0, reply.completion_tokens or 0)
        said = reply.choices[0].text
        try:
            return Answer(question.read(said), said, "", 1, *used)
        except Unreadable as problem:
            return Answer(None, said or "…", str(problem), 1, *used)


def _line(raw: bytes) -> dict[str, Any]:
    """A line of a batch's file; empty if it is none."""
    try:
        found = json.loads(raw)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
