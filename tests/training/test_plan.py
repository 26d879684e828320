import subprocess
import sys

import pytest

from plainunet.training.plan import advise, choose_size


def test_a_finer_size_is_advised_where_masks_need_it() -> None:
    sizes = [(960, 999)] * 16
    advice = advise(sizes, 2000, {128: 0.81, 256: 0.927, 512: 0.983}, 20, 8)
    assert [(each.flag, each.value) for each in advice] == [("--size", "496 528")]
    assert "0.927" in advice[0].reason
    assert "0.983" in advice[0].reason
    assert advise(sizes, 2000, {128: 0.97, 256: 0.99, 512: 0.995}, 20, 8) == []
    # there is nothing finer in small pictures
    assert advise([(200, 250)], 2000, {128: 0.9, 256: 0.92, 512: 0.98}, 20, 8) == []


@pytest.mark.parametrize(("trained", "epochs"), [(16, 300), (80, 100), (240, 34), (400, None)])
def test_few_pictures_want_more_epochs(trained: int, epochs: int | None) -> None:
    advice = advise([(64, 64)], trained, {}, 20, 8)
    assert [each.value for each in advice] == ([] if epochs is None else [str(epochs)])


def test_sizes_of_other_areas() -> None:
    assert choose_size([(1280, 1918)], 512) == (416, 624)
    assert choose_size([(100, 100)], 512) == (96, 96)


def test_pytorch_is_not_loaded() -> None:
    code = (
        "import sys, plainunet.training.plan, plainunet.training.tables, "
        "plainunet.training.progress, plainunet.data.doctor.page, plainunet.data.doctor.treat\n"
        "print([name for name in ('torch', 'scipy', 'albumentations') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
