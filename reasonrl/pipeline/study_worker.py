"""One run of a study in a process of its own, started by `study_jobs`.

`python -m reasonrl.pipeline.study_worker FD`: the order comes on standard input, the answer goes to the file descriptor
FD, lines for the user to standard output. Each further byte on standard input asks to stop (the number of the signal, 0
for none); its end means that the study's process is gone, and this one ends with it.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import struct
import sys
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from reasonrl.errors import Interrupted, ReasonRLError
from reasonrl.pipeline.launch import kill_children
from reasonrl.pipeline.progress import logs_to_terminal
from reasonrl.pipeline.runner import RunSummary, Say, train
from reasonrl.pipeline.signals import StopFlag, stop_on_signals
from reasonrl.pipeline.stages import StageKind, register_stage

if TYPE_CHECKING:
    from reasonrl.recipe import ResolvedRecipe

_LENGTH = struct.Struct(">Q")
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Order:
    """What a run's process is to do: the arguments of `train`, and what the study's process knows that it does not.

    Attributes:
        resolved, directory, restart_stages, sources, command: as for `train`.
        arguments: the command line of the study's process, for the records.
        kinds: the stage kinds registered there.
    """

    resolved: ResolvedRecipe
    directory: Path
    restart_stages: tuple[str, ...]
    sources: Mapping[str, Path]
    command: str
    arguments: tuple[str, ...]
    kinds: Mapping[str, StageKind]


@dataclass(frozen=True)
class Answer:
    """What became of it: a summary, or an error with its exit status, and whether that was a stop on request."""

    summary: RunSummary | None = None
    error: str = ""
    exit_status: int = 0
    stopped: bool = False


def send_order(stream: IO[bytes], order: Order) -> None:
    """Write an order, led by where its parts are imported from. Raises OSError if the process is gone."""
    content = pickle.dumps((sys.path, pickle.dumps(order)))
    stream.write(_LENGTH.pack(len(content)) + content)
    stream.flush()


def main(answer_to: int) -> None:
    """Receive the order, run it, answer."""
    _die_with_parent()
    os.set_inheritable(answer_to, False)
    control = _take_standard_input()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    (length,) = _LENGTH.unpack(_read(control, _LENGTH.size))
    path, content = pickle.loads(_read(control, length))
    sys.path += [entry for entry in path if entry not in sys.path]
    order: Order = pickle.loads(content)
    sys.argv[:] = order.arguments
    for kind, known in order.kinds.items():
        register_stage(kind, known.module, launched=known.launched)
    logs_to_terminal()
    stop = StopFlag()
    threading.Thread(target=_obey, args=(control, stop), daemon=True, name="study").start()
    with stop_on_signals(stop, _print, kill_children):
        answer = carry_out(order, stop, _print)
    with os.fdopen(answer_to, "wb") as stream:
        pickle.dump(answer, stream)
    sys.exit(answer.exit_status)


def carry_out(order: Order, stop: StopFlag, say: Say) -> Answer:
    """Run a run of a study in this process; whatever goes wrong is an answer too."""
    try:
        if stop.is_set():
            raise stop.interrupted("before it began", order.command)
        summary = train(
            order.resolved,
            restart_stages=order.restart_stages,
            run_directory=order.directory,
            sources=order.sources,
            say=say,
            command=order.command,
            stop=stop,
        )
    except ReasonRLError as error:
        return Answer(error=str(error), exit_status=error.exit_status, stopped=isinstance(error, Interrupted))
    except Exception as error:
        traceback.print_exc()
        return Answer(error=f"{type(error).__name__}: {error}", exit_status=1)
    return Answer(summary)


def _take_standard_input() -> int:
    """A file descriptor of what was standard input; what this process starts reads nothing there."""
    control = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return control


def _read(handle: int, length: int) -> bytes:
    """Exactly so many bytes. Ends this process if there are no more."""
    content = b""
    while len(content) < length:
        part = os.read(handle, length - len(content))
        if not part:
            sys.exit(1)
        content += part
    return content


def _obey(control: int, stop: StopFlag) -> None:
    while word := os.read(control, 1):
        stop.set(word[0] or None)
    kill_children()
    os.kill(os.getpid(), signal.SIGKILL)


def _die_with_parent() -> None:
    """On Linux the kernel sees to it, even while this process is deep in a library; elsewhere `_obey` alone does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    from reasonrl.pipeline.study_worker import main as run_order  # by its full name: the order's classes live there

    run_order(int(sys.argv[1]))
