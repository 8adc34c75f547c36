"""Peak memory: what was used in between is seen, whatever way it is read."""

import pytest
import torch

from balora.train import memory

MEGABYTES = 200


def use_and_release() -> None:
    block = torch.ones(MEGABYTES * 2**20, dtype=torch.uint8)
    assert int(block[-1]) == 1


@pytest.mark.parametrize("resettable", [True, False])
def test_the_peak_is_seen_after_it_is_over(monkeypatch: pytest.MonkeyPatch, resettable: bool) -> None:
    if not resettable:
        monkeypatch.setattr(memory, "_reset_high_water", lambda: False)
        monkeypatch.setattr(memory, "_SAMPLE_SECONDS", 0.001)
    use_and_release()  # before the measurement: must not count
    peak = memory.PeakMemory()
    before = peak.bytes()
    blocks = [torch.ones(MEGABYTES * 2**19, dtype=torch.uint8) for _ in range(2)]
    during = peak.bytes()
    del blocks
    peak.stop()
    if not torch.cuda.is_available():
        assert during - before == pytest.approx(MEGABYTES * 2**20, rel=0.15)
        assert peak.bytes() == pytest.approx(during, rel=0.05)


def test_where_the_kernel_does_not_tell_the_peak_is_sampled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setattr(memory, "_CLEAR_REFS", memory.Path("/nonexistent/clear_refs"))
    assert not memory._reset_high_water()
    peak = memory.PeakMemory()
    assert peak.bytes() > 0
    peak.stop()
