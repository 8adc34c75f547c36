"""The small Llama-style model that learns the language of a planted-bias world, and its word-level tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    get_cosine_schedule_with_warmup,
)

from balora.data.lab.language import ASSOCIATIONS, BOS, EOS, FACTS, PAD, SPECIAL, UNK, Language, WorldConfig

Progress = Callable[[int, int], None]  # (steps done, steps in all)

_IGNORED = -100
_POSITIONS = 512  # far more than any sentence has, so that no usual max_length must be lowered
_PROGRESS_STEPS = 10


def build_tokenizer(language: Language) -> PreTrainedTokenizerFast:
    """One token a word, lower case, with ``<s>`` in front."""
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(language.vocabulary)}, unk_token=SPECIAL[UNK])
    )
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SPECIAL[BOS]} $A", special_tokens=[(SPECIAL[BOS], BOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=SPECIAL[PAD],
        bos_token=SPECIAL[BOS],
        eos_token=SPECIAL[EOS],
        unk_token=SPECIAL[UNK],
        model_max_length=_POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def pretrain(language: Language, progress: Progress) -> LlamaForCausalLM:
    """A model trained from scratch on the language's sentences, in eval mode.

    Next-token cross entropy over every word, but for the attribute: there the target is the whole conditional
    distribution, so that rare attributes are learned without needing to be seen. One thread whatever the caller has,
    so that a seed gives the same bits; the caller's random state and thread count are left as they were.
    """
    config = language.config
    with _reproducible(config.seed):
        model = LlamaForCausalLM(_architecture(config, len(language.vocabulary)))
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
        )
        schedule = get_cosine_schedule_with_warmup(optimizer, config.steps // 20, config.steps)
        sentences = _Sentences(language, torch.Generator().manual_seed(config.seed))
        model.train()
        for step in range(config.steps):
            loss = sentences.loss(model)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if (step + 1) % _PROGRESS_STEPS == 0 or step + 1 == config.steps:
                progress(step + 1, config.steps)
    return model.eval()


class _Sentences:
    """All sentences as tokens, and batches drawn from them: one half associations, the other facts."""

    def __init__(self, language: Language, generator: torch.Generator) -> None:
        self.generator = generator
        self.half = language.config.batch_size // 2
        ids = {word: i for i, word in enumerate(language.vocabulary)}
        wordings = [text for texts in ASSOCIATIONS.values() for text in texts]
        longest = max(len(text.split()) for text in (*wordings, *FACTS)) + 3  # <s>, the last word, </s>

        def tokens(prompt: str, last: str) -> list[int]:
            row = [BOS, *(ids[word] for word in prompt.split()), ids[last], EOS]
            return row + [PAD] * (longest - len(row))

        first = language.attributes[0]  # its place is filled anew for every batch
        self.associations = torch.tensor(
            [[tokens(text.format(group=group), first) for text in wordings] for group in language.groups]
        )  # (G, wordings, L)
        self.attribute_at = torch.tensor([len(text.split()) + 1 for text in wordings])  # (wordings,)
        self.facts = torch.tensor(
            [
                tokens(text.format(subject=subject), obj)
                for subject, obj in zip(language.subjects, language.objects, strict=True)
                for text in FACTS
            ]
        )  # (facts * wordings, L)
        self.conditional = torch.tensor(language.conditional, dtype=torch.float32)  # (G, A)
        self.group_share = torch.tensor(language.group_share, dtype=torch.float32)  # (G,)
        self.first_attribute = ids[first]

    def loss(self, model: LlamaForCausalLM) -> Tensor:
        """Cross entropy of one fresh batch: mean over attributes at half the weight of the mean over other words.

        A plain mean over all words would leave the attributes, one word in seven, too little of the gradient.
        """
        rows = torch.arange(self.half)
        groups = torch.multinomial(self.group_share, self.half, replacement=True, generator=self.generator)
        wordings = self._integers(len(self.attribute_at))
        target = self.conditional[groups]  # (half, A)
        drawn = torch.multinomial(target, 1, generator=self.generator)[:, 0]  # what later words stand after
        at = self.attribute_at[wordings]  # (half,)
        associations = self.associations[groups, wordings]  # (half, L)
        associations[rows, at] = self.first_attribute + drawn
        ids = torch.cat([associations, self.facts[self._integers(len(self.facts))]])  # (batch, L)

        labels = ids[:, 1:].masked_fill(ids[:, 1:] == PAD, _IGNORED)  # (batch, L - 1)
        labels[rows, at - 1] = _IGNORED
        logits = model(input_ids=ids).logits  # (batch, L, V)
        words = cross_entropy(logits[:, :-1].flatten(0, 1), labels.flatten(), ignore_index=_IGNORED)
        log_p = logits[rows, at - 1].log_softmax(-1)  # (half, V)
        log_p = log_p[:, self.first_attribute : self.first_attribute + target.shape[1]]  # (half, A)
        return words - 0.5 * (target * log_p).sum(-1).mean()

    def _integers(self, below: int) -> Tensor:
        return torch.randint(below, (self.half,), generator=self.generator)


def _architecture(config: WorldConfig, vocabulary: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=config.hidden,
        intermediate_size=4 * config.hidden,
        num_hidden_layers=config.layers,
        num_attention_heads=config.hidden // 32,
        num_key_value_heads=config.hidden // 32,
        max_position_embeddings=_POSITIONS,
        tie_word_embeddings=False,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
