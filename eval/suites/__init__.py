"""Suites: what is evaluated, by name; protocols: how it is sampled.

suites = resolve("math500,aime24", protocol="orz", overrides={"max_tokens": 4096})
rows, check = suites["math500"].load()      # checked against the expected number and content
suites["math500"].n                         # a Suite is a suite of a recipe (SuiteConfig)
"""

from reasonrl.eval.suites.entry import SuiteEntry
from reasonrl.eval.suites.protocols import Protocol, get_protocol, protocols
from reasonrl.eval.suites.registry import Suite, find_entry, resolve, shipped_suites
from reasonrl.eval.suites.rows import RowCheck, content_of

__all__ = [
    "Protocol",
    "RowCheck",
    "Suite",
    "SuiteEntry",
    "content_of",
    "find_entry",
    "get_protocol",
    "protocols",
    "resolve",
    "shipped_suites",
]
