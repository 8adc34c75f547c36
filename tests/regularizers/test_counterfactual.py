"""Counterfactual: spreads by hand, alignment of terms of unequal length, drawing by step, and what it refuses."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from balora.data.identity import frames, load_lexicon, load_templates
from balora.errors import ConfigError, DataError, UsageError
from balora.regularizers.counterfactual import jensen_shannon, margin_variance
from tiny import tiny_model, tiny_tokenizer

LEXICON = """
forms: [group]
axes:
  clan:
    - {term: red, group: red}
    - {term: blue, group: the blue one}
    - {term: green, group: green people}
  trade:
    - {term: smith, group: smith}
    - {term: cook, group: cook}
"""
TEMPLATES = """
templates:
  - {text: "we saw {group} eat bread ."}
  - {text: "now comes {group}"}
  - {text: "never train on {group} .", split: heldout}
"""
WORDS = (
    "We saw red eat bread . the blue one green people smith cook we now comes never train on",
    "Red Green The Smith Cook",
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Options for a small closed vocabulary of one's own."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "lexicon.yaml").write_text(LEXICON, encoding="utf-8")
    (folder / "templates.yaml").write_text(TEMPLATES, encoding="utf-8")
    return {
        "lexicon": str(folder / "lexicon.yaml"),
        "templates": str(folder / "templates.yaml"),
        "shipped": False,
    }


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer(WORDS)


def sentences(term, tokenizer, step):
    batch = term.inputs(step)
    return [
        tokenizer.decode(ids[mask.bool()])
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]


# --- the spreads ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        # two classes: margins 1 and 3 (and -1, -3): variance ((1-2)^2 + (3-2)^2) / (2-1) = 2 for both classes
        ([[0.0, 1.0], [5.0, 8.0]], 2.0),
        # three classes: class 0: 0 and 3 -> 4.5; classes 1 and 2: 0 and 0 - (3 + 0)/2 -> 1.125; mean 2.25
        ([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0]], 2.25),
        # one output is its own margin: 1 and 4 -> 4.5
        ([[1.0], [4.0]], 4.5),
    ],
)
def test_margin_variance_by_hand(logits, expected):
    assert margin_variance(torch.tensor(logits)).item() == pytest.approx(expected)


def test_jensen_shannon_by_hand():
    # (3/4, 1/4) and (1/4, 3/4), average (1/2, 1/2): both KL are 0.75 log 1.5 - 0.25 log 2 = 0.1308120
    logits = torch.tensor([[[3.0, 1.0]], [[1.0, 3.0]]]).log()
    assert jensen_shannon(logits).item() == pytest.approx(0.1308120, abs=1e-6)
    # disjoint: each is log 2 from the average, the upper end for two terms
    assert jensen_shannon(torch.tensor([[[50.0, 0.0]], [[0.0, 50.0]]])).item() == pytest.approx(math.log(2))


@given(arrays(np.float64, (2, 3, 4), elements=st.floats(-10, 10)))
def test_jensen_shannon_parity_with_scipy_and_range(logits):
    ours = jensen_shannon(torch.from_numpy(logits)).item()
    p = softmax(logits, axis=-1)
    # The root of a rounding error below 0 is nan in scipy; the difference is 0 there.
    theirs = np.nan_to_num(jensenshannon(p[0], p[1], axis=-1)) ** 2
    assert ours == pytest.approx(theirs.mean(), abs=1e-7)
    assert -1e-12 <= ours <= math.log(2) + 1e-12


@given(arrays(np.float64, (4, 3), elements=st.floats(-50, 50)), st.floats(-9, 9))
def test_margins_know_no_common_shift(logits, shift):
    z = torch.from_numpy(logits)
    assert margin_variance(z + shift).item() == pytest.approx(margin_variance(z).item(), abs=1e-7)
    assert margin_variance(z[:1].expand(4, 3)).item() == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("width", [1, 2, 4])
def test_gradients(build, world, tokenizer, width):
    classifier = build("counterfactual", "nlu", width, tokenizer=tokenizer, **world)
    rows = len(classifier.inputs(3)["input_ids"])
    logits = torch.randn(rows, width, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: classifier.loss(z, 3), logits)
    language = build("counterfactual", "nlg", 5, tokenizer=tokenizer, **world)
    shape = language.inputs(3)["input_ids"].shape
    logits = torch.randn(*shape, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: language.loss(z, 3), logits)


# --- where the language model is compared ---------------------------------------------------------------------------


def language_model(build, tokenizer, world, text):
    """The one template that contains `text`, with its three clans, and the batch it gives."""
    term = build(
        "counterfactual", "nlg", 4, tokenizer=tokenizer, axes=["clan"], templates_per_step=1, **world
    )
    step = next(step for step in range(50) if text in sentences(term, tokenizer, step)[0])
    return term, step, term.inputs(step)


def test_only_positions_from_the_terms_last_token_count(build, world, tokenizer):
    term, step, batch = language_model(build, tokenizer, world, "eat bread")
    lengths = batch["attention_mask"].sum(1)
    assert sorted(lengths.tolist()) == [6, 7, 8]  # we saw X eat bread . with X of 1, 2 and 3 words
    logits = torch.zeros(*batch["input_ids"].shape, 4)
    for row, length in enumerate(lengths):
        # Compared: the term's last token and its three successors, the last four of the sentence.
        logits[row, : length - 4] = torch.randn(4)
        logits[row, length:] = torch.randn(4)  # padding
    assert term.loss(logits, step).item() == pytest.approx(0, abs=1e-7)
    for back in (1, 4):
        changed = logits.clone()
        changed[0, lengths[0] - back, 0] += 3
        assert term.loss(changed, step).item() > 0.01


def test_a_sentence_that_ends_with_the_term(build, world, tokenizer):
    term, step, batch = language_model(build, tokenizer, world, "now comes")
    lengths = batch["attention_mask"].sum(1)
    logits = torch.randn(*batch["input_ids"].shape, 4)
    ends = logits[torch.arange(3), lengths - 1]
    assert term.loss(logits, step).item() == pytest.approx(jensen_shannon(ends[:, None]).item())


def test_special_tokens_at_the_end_are_not_compared(build, world, tokenizer):
    wrapped = tiny_tokenizer(WORDS)
    wrapped.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    bare, step, _ = language_model(build, tokenizer, world, "eat bread")
    term, same_step, batch = language_model(build, wrapped, world, "eat bread")
    assert step == same_step
    logits = torch.randn(*batch["input_ids"].shape, 4)
    assert term.loss(logits, step).item() == pytest.approx(bare.loss(logits[:, 1:], step).item())


def test_padding_and_neighbors_do_not_change_the_loss(build, world, tokenizer):
    model = tiny_model("llama", "causal", vocab_size=len(tokenizer)).double()
    term = build("counterfactual", "nlg", len(tokenizer), tokenizer=tokenizer, **world)
    batch = term.inputs(0)
    assert (batch["attention_mask"] == 0).any()
    together = model(**batch).logits
    alone = torch.zeros_like(together)
    for row, (ids, mask) in enumerate(zip(batch["input_ids"], batch["attention_mask"], strict=True)):
        alone[row, : mask.sum()] = model(ids[mask.bool()][None]).logits[0]
    assert term.loss(together, 0).item() == pytest.approx(term.loss(alone, 0).item(), rel=1e-9)


# --- the probe batch ------------------------------------------------------------------------------------------------


def test_a_pure_function_of_seed_and_step(build, world, tokenizer):
    first = build("counterfactual", "nlu", 2, tokenizer=tokenizer, templates_per_step=1, **world)
    again = build("counterfactual", "nlu", 2, tokenizer=tokenizer, templates_per_step=1, **world)
    backwards = {step: again.inputs(step) for step in reversed(range(20))}
    drawn = set()
    for step in range(20):
        batch = first.inputs(step)
        assert all(torch.equal(batch[key], backwards[step][key]) for key in ("input_ids", "attention_mask"))
        drawn.add(tuple(sentences(first, tokenizer, step)))
    assert len(drawn) > 3


def test_train_templates_alone(build, world, tokenizer):
    term = build("counterfactual", "nlu", 2, tokenizer=tokenizer, **world)
    assert all(frame.template.split == "train" for frame in term.frames)
    seen = {text for step in range(30) for text in sentences(term, tokenizer, step)}
    assert not any("never train" in text for text in seen)
    # Both sentences with all five terms: nothing is left out either.
    assert len(seen) == 10


def test_sizes_and_axes(build, world, tokenizer):
    two = build(
        "counterfactual", "nlu", 2, tokenizer=tokenizer, templates_per_step=1, terms_per_template=2, **world
    )
    assert all(len(two.inputs(step)["input_ids"]) == 2 for step in range(5))
    trades = build("counterfactual", "nlu", 2, tokenizer=tokenizer, axes=["trade"], **world)
    assert {frame.axis for frame in trades.frames} == {"trade"}
    everything = build("counterfactual", "nlu", 2, tokenizer=tokenizer, compare="all", **world)
    assert [len(frame.terms) for frame in everything.frames] == [5, 5]


def test_padding_side_and_missing_pad_token(build, world):
    usual = build("counterfactual", "nlu", 2, tokenizer=tiny_tokenizer(WORDS), **world).inputs(0)
    left = tiny_tokenizer(WORDS)
    left.padding_side = "left"
    batch = build("counterfactual", "nlu", 2, tokenizer=left, **world).inputs(0)
    assert torch.equal(batch["input_ids"], usual["input_ids"])
    without = tiny_tokenizer(WORDS)
    without.pad_token = None
    batch = build("counterfactual", "nlu", 2, tokenizer=without, **world).inputs(0)
    padding = batch["attention_mask"] == 0
    assert (batch["input_ids"][padding] == without.eos_token_id).all()
    assert torch.equal(batch["input_ids"][~padding], usual["input_ids"][~padding])
    # Real tokens first, padding after them.
    assert (batch["attention_mask"].diff(dim=1) <= 0).all()


def test_the_shipped_files_with_a_real_tokenizer(build, minilm):
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    term = build("counterfactual", "nlu", 2, tokenizer=tokenizer)
    train = frames(load_templates(), load_lexicon(), split="train")
    assert len(term.frames) == len(train)
    assert {s.after for group in term.sentences for s in group} >= {0, 1, 5}
    for frame, group in zip(term.frames, term.sentences, strict=True):
        assert len({s.after for s in group}) == 1, (
            frame.template.text
        )  # the rest of the sentence is the same tokens
    assert len(term.inputs(0)["input_ids"]) == 4 * 8


def test_user_files_beside_the_shipped_ones(build, tmp_path, minilm):
    path = tmp_path / "mine.yaml"
    path.write_text("templates:\n  - 'my very own {adjective} sentence'\n", encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    texts = {
        f.template.text
        for f in build("counterfactual", "nlu", 2, tokenizer=tokenizer, templates=str(path)).frames
    }
    assert "my very own {adjective} sentence" in texts
    assert len(texts) > 30


@pytest.mark.parametrize(("arch", "task"), [("bert", "classifier"), ("llama", "causal")])
def test_training_on_it_narrows_the_spread(build, world, tokenizer, arch, task):
    model = tiny_model(arch, task, vocab_size=len(tokenizer))
    form, width = ("nlu", 3) if task == "classifier" else ("nlg", len(tokenizer))
    term = build("counterfactual", form, width, tokenizer=tokenizer, axes=["clan"], **world)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    spreads = []
    for step in range(15):
        loss = term.loss(model(**term.inputs(step)).logits, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        spreads.append(loss.item())
    assert spreads[-1] < spreads[0] / 3


# --- what it refuses ------------------------------------------------------------------------------------------------


def test_needs_a_fast_tokenizer(build, world):
    class Slow:
        is_fast = False

    for tokenizer in (None, Slow()):
        with pytest.raises(ConfigError, match="needs the model's tokenizer, and a fast one"):
            build("counterfactual", "nlu", 2, tokenizer=tokenizer, **world)


def test_words_that_the_model_does_not_know(build):
    with pytest.raises(ConfigError, match=r"are the same tokens in .* shipped: false"):
        build("counterfactual", "nlu", 2, tokenizer=tiny_tokenizer())


def test_max_length_that_cuts_the_term_off(world, tokenizer):
    from balora.regularizers import RegularizerContext, regularizers

    cls = regularizers.get("counterfactual")
    options = cls.Options.model_validate(world)
    # "we saw the blue one": the term ends with the fifth word; what follows it may be cut.
    fits = cls.create(options, RegularizerContext("nlu", 2, tokenizer, seed=0, max_length=5))
    assert fits.inputs(0)["input_ids"].shape[1] == 5
    with pytest.raises(ConfigError, match="max_length 4 cuts the identity term off"):
        cls.create(options, RegularizerContext("nlu", 2, tokenizer, seed=0, max_length=4))


def test_nothing_to_compare(build, world, tokenizer, tmp_path):
    with pytest.raises(UsageError, match="unknown identity axis 'clans'; did you mean 'clan'"):
        build("counterfactual", "nlu", 2, tokenizer=tokenizer, axes=["clans"], **world)
    path = tmp_path / "heldout.yaml"
    path.write_text("templates:\n  - {text: 'only {group}', split: heldout}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="no template marked 'split: train' has two terms"):
        build("counterfactual", "nlu", 2, tokenizer=tokenizer, **{**world, "templates": str(path)})
    with pytest.raises(DataError, match="no such file"):
        build(
            "counterfactual",
            "nlu",
            2,
            tokenizer=tokenizer,
            **{**world, "templates": str(tmp_path / "no.yaml")},
        )
