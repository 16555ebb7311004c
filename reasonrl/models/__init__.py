"""Models: loading policies, the scalar-head model of critics and reward models, and tiny models built in code."""

from reasonrl.models.loading import load_policy, load_processor, load_tokenizer, reads_images, resolve_model
from reasonrl.models.scalar_head import ScalarHeadModel
from reasonrl.models.tiny import build_tiny, build_tokenizer, is_tiny, tiny_path

__all__ = [
    "ScalarHeadModel",
    "build_tiny",
    "build_tokenizer",
    "is_tiny",
    "load_policy",
    "load_processor",
    "load_tokenizer",
    "reads_images",
    "resolve_model",
    "tiny_path",
]
