"""Examinations of a process reward model: step scores, best-of-N, guided search, published benchmarks.

Each leaves a suite in an evaluation folder: per-unit values (`values.jsonl`), from which figures, their intervals and
their paired differences to another examination are made (`reasonrl.eval.compare`).
"""
