"""`cloudq keys`: makes, lists and checks encryption keys, and leads through a change of them."""

from __future__ import annotations

import json as json_text
import re
from collections.abc import Collection
from dataclasses import asdict
from typing import Annotated

import typer

from cloudq.amounts import counted
from cloudq.cli.options import JsonOption, Target, common, refuse_missing
from cloudq.cli.output import emit, fields, note, say, say_block, table
from cloudq.errors import ConfigurationError
from cloudq.messages.signing import KEY_ID
from cloudq.operations import keys as operations
from cloudq.operations.keys import KeyUse
from cloudq.operations.queues import peek_cost
from cloudq.text import AsIs

cli = typer.Typer(no_args_is_help=True, help="Make, list, check and change encryption keys.")

Samples = Annotated[
    int, typer.Option(min=1, max=10_000, help="Messages of each queue, and results, to look at.")
]


@cli.command("new")
@common
def new(
    target: Target,
    id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="The key's id. Default: today's date.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Make a key, and show it once. It is stored nowhere."""
    known = _ids_of(target)
    name = operations.new_id(known) if id is None else _checked(id)
    if name in known:
        note(
            f"the app has a key {name} already: what that has encrypted would not open with "
            "another key of its id. Give the new one an id of its own"
        )
    key = operations.new_key()
    if json:
        emit({"id": name, "key": AsIs(key)})
        return
    setting = json_text.dumps({name: key})
    fields((("id", name), ("key", AsIs(key))))
    say("")
    say("It is not shown again: keep it where your other secrets are. To use it at once:")
    say_block(AsIs(f"  export CLOUDQ_ENCRYPTION_KEYS='{setting}'"))
    say("Where there are keys already, add it to them: `cloudq keys rotate ID` has the steps.")


@cli.command("list")
@common
def list_keys(target: Target, json: JsonOption = False) -> None:
    """Show the ids of the app's keys and what each is used for, never the keys."""
    with target.load() as app:
        rows = operations.keys(app)
        required = app.conf.encryption_required
    if json:
        emit([asdict(row) | {"role": row.role} for row in rows])
        return
    table(
        ["ID", "USE", "ROLE", "WHERE"],
        [[row.id, row.use, row.role, row.where] for row in rows],
        empty="no keys: `cloudq keys new` makes one",
    )
    if any(row.use == "encryption" for row in rows) and not required:
        note("encryption_required is off: what is not encrypted is run too")


@cli.command("check")
@common
def check(target: Target, samples: Samples = operations.SAMPLES, json: JsonOption = False) -> int:
    """Use each key, and open samples of the queues, the dead letters and the store.

    Exit code 1 where a key service does not answer, or a sample does not open.
    """
    with target.load() as app:
        refuse_missing(app.conf.broker)
        refuse_missing(app.conf.backend_url)
        cost = peek_cost(app)
        found = operations.check(app, samples=samples)
    if json:
        emit(asdict(found) | {"good": found.is_good})
        return 0 if found.is_good else 1
    table(
        ["ID", "ROLE", "QUEUED", "DEAD", "STORED", "STATE"],
        [
            [use.id, use.row and use.row.role, use.queued, use.dead, use.stored, _state(use)]
            for use in found.uses
        ],
        empty="no keys",
    )
    for use in found.uses:
        for why in use.unopened:
            say(f"{use.id}: {why}")
    if found.plain:
        verb = "is" if found.plain == 1 else "are"
        note(f"{counted(found.plain, 'message')} {verb} not encrypted")
    for each in found.skipped:
        note(f"not looked at: {each}")
    if cost:
        note(cost)
    return 0 if found.is_good else 1


@cli.command("rotate")
@common
def rotate(
    target: Target,
    to: Annotated[str, typer.Argument(metavar="ID", help="The id of the new key.")],
    samples: Samples = operations.SAMPLES,
    json: JsonOption = False,
) -> None:
    """Show the steps of a change to a new key, and which of them are done by this app's settings.

    It changes nothing: keys are where your settings are.
    """
    name = _checked(to)
    with target.load() as app:
        refuse_missing(app.conf.broker)
        refuse_missing(app.conf.backend_url)
        found = operations.rotation(app, name, samples=samples)
    if json:
        emit(asdict(found))
        return
    for number, step in enumerate(found.steps):
        mark = "done" if number < found.done else "next" if number == found.done else "then"
        say(f"{number + 1}. {mark}: {step}")
    for each in found.notes:
        note(each)


def _state(use: KeyUse) -> str:
    if use.row is None:
        return "not among encryption_keys"
    if use.problem is not None:
        return use.problem
    return f"{use.failed} do not open" if use.failed else "ok"


def _ids_of(target: Target) -> Collection[str]:
    """Return the ids of the app's keys; none where no app can be loaded, which a key may be for."""
    if target.path is None:
        return ()
    try:
        with target.load() as app:
            return app.conf.encryption_keys.keys() | app.conf.signing_keys.keys()
    except ConfigurationError:
        return ()


def _checked(id: str) -> str:
    if not re.fullmatch(KEY_ID, id):
        raise ConfigurationError(f"{id[:80]!r} is no id of a key: letters, digits, . _ - are")
    return id


def add_to(root: typer.Typer) -> None:
    """Add the command."""
    root.add_typer(cli, name="keys")
