"""The pages that deploy something, word for word, on a local AWS."""

from __future__ import annotations

from pathlib import Path

import pytest

from localstack.servers import Endpoint
from tests.deploy.test_loop import leftovers
from tests.docs.blocks import Shell, blocks, section

DOCS = Path(__file__).resolve().parents[2] / "docs"
SAID = "http://127.0.0.1:4566"

pytestmark = pytest.mark.drill


def test_page_deploys(tmp_path: Path, own_aws: Endpoint) -> None:
    page = DOCS / "how-to" / "deploy-to-aws.md"
    with Shell(tmp_path) as shell:
        shell.read(section(page, "Deploy a project"), {SAID: own_aws.url})
    assert (tmp_path / "shop" / "build" / "shop.zip").is_file()
    assert leftovers(own_aws) == {}


def test_tutorial_from_a_laptop_to_a_lambda(tmp_path: Path, own_aws: Endpoint) -> None:
    page = DOCS / "tutorial" / "laptop-to-lambda.md"
    with Shell(tmp_path) as shell:
        shell.read(blocks(page), {SAID: own_aws.url}, add=True)
    assert (tmp_path / "shop" / "build" / "shop.zip").is_file()
    assert leftovers(own_aws) == {}


@pytest.mark.parametrize("cloud", ["google-cloud", "azure"])
def test_plans_for_other_clouds_are_made_as_their_pages_say(cloud: str, tmp_path: Path) -> None:
    page = DOCS / "how-to" / f"deploy-to-{cloud}.md"
    with Shell(tmp_path) as shell:
        shell.read(block for block in blocks(page) if block.language == "console")
    assert (tmp_path / "shop" / "main.tf.json").stat().st_size > 10_000
