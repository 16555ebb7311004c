"""Whether a wheel and an sdist hold every room of the tree, its data files, and nothing at the top but the package.

python .ci/check_archives.py dist/*.whl dist/*.tar.gz
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

TREE = Path(__file__).resolve().parent.parent
ROOMS = ("rewards", "prm", "eval", "data_tools", "recipes")
SHIPPED = {".py", ".yaml", ".md", ".json", ".html", ".css", ".js", ".j2", ".typed", ".xml"}


def expected() -> set[str]:
    """Every tracked file of the package as it must stand in an archive, such as `reasonrl/rewards/math.py`."""
    listed = subprocess.run(
        ["git", "ls-files", "reasonrl", *ROOMS], cwd=TREE, capture_output=True, text=True, check=True
    )
    files = set()
    for name in listed.stdout.splitlines():
        path = Path(name)
        if (TREE / path).is_file() and (path.suffix in SHIPPED or path.name == "py.typed"):
            files.add(name if path.parts[0] == "reasonrl" else f"reasonrl/{name}")
    return files


def members(archive: Path) -> set[str]:
    """The files of a wheel, or of an sdist without its top folder; links are not files."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return {name for name in wheel.namelist() if not name.endswith("/")}
    with tarfile.open(archive) as sdist:
        return {member.name.partition("/")[2] for member in sdist.getmembers() if member.isfile()}


def main(archives: list[str]) -> int:
    """Prints what is missing or too much; 1 if anything is."""
    faults = []
    for name in archives:
        archive = Path(name)
        held = members(archive)
        faults += [f"{archive.name} lacks {file}" for file in sorted(expected() - held)]
        if archive.suffix == ".whl":
            tops = {file.partition("/")[0] for file in held}
            faults += [
                f"{archive.name} has {top} at the top"
                for top in sorted(tops)
                if top != "reasonrl" and not top.endswith(".dist-info")
            ]
        elif "LICENSE" not in held:
            faults.append(f"{archive.name} lacks LICENSE")
        print(f"{archive.name}: {len(held)} files")
    print("\n".join(faults), end="\n" if faults else "")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
