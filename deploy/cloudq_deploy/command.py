"""The commands of this package, as `cloudq` takes them in."""

from __future__ import annotations

import typer

from cloudq_deploy.cli import plans, stacks
from cloudq_deploy.cli.init import init

deploy = typer.Typer(
    no_args_is_help=True, help="Plan, build and apply what the app needs in a cloud."
)
deploy.command("plan")(plans.plan_command)
deploy.command("build")(plans.build_command)
deploy.command("apply")(stacks.apply_command)
deploy.command("status")(stacks.status_command)
deploy.command("logs")(stacks.logs_command)
deploy.command("invoke")(stacks.invoke_command)
deploy.command("rollback")(stacks.rollback_command)
deploy.command("destroy")(stacks.destroy_command)
deploy.command("export")(plans.export_command)
deploy.command("iam")(plans.iam_command)


def add_to(cli: typer.Typer) -> None:
    """Add `deploy` and `init` to the commands of `cloudq`."""
    cli.add_typer(deploy, name="deploy")
    cli.command()(init)
