"""A stand-in for the command line in tests: `python drive.py RECIPE [OPTION VALUE …] [--dry-run] [a.b=c …]`.

Options: --restart-stage NAME, --study NAME, --jobs N.

DIE_AT names a moment at which the process is killed with SIGKILL: `part:FILE` with half of FILE's temporary written,
`before:FILE` with all of it written but not renamed, `after:FILE` right after the rename.
"""

from __future__ import annotations

import os
import signal
import sys

from reasonrl.errors import ReasonRLError
from reasonrl.pipeline import register_stage, run_study, train

register_stage("sft", "counting_stage", launched=True)


def die_at(moment: str, name: str) -> None:
    """Plant a kill around the writing of one file."""
    replace, fsync = os.replace, os.fsync

    def dying_replace(source, target):
        hit = os.path.basename(target) == name
        if hit and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
        if hit and moment == "after":
            os.kill(os.getpid(), signal.SIGKILL)

    def dying_fsync(handle):
        path = os.readlink(f"/proc/self/fd/{handle}")
        if path.endswith(f"-{name}"):
            os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(handle)

    os.replace = dying_replace
    if moment == "part":
        os.fsync = dying_fsync


def main() -> int:
    from reasonrl.recipe import load_recipe

    words = sys.argv[1:]
    options: dict[str, list[str]] = {"--restart-stage": [], "--study": [], "--jobs": []}
    while any(word in options for word in words):
        at = next(index for index, word in enumerate(words) if word in options)
        options[words[at]].append(words[at + 1])
        del words[at : at + 2]
    dry = "--dry-run" in words
    words = [word for word in words if word != "--dry-run"]
    if "DIE_AT" in os.environ:
        die_at(*os.environ["DIE_AT"].split(":"))

    def say(line: str) -> None:
        print(line, flush=True)

    try:
        restart = options["--restart-stage"]
        if options["--study"]:
            jobs = int(options["--jobs"][0]) if options["--jobs"] else 1
            run_study(
                words[0], options["--study"][0], words[1:], dry_run=dry, restart_stages=restart, say=say, jobs=jobs
            )
        else:
            train(load_recipe(words[0], words[1:]), dry_run=dry, restart_stages=restart, say=say)
    except ReasonRLError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
