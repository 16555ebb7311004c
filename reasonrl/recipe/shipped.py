"""The recipes that come with the library."""

from __future__ import annotations

from pathlib import Path

import reasonrl
from reasonrl.errors import Problem, RecipeError
from reasonrl.recipe.fields import near
from reasonrl.recipe.yaml_files import read_layer


def recipes_folder() -> Path:
    """Folder of the shipped recipes."""
    return Path(reasonrl.__file__).parent / "recipes"


def shipped_recipes() -> dict[str, Path]:
    """Shipped recipes by name: `NAME.yaml`, `NAME/recipe.yaml`, and `FOLDER/NAME` of `FOLDER/NAME.yaml`; names that
    begin with '_' are bases, not recipes.
    """
    folder = recipes_folder()
    files = {path.stem: path for path in folder.glob("*.yaml")}
    files.update({path.parent.name: path for path in folder.glob("*/recipe.yaml")})
    inner = [path for path in folder.glob("*/*.yaml") if path.name != "recipe.yaml"]
    files.update({f"{path.parent.name}/{path.stem}": path for path in inner})
    return {name: files[name] for name in sorted(files) if not name.rpartition("/")[2].startswith("_")}


def find_recipe(path: str | Path) -> Path:
    """The file of a recipe: a path as it is, or the bare name of a shipped recipe.

    Raises:
        RecipeError: neither a file nor a shipped name; the message has the near match.
    """
    given = Path(path)
    shipped = shipped_recipes()
    if given.exists():
        if given.is_dir() and (given / "recipe.yaml").is_file():
            return given / "recipe.yaml"
        if not (given.is_dir() and str(path) in shipped):
            return given
    if str(path) in shipped:
        return shipped[str(path)]
    siblings = [str(item) for item in given.parent.glob("*.yaml")] if given.parent.is_dir() else []
    match = near(str(given), siblings) or near(given.stem, shipped)
    fix = f"did you mean {match!r}?" if match else f"give a file, or a shipped recipe: {', '.join(shipped) or 'none'}"
    raise RecipeError([Problem("", f"there is no recipe {str(path)!r}", "", fix)])


def shipped_recipe(name: str) -> Path:
    """The file of a shipped recipe.

    Raises:
        RecipeError: there is no shipped recipe of this name; the message has the near match.
    """
    shipped = shipped_recipes()
    bare = name.removesuffix(".yaml")
    if bare not in shipped:
        match = near(bare, shipped)
        fix = f"did you mean {match!r}?" if match else f"shipped recipes: {', '.join(shipped) or 'none'}"
        raise RecipeError([Problem("", f"there is no shipped recipe {name!r}", "", fix)])
    return shipped[bare]


def describe_recipes() -> str:
    """One line a shipped recipe: its name and the first sentence of its opening comment."""
    shipped = shipped_recipes()
    width = max((len(name) for name in shipped), default=0)
    lines = []
    for name, path in shipped.items():
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        summary = first.lstrip("# ").partition(". ")[0] if first.startswith("#") else ""
        lines.append(f"{name:<{width}}  {summary}".rstrip())
    return "\n".join(lines)


def copy_recipe(name: str, destination: Path) -> list[Path]:
    """Copy a shipped recipe, and the files it is based on, to a folder or a new file.

    Returns:
        The files that were written.

    Raises:
        RecipeError: there is no such recipe, or a file of that name is there already (then nothing is written).
    """
    source = shipped_recipe(name)
    if destination.suffix not in (".yaml", ".yml"):
        destination = destination / f"{name.removesuffix('.yaml')}.yaml"
    copies = {source: destination, **_bases(source, source.parent, destination.parent)}
    taken = [target for target in copies.values() if target.exists()]
    if taken:
        fix = "name another place: reasonrl recipes cp NAME DEST"
        raise RecipeError(
            [Problem("", "is there already, and nothing is overwritten", str(path), fix) for path in taken]
        )
    for one, target in copies.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(one.read_bytes())
    return list(copies.values())


def _bases(path: Path, root: Path, target: Path) -> dict[Path, Path]:
    """Base files of a recipe, recursively -> where they go; those outside the recipe's folder are left out."""
    bases = read_layer(path).tree.get("base", [])
    found: dict[Path, Path] = {}
    for name in [bases] if isinstance(bases, str) else bases:
        base = path.parent / name
        if base.resolve().is_relative_to(root.resolve()):
            found[base] = target / base.resolve().relative_to(root.resolve())
            found.update(_bases(base, root, target))
    return found
