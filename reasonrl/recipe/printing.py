"""The composed recipe as YAML, every line with the origin of its value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from pydantic import BaseModel

from reasonrl.recipe.composing import ResolvedRecipe
from reasonrl.recipe.origins import Origin, file_label
from reasonrl.recipe.references import Reference
from reasonrl.recipe.sources import DataSource
from reasonrl.recipe.yaml_files import RecipeLoader

_COLUMN = 58


class _Dumper(yaml.SafeDumper):
    """Quotes what our loader would not read as text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.yaml_implicit_resolvers = RecipeLoader.yaml_implicit_resolvers


def print_config(resolved: ResolvedRecipe) -> str:
    """The whole composed configuration as YAML that can be used as a recipe; comments say where each value is from.

    Values are grouped as the schema has them, with its defaults filled in; unset fields of data sources are left out.
    """
    lines = [f"# {file_label(resolved.path)} as composed; `# default` marks what nobody set"]
    tree = plain(resolved.recipe)
    if tree.pop("base"):
        lines.append(f"# composed in: {', '.join(resolved.recipe.base)}")
    if resolved.recipe.loop is None:
        del tree["loop"]
    for line, origin in _lines(tree, "", 0, resolved.origins):
        lines.append(f"{line:<{_COLUMN}}  # {origin}" if origin else line)
    return "\n".join(lines) + "\n"


def composed_yaml(tree: Mapping[str, Any]) -> str:
    """A composed tree as YAML that `load_recipe` reads back as the same tree: for `config.yaml` in a run directory.

    Plain YAML writers do not serve: they leave a text such as `1e-4` without quotes, and a literal `${` would be
    resolved again.
    """
    raw = {name: value if name == "arms" else _escape_all(value) for name, value in tree.items()}
    return yaml.dump(raw, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _escape_all(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _escape_all(child) for name, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_escape_all(child) for child in value]
    return _escaped(value) if isinstance(value, str) else value


def plain(value: Any) -> Any:
    """A recipe's model as plain values: references as texts, TRL's arguments flat in their stage."""
    if isinstance(value, BaseModel):
        result = {}
        for name in type(value).model_fields:
            child = getattr(value, name)
            if name == "trl_args":
                continue
            if isinstance(value, DataSource) and (child is None or child == {}):
                continue
            result[name] = plain(child)
        if result.get("system_prompt_file") is not None:
            del result["system_prompt"]  # it is what the file says; an arm may name another
        kind = {"kind": result.pop("kind")} if "kind" in result else {}
        return {**kind, **result, **getattr(value, "trl_args", {})}
    if isinstance(value, Mapping):
        return {name: plain(child) for name, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(child) for child in value]
    return str(value) if isinstance(value, Reference) else value


def _lines(tree: Mapping[str, Any], above: str, depth: int, origins: Mapping[str, Origin]) -> Iterator[tuple[str, str]]:
    for name, value in tree.items():
        key = f"{above}.{name}" if above else str(name)
        head = f"{'  ' * depth}{_scalar(str(name), key)}:"
        if isinstance(value, Mapping) and value:
            yield head, ""
            yield from _lines(value, key, depth + 1, origins)
        else:
            origin = origins.get(key)
            yield f"{head} {_scalar(value, key)}", origin.describe() if origin else _default(key, origins)


def _default(key: str, origins: Mapping[str, Origin]) -> str:
    """Keys inside a list or an overlay carry no origin of their own: it is that of what holds them."""
    above = key.rpartition(".")[0]
    holder = origins.get(above)
    return (
        holder.describe()
        if holder and (above.startswith("arms.") or above.endswith((".args", ".columns")))
        else "default"
    )


def _scalar(value: Any, key: str) -> str:
    if isinstance(value, str) and not key.startswith("arms."):
        value = _escaped(value)
    style = '"' if isinstance(value, str) and "\n" in value else None
    text = yaml.dump(
        value, Dumper=_Dumper, default_flow_style=True, default_style=style, width=float("inf"), allow_unicode=True
    )
    return text.removesuffix("\n").removesuffix("\n...").strip()


def _escaped(text: str) -> str:
    r"""A literal `${` as `\${`, so that it stays literal; references are written as they are."""
    return text if text.startswith(("${stage:", "${previous:")) else text.replace("${", "\\${")
