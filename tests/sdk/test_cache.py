"""Preprocessing that is done once."""

from pathlib import Path

import pytest

from nsml.sdk.cache import cache


@pytest.mark.parametrize("several", [True, False])
def test_the_function_runs_once_and_gets_its_keywords(several, tmp_path):
    runs = []

    def prepare(output_path, size):
        runs.append((output_path, size))
        for path in output_path if several else [output_path]:
            Path(path).write_text("done")

    target = str(tmp_path / "processed")
    for _ in range(2):
        cache(prepare, output_path=[target] if several else target, size=3)
    assert runs == [([target] if several else target, 3)]


def test_an_empty_folder_is_not_done(tmp_path):
    (tmp_path / "processed").mkdir()
    runs = []
    cache(lambda output_path: runs.append(output_path), [str(tmp_path / "processed")])
    assert len(runs) == 1
