"""Installed versions against the ranges that this package was tested with, as its own metadata state them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata


@dataclass(frozen=True)
class Installed:
    """One required package.

    Attributes:
        name: of the package.
        wanted: as written in the metadata, such as `torch>=2.11,<2.14`.
        found: the installed version; None if it is not installed.
        extra: the extra of this package that asks for it; empty if a run needs it.
        fits: whether the installed version lies in the range; False if there is none.
    """

    name: str
    wanted: str
    found: str | None
    extra: str
    fits: bool

    @property
    def fix(self) -> str:
        """The command that mends it."""
        return f"pip install '{self.wanted}'"

    @property
    def fault(self) -> str:
        """What is wrong with it, and the fix; empty if nothing is."""
        if self.fits or (self.found is None and self.extra):
            return ""
        if self.found is None:
            return f"{self.name} is not installed -> {self.fix}"
        return f"{self.name} {self.found} is outside {self.wanted.removeprefix(self.name)} -> {self.fix}"


def installed(
    package: str = "reasonrl", *, extras: bool = False, leave_out: tuple[str, ...] = ("dev",)
) -> list[Installed]:
    """What `package` requires, in the order of its metadata; nothing is imported.

    Args:
        package: whose requirements.
        extras: those of its extras too.
        leave_out: extras that do not count.

    Raises importlib.metadata.PackageNotFoundError if `package` itself has no metadata.
    """
    from packaging.requirements import Requirement

    found: list[Installed] = []
    for text in metadata.requires(package) or []:
        requirement = Requirement(text)
        extra = _extra_of(text)
        if extra and (not extras or extra in leave_out):
            continue
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        wanted = f"{requirement.name}{requirement.specifier}"
        version = _version(requirement.name)
        fits = version is not None and requirement.specifier.contains(version, prereleases=True)
        found.append(Installed(requirement.name, wanted, version, extra, fits))
    return found


def python_range(package: str = "reasonrl") -> str:
    """The range of Python versions that `package` states; empty if it states none."""
    stated = metadata.metadata(package).json
    return str(stated.get("requires_python", ""))


def _extra_of(text: str) -> str:
    match = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", text)
    return match[1] if match else ""


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
