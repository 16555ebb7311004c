"""The shipped recipes. Data only: YAML files, each with a short README, read with
`importlib.resources.files("reasonrl.recipes")`.
"""
