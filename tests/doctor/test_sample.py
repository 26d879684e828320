from pathlib import Path

import numpy as np

from plainunet.dataset.classes import find_coding
from plainunet.dataset.pairs import Pair, find_pairs
from plainunet.dataset.resize import measure_ceiling
from plainunet.doctor.alignment import edge_evidence
from plainunet.doctor.fit import Fit, draw_sample, measure_fits
from plainunet.formats.images import read_image


def test_a_sample_is_drawn_by_its_seed() -> None:
    pairs = [Pair(Path(f"{n}.png"), Path(f"{n}_m.png"), str(n), None) for n in range(1000)]
    chosen = draw_sample(pairs, seed=3)
    assert len(set(chosen)) == 64
    assert chosen == sorted(chosen) == draw_sample(pairs, seed=3)
    assert chosen != draw_sample(pairs, seed=4)
    assert draw_sample(pairs[:5]) == [0, 1, 2, 3, 4]
    assert len(draw_sample(pairs, area=1918 * 1280)) == 44
    assert len(draw_sample(pairs, area=1e9)) == 24


def test_evidence_comes_back_as_it_was(scenes: Path) -> None:
    pairs = find_pairs(scenes)
    coding, _ = find_coding([pair.mask for pair in pairs])
    for _ in range(2):  # measured, then remembered
        for pair, fit in zip(pairs, measure_fits(pairs, coding), strict=True):
            assert isinstance(fit, Fit)
            wanted = edge_evidence(read_image(pair.image), coding.read(pair.mask))
            for one, other in zip(fit.evidence, wanted, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-6)
            assert fit.appearance is not None
            assert fit.ceiling == measure_ceiling(coding.read(pair.mask), coding.num_classes)
