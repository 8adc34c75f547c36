"""Models: loading them, describing their heads, teaching from them and saving what was trained.

``loading`` (and kinds), ``head`` (the LM head), ``scoring``, ``teacher`` (the original model's outputs), ``peft_init``
(from a pre-trained model to a student), ``adapters`` (from a trained student to a plain adapter).
"""

from balora.models.loading import Subject, load_base, load_subject, load_tokenizer

__all__ = ["Subject", "load_base", "load_subject", "load_tokenizer"]
