"""tests/cluster and tests/local run every command of the pages, or there is a reason why not."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.support import pages
from tests.support.cluster.chart import CHART

PAGES = ("install.md", "development.md", "quickstart-kind.md", "tutorial.md", "experiments.md")


def test_every_section_with_commands_is_walked_or_skipped_for_a_reason() -> None:
    there = {section for page in PAGES for section in pages.sections(page)}
    assert there == pages.WALKED | set(pages.SKIPPED)
    assert not pages.WALKED & set(pages.SKIPPED)


def test_every_walked_section_is_named_by_a_test() -> None:
    folders = [Path(__file__).parents[1] / name for name in ("cluster", "local")]
    tests = "".join(path.read_text() for folder in folders for path in folder.glob("*.py"))
    assert [section for _, section in pages.WALKED if f'"{section}"' not in tests] == []


def test_commands_continue_over_lines_and_keep_their_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "DOCS", tmp_path)
    (tmp_path / "page.md").write_text(
        "# Page\n```console\n$ one \\\n    --flag\n$ two   # why\nit prints\n```\n"
        "```yaml\n# no heading\n```\n## Next\n```sh\n$ three\n```\n"
    )
    assert pages.sections("page.md") == {("page.md", "Page"), ("page.md", "Next")}
    assert pages.blocks("page.md", "Page") == [
        [pages.Command("one \\\n    --flag", ()), pages.Command("two   # why", ("it prints",))]
    ]
    with pytest.raises(AssertionError, match="no commands in a section 'Other'"):
        pages.blocks("page.md", "Other")


def test_the_node_gets_the_images_that_the_chart_asks_for() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    minio = values["minio"]["image"]
    (commands,) = pages.blocks("development.md", "Images on that node")
    operator, train, program = (command.text for command in commands)
    assert f"--tag {values['image']['repository']}:{version} " in operator
    assert f"--tag {values['stages']['image']['repository']}:{version} " in train
    assert "--build-arg WITH_SAMPLE=1" in train, "the quickstart's model is in the image"
    assert program.endswith(f"load-program minio {minio['repository']}:{minio['tag']}")
