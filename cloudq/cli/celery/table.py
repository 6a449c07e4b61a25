"""The table of the commands and options of Celery's command line, and the rule for each.

The names are those of `celery --help`, release 5.7; docs/how-to/celery-command-line.md shows the
table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cloudq.cli.celery import values
from cloudq.cli.celery.rules import (
    Command,
    Rule,
    also_in,
    flag,
    ignored,
    option,
    refused,
    setting,
    step,
)

_NO_EXCHANGE = "there are no exchanges on the clouds' queues: a call goes to a queue, see --queue"
_NO_BROADCAST = "nothing is broadcast between workers"
_BEAT_STORE = "beats keep their state in the result store, not in a file"
_SCHEDULER = (
    "schedules that change at run time are in the result store: `cloudq schedules` changes them"
)
_STANDARD = ("celery.beat:PersistentScheduler", "celery.beat.PersistentScheduler")
_LOGS = "its lines are of another form: `cloudq tasks` lists what failed, and shows tracebacks"
_NO_AMQP = "there is no AMQP: `cloudq queues` lists, makes, looks into and empties queues"
_TERMINAL = "events are shown at a terminal"
_CAMERA = "there are no snapshots: `cloudq events --json` and `cloudq tasks` give the same to read"

COMMANDS: Sequence[Command] = (
    Command(name="worker", to=("worker",)),
    Command(name="beat", to=("beat",)),
    Command(name="multi", own=True, most=None),
    Command(name="purge", own=True),
    Command(name="report", own=True),
    Command(name="shell", own=True),
    Command(name="call", to=("call", "--force"), most=1),
    Command(name="result", own=True, most=1),
    Command(name="status", to=("status",)),
    Command(name="inspect", to=("inspect",), most=None),
    Command(name="control", to=("control",), most=None),
    Command(name="events", to=("top",)),
    Command(name="migrate", to=("migrate", "--yes"), most=2),
    Command(name="list bindings", to=("queues", "list")),
    Command(
        name="graph bootsteps",
        most=None,
        why="a worker has no boot steps; docs/architecture.md has its parts",
    ),
    Command(name="graph workers", most=None, why="`cloudq status` shows the workers"),
    *(
        Command(name=f"logtool {name}", most=None, why=_LOGS)
        for name in ("debug", "errors", "incomplete", "stats", "traces")
    ),
    *(
        Command(name=f"amqp {name}", most=None, why=_NO_AMQP)
        for name in (
            *("basic.ack", "basic.get", "basic.publish", "exchange.declare", "exchange.delete"),
            *("queue.bind", "queue.declare", "queue.delete", "queue.purge", "repl"),
        )
    ),
    Command(
        name="upgrade settings",
        most=None,
        why="settings are read by their old and by their new names: there is nothing to rewrite",
    ),
)
"""Every command, the groups' among them by both their words."""

EVERYWHERE: Sequence[Rule] = (
    also_in(option("-A --app", "--app"), "APP CELERY_APP"),
    also_in(option("-b --broker", "--broker"), "BROKER_URL CELERY_BROKER"),
    also_in(option("--result-backend", "--backend"), "RESULT_BACKEND CELERY_RESULT_BACKEND"),
    also_in(
        refused(
            "--loader",
            "an app loads its own modules: include=[...], or app.autodiscover_tasks()",
            takes=True,
            fine=("default", "app"),
        ),
        "LOADER CELERY_LOADER",
    ),
    also_in(
        refused(
            "--config",
            "an app names its settings itself: app.config_from_object(...), or "
            "app.config_from_envvar(...) with a variable",
            takes=True,
        ),
        "CONFIG_MODULE CELERY_CONFIG",
    ),
    also_in(step("--workdir", "workdir"), "CELERY_WORKDIR"),
    also_in(step("-C --no-color", "no_color", takes=False), "CELERY_NO_COLOR"),
    ignored("-q --quiet", "there is no banner to leave out", takes=False, fine=("",)),
    step("--version", "version", takes=False),
    also_in(
        ignored(
            "--skip-checks",
            "the command line runs no checks of Django's",
            takes=False,
            fine=("",),
        ),
        "SKIP_CHECKS CELERY_SKIP_CHECKS",
    ),
)
"""The options before the command; they are taken behind it too, as older releases did."""

_PROCESS: Sequence[Rule] = (
    step("--uid", "uid"),
    step("--gid", "gid"),
    step("--umask", "umask"),
    refused(
        "--executable",
        "a worker's processes have its own Python: start cloudq with the one that is meant",
        takes=True,
    ),
)
_DAEMON: Sequence[Rule] = (
    option("-l --loglevel", "--log-level", read=values.level),
    step("--logfile -f", "logfile"),
    step("--pidfile", "pidfile"),
    *_PROCESS,
)
_REMOTE: Sequence[Rule] = (
    option("-t --timeout", "--timeout", read=values.wait),
    option("-d --destination", "--destination"),
    flag("-j --json", "--json"),
    step("--list", "list", takes=False),
)
_FILE = "revocations and schedules lie in the result store, not in a file"

OPTIONS: Mapping[str, Sequence[Rule]] = {
    "worker": (
        option("-n --hostname", "--hostname", read=values.node),
        step("-D --detach", "detach", takes=False),
        ignored("-S --statedb", _FILE, takes=True),
        ignored(
            "-O --optimization",
            "a process here never holds tasks that another could run",
            takes=True,
            fine=("fair", "default"),
        ),
        ignored(
            "--prefetch-multiplier",
            "a worker takes what its free places can run, and of short tasks what it does in the "
            "setting worker_prefetch_seconds",
            takes=True,
            fine=("1",),
        ),
        ignored("--disable-prefetch", "nothing is fetched ahead", takes=False, fine=("",)),
        option("-c --concurrency", "--processes", fine=("auto",)),
        option("-P --pool", "--pool", read=values.pool),
        setting("-E --task-events --events", "task_events", read=values.yes, takes=False),
        setting("--time-limit", "task_time_limit", read=values.seconds),
        setting("--soft-time-limit", "task_soft_time_limit", read=values.seconds),
        option("--max-tasks-per-child", "--max-tasks-per-child"),
        setting("--pool-start-method", "worker_fork", read=values.is_fork),
        option("--max-memory-per-child", "--max-memory-per-child"),
        step("--purge --discard", "purge", takes=False),
        option("--queues -Q", "--queues"),
        option("--exclude-queues -X", "--exclude-queues"),
        setting("--include -I", "include", read=values.names),
        ignored("--without-gossip", _NO_BROADCAST, takes=False, fine=("",)),
        ignored("--without-mingle", _NO_BROADCAST, takes=False, fine=("",)),
        ignored(
            "--without-heartbeat",
            "a worker is seen and steered by its heartbeats: the setting worker_heartbeat=0 does "
            "without both",
            takes=False,
        ),
        setting("--heartbeat-interval", "worker_heartbeat", read=values.seconds),
        option("--autoscale", "--autoscale", read=values.scale),
        flag("-B --beat", "--beat"),
        ignored("-s --schedule-filename --schedule", _BEAT_STORE, takes=True),
        refused("--scheduler", _SCHEDULER, takes=True, fine=_STANDARD),
        *_DAEMON,
    ),
    "beat": (
        step("--detach", "detach", takes=False),
        ignored("-s --schedule", _BEAT_STORE, takes=True),
        refused("-S --scheduler", _SCHEDULER, takes=True, fine=_STANDARD),
        ignored("--max-interval", "a beat wakes when a schedule is due", takes=True),
        ignored(
            "--enable-remote-control",
            "a beat answers no commands: `cloudq schedules` shows what was sent and when",
            takes=False,
        ),
        ignored("--no-enable-remote-control", "a beat answers none", takes=False, fine=("",)),
        option("-n --hostname", "--hostname", read=values.node),
        *_DAEMON,
    ),
    "multi": (),
    "purge": (
        step("-f --force", "force", takes=False),
        step("-Q --queues", "queues"),
        step("-X --exclude-queues", "exclude_queues"),
    ),
    "report": (),
    "shell": (
        step("-I --ipython", "ipython", takes=False),
        step("-B --bpython", "bpython", takes=False),
        step("--python", "python", takes=False),
        step("-T --without-tasks", "without_tasks", takes=False),
        refused("--eventlet", "eventlet is not maintained any more: use threads", takes=False),
        refused("--gevent", "a shell runs no tasks at a time: leave it out", takes=False),
    ),
    "call": (
        option("-a --args", "--args"),
        option("-k --kwargs", "--kwargs"),
        option("--eta", "--eta"),
        option("--countdown", "--countdown"),
        option("--expires", "--expires"),
        refused(
            "--serializer",
            "a call is written as its task or its app says: task_serializer",
            takes=True,
            fine=("json",),
        ),
        option("--queue", "--queue"),
        refused("--exchange", _NO_EXCHANGE, takes=True, fine=("",)),
        refused("--routing-key", _NO_EXCHANGE, takes=True, fine=("",)),
    ),
    "result": (
        ignored("-t --task", "results lie in the app's one store", takes=True),
        step("--traceback", "traceback", takes=False),
    ),
    "status": (
        ignored("-t --timeout", "the store is read, and nobody asked", takes=True),
        ignored("-d --destination", "all workers of the store are shown", takes=True),
        flag("-j --json", "--json"),
    ),
    "inspect": _REMOTE,
    "control": _REMOTE,
    "events": (
        step("-d --dump", "dump", takes=False),
        refused("-c --camera", _CAMERA, takes=True),
        refused("--detach", _CAMERA, takes=False),
        ignored("-F --frequency --freq", _CAMERA, takes=True),
        ignored("-r --maxrate", _CAMERA, takes=True),
        ignored("-l --loglevel", _TERMINAL, takes=True),
        ignored("--logfile -f", _TERMINAL, takes=True),
        ignored("--pidfile", _TERMINAL, takes=True),
        *_PROCESS,
    ),
    "migrate": (
        option("-n --limit", "--limit"),
        ignored("-t --timeout", "it ends when nothing is left to move", takes=True),
        ignored("-a --ack-messages", "what was moved is gone", takes=False, fine=("",)),
        refused("-T --tasks", "whole queues are moved: name them with -Q", takes=True),
        option("-Q --queues", "--queue", read=values.names),
        refused("-F --forever", "it moves what waits: run it again for what came", takes=False),
    ),
    "list bindings": (),
}
"""The options of each command that is not refused as a whole."""
