"""What runs untrusted code, in a process of its own inside the sandbox. Standard library only.

`run_script` is a whole program between standard input and output. `serve_calls` holds a program's functions and calls
them on request. `serve_tests` runs test code of the data set, whose calls of the program's functions are asked of
another sandbox: what the tests expect never is where the program is.
"""

from __future__ import annotations

import ast
import atexit
import builtins
import contextlib
import os
import struct
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any

from reasonrl.rewards.sandbox.wire import HEADER, decode, encode, frame

COMPILE_ERROR, MEMORY_ERROR = 97, 98
PRELUDE = (
    "from typing import *\nimport bisect, collections, copy, functools, heapq, itertools, math, random, re, string\n"
    "from bisect import *\nfrom collections import *\nfrom functools import *\nfrom heapq import *\n"
    "from itertools import *\nfrom math import inf, gcd, sqrt, ceil, floor, comb, factorial\n"
)
"""What platforms of function problems import before a solution."""


def run_script(code: str) -> None:
    """Run a program as `__main__`, then end the process as Python would end it."""
    status = 1
    try:
        module = _module("__main__")
        program = _compiled(code)
        exec(program, module.__dict__)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except MemoryError:
        status = MEMORY_ERROR
    except CompileError as problem:
        status = COMPILE_ERROR
        sys.stderr.write(str(problem))
    except BaseException as problem:  # whatever the program raises is its own error, shown as Python shows it
        frames = problem.__traceback__  # the first is ours
        traceback.print_exception(type(problem), problem, frames and frames.tb_next, limit=-3)
    with contextlib.suppress(BaseException):
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()
        atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except BaseException:  # the program may have replaced its stdout
        status = status or 1
    with contextlib.suppress(BaseException):
        sys.stderr.flush()
    os._exit(status & 0xFF)


def serve_calls(code: str, channel: int) -> None:
    """Load a program, say so, and answer requests (`name`, or a kept object, with arguments) until the channel ends."""
    module = _module("solution")
    try:
        exec(PRELUDE, module.__dict__)
        exec(_compiled(code), module.__dict__)
    except BaseException as problem:
        send(channel, {"raised": type(problem).__name__, "note": _note(problem)})
        os._exit(MEMORY_ERROR if isinstance(problem, MemoryError) else 1)
    send(channel, {"ready": True})
    kept: list[Any] = []

    def keep(value: Any) -> int:
        kept.append(value)
        return len(kept) - 1

    while True:
        request = receive(channel)
        try:
            reply = _answered(request, module, kept, keep)
        except BaseException as problem:
            reply = {"raised": type(problem).__name__, "note": _note(problem)}
        send(channel, reply)


def _answered(
    request: dict[str, Any], module: types.ModuleType, kept: list[Any], keep: Callable[[Any], int]
) -> dict[str, Any]:
    handles = request.get("handles", False)
    store = keep if handles else None
    if "get" in request:
        return {"value": encode(_function(module, request["get"]), store)}
    function = kept[request["kept"]] if "kept" in request else _function(module, request["name"])
    if "attribute" in request:
        return {"value": encode(getattr(function, request["attribute"]), store)}
    args, named = decode(request["args"], kept.__getitem__), decode(request.get("named", {"d": []}), kept.__getitem__)
    before = encode(args, id) if handles else None
    reply = {"value": encode(function(*args, **named), store)}
    if handles and encode(args, id) != before:
        reply["args"] = encode(args, store)
    return reply


def _function(module: types.ModuleType, name: str) -> Any:
    """A function by name: the module's, or a method of a class `Solution`."""
    found = module.__dict__.get(name)
    solution = module.__dict__.get("Solution")
    if isinstance(solution, type) and hasattr(solution, name) and not callable(found):
        return getattr(solution(), name)
    if name not in module.__dict__:
        raise NameError(f"the program defines no {name!r}")
    return found


def serve_tests(setup: str, channel: int) -> None:
    """Load the tests' own definitions, then run one test on each request; calls of the program go up the channel."""
    space: dict[str, Any] = {"__name__": "tests", "__builtins__": builtins}
    remote = _Remote(channel)
    try:
        remote.provide(space, setup)
        exec(_compiled(setup), space)
    except BaseException as problem:
        send(channel, {"raised": type(problem).__name__, "note": _note(problem)})
        os._exit(1)
    send(channel, {"ready": True})
    while True:
        request = receive(channel)
        try:
            remote.provide(space, request["code"])
            exec(_compiled(request["code"]), space)
            reply: dict[str, Any] = {"passed": True}
        except BaseException as problem:
            reply = {"passed": False, "raised": type(problem).__name__, "note": _note(problem)}
        send(channel, reply)


class _Remote:
    """The program's names as seen by test code: each question goes up the channel and its answer comes back."""

    def __init__(self, channel: int) -> None:
        self.channel = channel

    def provide(self, space: dict[str, Any], code: str) -> None:
        """Ask for every name that the code uses and nothing here defines."""
        nodes = list(ast.walk(ast.parse(code)))
        used = {node.id for node in nodes if isinstance(node, ast.Name)}
        bound = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
        bound |= {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        bound |= {node.arg for node in nodes if isinstance(node, ast.arg)}
        for node in nodes:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                bound |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        for name in sorted(used - bound - set(space) - set(vars(builtins))):
            with contextlib.suppress(NameError):
                space[name] = self.value(self.ask({"get": name}))

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The program's reply to one request.

        Raises:
            Exception: what the program raised, as far as it is of Python's own kinds.
        """
        send(self.channel, {"ask": {**request, "handles": True}})
        reply = receive(self.channel)
        if "value" not in reply:
            kind = getattr(builtins, str(reply.get("raised")), RuntimeError)
            usable = isinstance(kind, type) and issubclass(kind, Exception)
            raise (kind if usable else RuntimeError)(reply.get("note", "the program gave no value"))
        return reply

    def value(self, reply: dict[str, Any]) -> Any:
        """The value in a reply; what is no plain value stays with the program."""
        return decode(reply["value"], lambda number: _Thing(self, number))


class _Thing:
    """Something of the program's that is no plain value, such as a function or an object of its own class."""

    def __init__(self, remote: _Remote, number: int) -> None:
        self._remote, self._number = remote, number

    def __call__(self, *args: Any, **named: Any) -> Any:
        given = {"args": encode(list(args), _number_of), "named": encode(named, _number_of)}
        reply = self._remote.ask({"kept": self._number, **given})
        if "args" in reply:  # the program changed its arguments in place: so does this call
            for old, new in zip(args, decode(reply["args"], lambda number: _Thing(self._remote, number)), strict=False):
                if isinstance(old, list) and isinstance(new, list):
                    old[:] = new
                elif isinstance(old, (dict, set)) and type(old) is type(new):
                    old.clear()
                    old.update(new)
        return self._remote.value(reply)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._remote.value(self._remote.ask({"kept": self._number, "attribute": name}))


def _number_of(value: Any) -> int:
    if isinstance(value, _Thing):
        return value._number
    raise TypeError(f"a {type(value).__name__} of the tests cannot be given to the program")


def send(channel: int, message: dict[str, Any]) -> None:
    """Write one frame."""
    rest = memoryview(frame(message))
    while rest:
        rest = rest[os.write(channel, rest) :]


def receive(channel: int) -> dict[str, Any]:
    """Read one frame; ends the process when the other side is gone."""
    import json

    try:
        (size,) = HEADER.unpack(_exactly(channel, HEADER.size))
        message: dict[str, Any] = json.loads(_exactly(channel, size))
    except (EOFError, struct.error):
        os._exit(0)
    return message


def _exactly(channel: int, size: int) -> bytes:
    parts = []
    while size:
        part = os.read(channel, min(size, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _module(name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__dict__["__builtins__"] = builtins
    sys.modules[name] = module
    return module


def _compiled(code: str) -> types.CodeType:
    try:
        return compile(code, "<program>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as problem:
        raise CompileError(f"{type(problem).__name__}: {problem}") from None


class CompileError(Exception):
    """The text is no program."""


def _note(problem: BaseException) -> str:
    return f"{type(problem).__name__}: {problem}"[:500]
