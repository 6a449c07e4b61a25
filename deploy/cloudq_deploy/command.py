"""The commands of this package, as `cloudq` takes them in."""

from __future__ import annotations

import typer

from cloudq_deploy.cli import plans, stacks
from cloudq_deploy.cli.init import init

deploy = typer.Typer(
    no_args_is_help=True, help="Plan, build and apply what the app needs in a cloud."
)
deploy.command("plan")(plans.PLAN)
deploy.command("build")(plans.BUILD)
deploy.command("apply")(stacks.APPLY)
deploy.command("status")(stacks.STATUS)
deploy.command("logs")(stacks.LOGS)
deploy.command("invoke")(stacks.INVOKE)
deploy.command("rollback")(stacks.ROLLBACK)
deploy.command("destroy")(stacks.DESTROY)
deploy.command("export")(plans.EXPORT)
deploy.command("iam")(plans.IAM)


def add_to(cli: typer.Typer) -> None:
    """Add `deploy` and `init` to the commands of `cloudq`."""
    cli.add_typer(deploy, name="deploy")
    cli.command()(init)
