"""Tiny seeded models, tokenizers and batches of every architecture that balora supports.

The weights come from the config alone, so nothing is downloaded. Sizes: vocabulary 96, hidden 32, 2 layers.
Initial weights are several times larger than the libraries' defaults: with those, a tiny model's logits are
all but zero, every distribution is uniform, and a test of a divergence would pass whatever the code did.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

Task = Literal["causal", "classifier", "seq2seq", "masked"]

PAD, BOS, EOS, UNK, MASK = range(5)  # the same token ids in every tiny config and tokenizer
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "<mask>")
ROLE_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>")
VOCAB, HIDDEN, LABELS = 96, 32, 3

AUTO_CLASSES: dict[Task, Any] = {
    "causal": AutoModelForCausalLM,
    "classifier": AutoModelForSequenceClassification,
    "seq2seq": AutoModelForSeq2SeqLM,
    "masked": AutoModelForMaskedLM,
}


@dataclass(frozen=True)
class Architecture:
    """How to build one architecture small: `config` is passed to the config class of `model_type`."""

    model_type: str
    tasks: tuple[Task, ...]
    lora_targets: tuple[str, ...]  # every attention and MLP projection, as PEFT `target_modules`
    config: dict[str, Any]


_DECODER_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_BERT_TARGETS = ("query", "key", "value", "intermediate.dense", "output.dense")
_DECODER = {  # Llama and its kin, with grouped-query attention
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.15,
}
_ENCODER = {
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.15,
}

ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("llama", ("causal", "classifier"), _DECODER_TARGETS, _DECODER),
    "mistral": Architecture(  # the window is shorter than a batch, so that it matters
        "mistral", ("causal", "classifier"), _DECODER_TARGETS, {**_DECODER, "sliding_window": 6}
    ),
    "gemma2": Architecture(  # caps low enough that the tiny logits reach the curve of tanh
        "gemma2",
        ("causal", "classifier"),
        _DECODER_TARGETS,
        {
            **_DECODER,
            "query_pre_attn_scalar": 8,
            "sliding_window": 6,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
            "tie_word_embeddings": True,
        },
    ),
    "qwen2": Architecture(
        "qwen2",
        ("causal", "classifier"),
        _DECODER_TARGETS,
        {key: value for key, value in _DECODER.items() if key != "head_dim"},
    ),
    "qwen3": Architecture("qwen3", ("causal", "classifier"), _DECODER_TARGETS, _DECODER),
    "gpt2": Architecture(
        "gpt2",
        ("causal", "classifier"),
        ("c_attn", "c_proj", "c_fc"),
        {"n_embd": HIDDEN, "n_layer": 2, "n_head": 4, "n_positions": 128, "initializer_range": 0.15},
    ),
    "opt": Architecture(
        "opt",
        ("causal", "classifier"),
        ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
        {
            "hidden_size": HIDDEN,
            "word_embed_proj_dim": HIDDEN,
            "ffn_dim": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 128,
            "init_std": 0.15,
        },
    ),
    "bert": Architecture("bert", ("masked", "classifier"), _BERT_TARGETS, _ENCODER),
    "roberta": Architecture("roberta", ("masked", "classifier"), _BERT_TARGETS, _ENCODER),
    "deberta-v2": Architecture(  # attention as in DeBERTa-v3
        "deberta-v2",
        ("masked", "classifier"),
        ("query_proj", "key_proj", "value_proj", "intermediate.dense", "output.dense"),
        {
            **_ENCODER,
            "relative_attention": True,
            "position_buckets": 8,
            "pos_att_type": ["p2c", "c2p"],
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
            "position_biased_input": False,
        },
    ),
    "t5": Architecture(
        "t5",
        ("seq2seq", "classifier"),
        ("q", "k", "v", "o", "wi", "wo"),
        {
            "d_model": HIDDEN,
            "d_kv": 8,
            "d_ff": 48,
            "num_layers": 2,
            "num_heads": 4,
            "initializer_factor": 1.0,
        },
    ),
}


def tiny_model(arch: str, task: Task, seed: int = 0, **config_overrides: Any) -> PreTrainedModel:
    """Build a tiny model in eval mode; the global random state is left as it was.

    Dropout stays at the architecture's default (0.1 for GPT-2, OPT, T5 and the encoders): call `.train()` to
    have it. `config_overrides` win over every default here, e.g. `vocab_size=len(tokenizer)`.
    """
    spec = ARCHITECTURES[arch]
    if task not in spec.tasks:
        raise ValueError(f"{arch} serves {', '.join(spec.tasks)}, not {task}")
    settings: dict[str, Any] = {
        "vocab_size": VOCAB,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        **({"num_labels": LABELS} if task == "classifier" else {}),
        **({"decoder_start_token_id": PAD} if arch == "t5" else {}),
        **spec.config,
    }
    config = AutoConfig.for_model(spec.model_type, **{**settings, **config_overrides})
    # Only eager attention computes Gemma-2's soft-capping of attention scores.
    attention = {"attn_implementation": "eager"} if arch == "gemma2" else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AUTO_CLASSES[task].from_config(config, **attention)
    return model.eval()


def tiny_batch(
    model: PreTrainedModel, task: Task, batch_size: int = 4, length: int = 12, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Random inputs and labels for `model`, with padding on the right and rows of different lengths.

    Labels: (B,) class ids for a classifier; else (B, L) token ids, -100 where no loss is due: the first three
    tokens (a prompt) and padding for `causal`, unmasked tokens for `masked`, padding for `seq2seq`.
    """
    generator = torch.Generator().manual_seed(seed)
    vocab = int(model.config.vocab_size)

    def tokens() -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.randint(len(SPECIAL_TOKENS), vocab, (batch_size, length), generator=generator)  # (B, L)
        lengths = length - torch.arange(batch_size) % 4  # (B,)
        mask = (torch.arange(length) < lengths[:, None]).long()  # (B, L)
        ids[torch.arange(batch_size), lengths - 1] = EOS
        return ids.masked_fill(mask == 0, PAD), mask

    ids, mask = tokens()
    batch = {"input_ids": ids, "attention_mask": mask}
    if task == "classifier":
        labels = torch.randint(model.config.num_labels, (batch_size,), generator=generator)
    elif task == "causal":
        labels = ids.masked_fill(mask == 0, -100)
        labels[:, :3] = -100
    elif task == "seq2seq":
        target, target_mask = tokens()
        labels = target.masked_fill(target_mask == 0, -100)
    else:
        hidden = torch.zeros_like(mask, dtype=torch.bool)
        hidden[:, 1::3] = True
        hidden &= mask == 1
        labels = ids.masked_fill(~hidden, -100)
        batch["input_ids"] = ids.masked_fill(hidden, MASK)
    return {**batch, "labels": labels}


SENTENCES = (
    "the quick fox jumps over the lazy dog .",
    "a nurse and a doctor walk to the old house near the river .",
    "what is the capital of this country ? the capital is a big city .",
    "she said that he was kind , and he said that she was clever !",
    "yes or no : is the answer good or bad ?",
)

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|> ' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|> ' }}{% endif %}"
)


def tiny_tokenizer(
    texts: Iterable[str] | None = None,
    kind: Literal["word", "bpe"] = "word",
    chat_template: bool = False,
    vocab_size: int = VOCAB,
) -> PreTrainedTokenizerFast:
    """Train a tokenizer on `texts` (the module's SENTENCES where None) with at most `vocab_size` entries.

    `word` gives one token to each word and punctuation mark, `bpe` splits words into pieces. No special token
    is added around a text. With `chat_template` the role markers are special tokens too, and the template
    marks what the assistant says (`return_assistant_tokens_mask`).
    """
    corpus = list(SENTENCES if texts is None else texts)
    special = [*SPECIAL_TOKENS, *(ROLE_TOKENS if chat_template else ())]
    if kind == "word":
        tokenizer = Tokenizer(models.WordLevel(unk_token=SPECIAL_TOKENS[UNK]))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.WordLevelTrainer(
            vocab_size=vocab_size, special_tokens=special, show_progress=False
        )
    else:
        tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL_TOKENS[UNK]))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    pad, bos, eos, unk, mask = SPECIAL_TOKENS
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        unk_token=unk,
        mask_token=mask,
        model_max_length=128,
    )
    if chat_template:
        fast.chat_template = CHAT_TEMPLATE
    return fast
