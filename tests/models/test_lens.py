"""The lens reads the last layer as the model itself answers, and the divergences are those of the definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from scipy.special import rel_entr
from scipy.stats import entropy

from balora.models.lens import Lens, divergences
from tiny import ARCHITECTURES, tiny_batch, tiny_model

CASES = [
    (arch, task)
    for arch, spec in ARCHITECTURES.items()
    for task in spec.tasks
    if task != "seq2seq" and arch != "t5"
]


@pytest.mark.parametrize(("arch", "task"), CASES)
@pytest.mark.parametrize("adapted", [False, True], ids=["plain", "with adapter"])
def test_the_last_layer_is_the_models_own_answer(arch, task, adapted):
    model = tiny_model(arch, task)
    if adapted:
        targets = list(ARCHITECTURES[arch].lora_targets)
        heads = ["classifier", "score", "pooler"] if task == "classifier" else None
        names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
        config = LoraConfig(
            r=2,
            init_lora_weights=False,
            target_modules=targets,
            fan_in_fan_out=arch == "gpt2",
            modules_to_save=[h for h in heads if h in names] if heads else None,
        )
        model = get_peft_model(model, config).eval()
    batch = tiny_batch(tiny_model(arch, task), task)
    inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}
    lens = Lens(model, task)
    with torch.no_grad():
        logits = model(**inputs).logits.double()
        if task == "classifier":
            rows, positions = torch.arange(4), torch.zeros(4, dtype=torch.long)
            expected, mask = logits.log_softmax(-1), inputs["attention_mask"]
        else:
            rows, positions = inputs["attention_mask"].nonzero().T
            expected, mask = logits[rows, positions].log_softmax(-1), None
        states = lens.states(inputs, rows, positions)
        answer = lens.log_probs(states.final, final=True, mask=mask)
        torch.testing.assert_close(answer, expected, atol=2e-5, rtol=0)
        assert lens.by_layer
        assert lens.width == expected.shape[1]
        assert len(states.layers) == 2  # the embeddings and layer 1; layer 2 is the output
        for state in states.layers:
            reading = lens.log_probs(state, final=False, mask=mask)
            assert reading.shape == expected.shape
            assert not torch.allclose(reading, expected, atol=1e-3)


def test_embeddings_by_hand():
    # GPT-2: the lens on layer 0 is ln_f and the tied head applied to token plus position embedding.
    model = tiny_model("gpt2", "causal")
    ids = torch.tensor([[7, 9, 11]])
    lens = Lens(model, "causal")
    with torch.no_grad():
        rows, positions = torch.zeros(3, dtype=torch.long), torch.arange(3)
        states = lens.states({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, rows, positions)
        embedded = model.transformer.wte(ids) + model.transformer.wpe(torch.arange(3))
        expected = (model.transformer.ln_f(embedded[0]) @ model.lm_head.weight.T).double().log_softmax(-1)
        torch.testing.assert_close(lens.log_probs(states.layers[0], final=False), expected, atol=1e-5, rtol=0)


def test_an_architecture_without_layers_to_read_gives_its_output_alone():
    model = tiny_model("t5", "classifier")
    batch = tiny_batch(model, "classifier")
    inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}
    lens = Lens(model, "classifier")
    assert not lens.by_layer
    with torch.no_grad():
        states = lens.states(inputs, torch.arange(4), torch.zeros(4, dtype=torch.long))
        expected = model(**inputs).logits.double().log_softmax(-1)
        torch.testing.assert_close(lens.log_probs(states.final, final=True), expected)
    assert states.layers == []


def test_divergences_by_hand():
    p, q = [0.5, 0.25, 0.25], [0.25, 0.5, 0.25]
    kl, js, rank = divergences(
        torch.tensor([p], dtype=torch.float64).log(), torch.tensor([q], dtype=torch.float64).log()
    )
    # KL = .5 ln 2 - .25 ln 2. The mean is [.375, .375, .25].
    assert kl.item() == pytest.approx(0.25 * np.log(2))
    assert js.item() == pytest.approx(0.5 * np.log(0.5 / 0.375) + 0.25 * np.log(0.25 / 0.375))
    assert rank.item() == 1  # p's first choice is second in q


numbers = st.lists(st.floats(-20, 20), min_size=4, max_size=4)


@given(numbers, numbers)
def test_divergences_equal_scipys_and_stay_in_range(a, b):
    log_p, log_q = (torch.tensor([x], dtype=torch.float64).log_softmax(-1) for x in (a, b))
    kl, js, rank = (v.item() for v in divergences(log_p, log_q))
    p, q = log_p.exp().numpy()[0], log_q.exp().numpy()[0]
    assert kl == pytest.approx(entropy(p, q), abs=1e-9, rel=1e-6)
    middle = (p + q) / 2
    assert js == pytest.approx((rel_entr(p, middle).sum() + rel_entr(q, middle).sum()) / 2, abs=1e-9)
    assert kl >= 0
    assert 0 <= js <= np.log(2) + 1e-12
    assert 0 <= rank <= 3


def test_equal_distributions_do_not_diverge():
    same = torch.randn(5, 40, dtype=torch.float64).log_softmax(-1)
    assert all(v.abs().max() == 0 for v in divergences(same, same.clone()))
