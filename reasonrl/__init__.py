"""reasonrl: a recipe is one YAML file that holds a whole paper of reasoning RL, from raw prompts to the results table.

The rooms `rewards/`, `prm/`, `eval/`, `data_tools/` and `recipes/` stand at the top of the repository and are linked
into this package: they are imported as `reasonrl.rewards`, `reasonrl.eval` and so on, never by their bare names.
"""

__version__ = "0.1.0"
