"""The tiny models of tests/tiny.py are what the other tests take them for."""

import peft
import pytest
import torch

from tiny import (
    ARCHITECTURES,
    BOS,
    EOS,
    HIDDEN,
    MASK,
    PAD,
    UNK,
    VOCAB,
    tiny_batch,
    tiny_model,
    tiny_tokenizer,
)

CASES = [(arch, task) for arch, spec in ARCHITECTURES.items() for task in spec.tasks]


@pytest.mark.parametrize(("arch", "task"), CASES)
def test_model_forward_is_finite_seeded_and_far_from_uniform(arch, task):
    model, again, other = (tiny_model(arch, task, seed=seed) for seed in (0, 0, 1))
    batch = tiny_batch(model, task)
    with torch.no_grad():
        outputs = [m(**batch) for m in (model, again, other)]
    logits = outputs[0].logits
    assert torch.isfinite(outputs[0].loss)
    assert torch.isfinite(logits).all()
    assert torch.equal(logits, outputs[1].logits)
    assert not torch.equal(logits, outputs[2].logits)
    if task != "classifier":
        # A uniform distribution over 96 tokens has the entropy ln 96 = 4.56.
        entropy = torch.distributions.Categorical(logits=logits).entropy().mean()
        assert entropy < 4.45


@pytest.mark.parametrize(("arch", "task"), CASES)
def test_lora_targets_reach_every_projection(arch, task):
    model = tiny_model(arch, task)
    linears = {
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | peft.tuners.lora.layer.Conv1D)
        and any(part in name for part in ("layer.", "layers.", "h.", "block."))
    }
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(target_modules=list(ARCHITECTURES[arch].lora_targets))
    )
    assert set(adapted.targeted_module_names) == linears


def test_gemma2_soft_caps_its_logits():
    model = tiny_model("gemma2", "causal")
    batch = tiny_batch(model, "causal")
    uncapped = tiny_model("gemma2", "causal", final_logit_softcapping=None)
    with torch.no_grad():
        capped, raw = model(**batch).logits, uncapped(**batch).logits
    # logits = cap * tanh(raw / cap) with cap = 3, and the raw ones must reach where that bends.
    assert raw.abs().max() > 3
    torch.testing.assert_close(capped, 3 * torch.tanh(raw / 3))


def test_building_a_model_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    tiny_model("llama", "causal", seed=7)
    assert torch.equal(before, torch.get_rng_state())


def test_a_task_the_architecture_does_not_serve_is_refused():
    with pytest.raises(ValueError, match="bert serves masked, classifier, not causal"):
        tiny_model("bert", "causal")


def test_batch_labels_leave_out_prompt_and_padding():
    batch = tiny_batch(tiny_model("llama", "causal"), "causal", batch_size=4, length=12)
    # Rows of 12, 11, 10 and 9 tokens; the first three of each are prompt: 9 + 8 + 7 + 6 = 30 labels.
    assert batch["attention_mask"].sum(1).tolist() == [12, 11, 10, 9]
    assert int((batch["labels"] != -100).sum()) == 30
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_tokenizer_round_trip_and_special_ids(kind):
    tokenizer = tiny_tokenizer(kind=kind)
    assert len(tokenizer) <= VOCAB
    special = ("pad", "bos", "eos", "unk", "mask")
    assert [getattr(tokenizer, f"{name}_token_id") for name in special] == [PAD, BOS, EOS, UNK, MASK]
    text = "the lazy doctor said : yes"
    ids = tokenizer(text)["input_ids"]
    assert UNK not in ids
    assert tokenizer.decode(ids) == text
    assert UNK in tokenizer("Zürich")["input_ids"]


def test_chat_template_marks_what_the_assistant_says():
    tokenizer = tiny_tokenizer(chat_template=True)
    messages = [{"role": "user", "content": "yes or no ?"}, {"role": "assistant", "content": "no ."}]
    encoded = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    marked = [i for i, on in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if on]
    assert tokenizer.decode(marked) == "no . </s>"


def test_hidden_size_is_as_documented():
    assert tiny_model("llama", "causal").config.hidden_size == HIDDEN == 32
