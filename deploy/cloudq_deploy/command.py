"""Adds the commands `deploy` and `init` to the program `cloudq`."""

from __future__ import annotations

import typer

from cloudq_deploy.aws import commands as aws
from cloudq_deploy.cli import apply, plan
from cloudq_deploy.cli.init import init

deploy = typer.Typer(
    no_args_is_help=True, help="Plan, build and apply the cloud resources that the app needs."
)
deploy.command("plan")(plan.plan_command)
deploy.command("build")(plan.build_command)
deploy.command("apply")(apply.apply_command)
deploy.command("status")(aws.status_command)
deploy.command("logs")(aws.logs_command)
deploy.command("invoke")(aws.invoke_command)
deploy.command("rollback")(aws.rollback_command)
deploy.command("destroy")(apply.destroy_command)
deploy.command("export")(plan.export_command)
deploy.command("iam")(aws.iam_command)


def add_to(cli: typer.Typer) -> None:
    """Add `deploy` and `init` to the commands of `cloudq`."""
    cli.add_typer(deploy, name="deploy")
    cli.command()(init)
