"""The README's quick start of a deployment, word for word, on a local AWS."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from localstack.servers import Endpoint
from tests.deploy.test_loop import leftovers
from tests.docs.blocks import Shell, commands, section

README = Path(__file__).resolve().parents[2] / "README.md"
SAID = "http://127.0.0.1:4566"


@pytest.mark.drill
def test_readme_deploys(tmp_path: Path, own_aws: Endpoint) -> None:
    aws = own_aws
    with Shell(tmp_path) as shell:
        for block in section(README, "Deploy with one command"):
            for command in commands(replace(block, text=block.text.replace(SAID, aws.url))):
                if command.line.startswith("cd "):
                    shell.folder /= command.line.removeprefix("cd ")
                elif not command.line.startswith("pip install"):
                    shell.run(command)
    assert (tmp_path / "shop" / "build" / "shop.zip").is_file()
    assert leftovers(aws) == {}
