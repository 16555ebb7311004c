"""Recipes: schema, composing, validation, batch arithmetic. Imports neither torch, transformers, trl nor vllm."""
