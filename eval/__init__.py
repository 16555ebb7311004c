"""Evaluation: sampling runs over suites, metrics with intervals, comparison of models and of a study's arms and seeds.

Importing this package does not import torch.
"""
