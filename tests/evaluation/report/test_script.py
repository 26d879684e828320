import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plainunet.evaluation.report.page import write_report
from plainunet.evaluation.report.script import SCRIPT


@pytest.mark.parametrize("word", ["innerHTML", "outerHTML", "eval", "fetch", "http", "</"])
def test_text_stays_text(word: str) -> None:
    assert word not in SCRIPT


def test_all_that_it_looks_for_is_in_the_page(
    tmp_path: Path, result_of: Callable[..., dict[str, Any]]
) -> None:
    write_report(tmp_path / "page.html", result_of(3), [])
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    wanted = re.findall(r"getElementById\('(.*?)'\)", SCRIPT)
    assert len(wanted) >= 8
    for name in wanted:
        assert page.count(f'id="{name}"') == 1, name
