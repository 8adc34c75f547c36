"""Models: loading and kinds (``loading``), the LM head (``head``), scoring (``scoring``), the teacher of the original
model's outputs (``teacher``), and the conversion of trained adapters to plain ones (``adapters``).
"""

from balora.models.loading import Subject, load_base, load_subject, load_tokenizer

__all__ = ["Subject", "load_base", "load_subject", "load_tokenizer"]
