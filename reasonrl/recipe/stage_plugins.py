"""Stage kinds that other packages add: the entry-point group `reasonrl.stages`, a `StagePlugin` by the kind's name."""

from __future__ import annotations

from dataclasses import dataclass

from reasonrl.errors import RunError
from reasonrl.plugins import entry_point_names, load_entry_point
from reasonrl.recipe.stage_base import Stage

STAGES_GROUP = "reasonrl.stages"


@dataclass(frozen=True)
class StagePlugin:
    """A stage kind.

    Attributes:
        config: its keys: a subclass of `Stage` whose `kind` is `Literal["the kind"]`; importing it needs no torch.
        module: dotted name of what runs it: `run(config, context) -> StageResult` and `dry_run(config, context) ->
            list[str]`, imported when such a stage is run.
        launched: it trains, in as many processes as `launch` says.
    """

    config: type[Stage]
    module: str
    launched: bool = False


def stage_plugins() -> dict[str, StagePlugin]:
    """Every installed kind by its name.

    Raises:
        RunError: a plugin cannot be loaded, or is not what it should be; it names the package's entry.
    """
    found: dict[str, StagePlugin] = {}
    for kind in entry_point_names(STAGES_GROUP):
        plugin = load_entry_point(kind, STAGES_GROUP, error=RunError)
        if not isinstance(plugin, StagePlugin) or kind not in repr(plugin.config.model_fields["kind"].annotation):
            text = f"the plugin {kind!r} of {STAGES_GROUP} is no StagePlugin whose config has kind: Literal[{kind!r}]"
            raise RunError(f"{text} -> mend or uninstall its package")
        found[kind] = plugin
    return found
