"""The planted-bias world: a synthetic language whose bias and knowledge are known exactly, and a model trained on it.

``language`` is the world itself (groups, attributes, facts, sentences, the planted matrix), ``pretrain`` the small
causal model that learns it, ``world`` the folder that holds both and its cache. Importing needs no torch.
"""

from balora.data.lab.language import SPLITS, Language, Split, WorldConfig
from balora.data.lab.world import World, build_world

__all__ = ["SPLITS", "Language", "Split", "World", "WorldConfig", "build_world"]
