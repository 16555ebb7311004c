"""A recipe of two stages and three studies; its stages count instead of training (`counting_stage`)."""

STUDY = """
recipe: studying
output: {output}
model: tiny:qwen2
stages:
  first: {{kind: sft, model: base, data: {{path: {data}}}, max_steps: 2}}
  second: {{kind: sft, model: "${{stage:first}}", data: {{path: {data}}}, max_steps: 1, learning_rate: 0.1}}
arms:
  hot: {{stages.second.learning_rate: 0.9}}
  longer: {{stages.first.max_steps: 3}}
studies:
  both: {{arms: [default, hot], seeds: [0, 1]}}
  once: {{arms: [default, hot], seeds: [0]}}
  apart: {{arms: [default, longer], seeds: [0]}}
"""
RUNS = ["default-seed0", "default-seed1", "hot-seed0", "hot-seed1"]
