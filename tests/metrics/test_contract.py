"""What every metric family owes, whichever it is: found by registration, never listed here."""

import pytest

from balora.metrics import metrics

FAMILIES = list(metrics)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_every_metric_says_what_it_is(family):
    assert family.__doc__
    assert len({m.name for m in family.metrics}) == len(family.metrics) > 0
    for m in family.metrics:
        assert family.info(m.name) is m
        for text in (m.definition, m.undefined_when, m.interval, m.source):
            assert len(text.split()) >= 2 or text[0].isupper(), (m.name, text)
        assert m.low < m.high
        if m.ideal is not None:
            assert m.low <= m.ideal <= m.high


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_every_option_is_described_and_has_a_default_that_works(family):
    for name, field in family.Options.model_fields.items():
        assert field.description, name
    family(family.Options())


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_no_data_is_undefined_and_never_zero(family):
    found = family(family.Options()).measure(family.sample_type.frame([]), seed=0)
    assert found
    known = {m.name: m for m in family.metrics}
    for m in found:
        assert m.metric in known
        assert (m.value, m.low, m.high) == (None, None, None), m.key
        assert m.undefined_reason
        assert m.n == 0
        assert m.ideal == known[m.metric].ideal


def test_a_metric_name_means_one_thing():
    # Reports and gates address '<benchmark id>/<metric>'; families of one sample type may stand in one benchmark.
    for family in FAMILIES:
        for other in FAMILIES:
            if family is not other and family.sample_type is other.sample_type:
                assert not {m.name for m in family.metrics} & {m.name for m in other.metrics}
