"""Identity terms and sentence templates: the project's own files (``terms.yaml``, ``templates.yaml``) and the user's.

``lexicon`` finds terms in texts and swaps them; ``templates`` fills sentences with terms. Source of the terms and the
sentences: written for this project, in English.
"""

from balora.data.identity.lexicon import (
    Lexicon,
    Term,
    TermMatch,
    Variant,
    find_terms,
    load_lexicon,
    swap,
    variants,
)
from balora.data.identity.templates import Frame, Rendered, Template, frames, load_templates

__all__ = [
    "Frame",
    "Lexicon",
    "Rendered",
    "Template",
    "Term",
    "TermMatch",
    "Variant",
    "find_terms",
    "frames",
    "load_lexicon",
    "load_templates",
    "swap",
    "variants",
]
