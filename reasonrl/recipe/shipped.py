"""The recipes that come with the library."""

from __future__ import annotations

from pathlib import Path

import reasonrl
from reasonrl.errors import Problem, RecipeError
from reasonrl.recipe.fields import near


def recipes_folder() -> Path:
    """Folder of the shipped recipes."""
    return Path(reasonrl.__file__).parent / "recipes"


def shipped_recipes() -> dict[str, Path]:
    """Shipped recipes by name: `NAME.yaml` and `NAME/recipe.yaml`; names that begin with '_' are bases, not recipes."""
    folder = recipes_folder()
    files = {path.stem: path for path in folder.glob("*.yaml")}
    files.update({path.parent.name: path for path in folder.glob("*/recipe.yaml")})
    return {name: files[name] for name in sorted(files) if not name.startswith("_")}


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
