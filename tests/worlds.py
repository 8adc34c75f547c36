"""The configuration of the small planted-bias world that the fixture ``mini_world`` builds."""

from balora.data.lab import WorldConfig

MINI = WorldConfig(
    groups=8,
    attributes=8,
    facts=12,
    rank=2,
    hidden=64,
    layers=1,
    steps=200,
    batch_size=32,
    learning_rate=6e-3,
    finetune_rows=160,
)
