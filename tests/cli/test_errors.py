"""Whatever is wrong is one line on standard error that says what to do, and exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest

CALL = ("call", "-A", "shop")


def is_one_line(text: str) -> bool:
    return text.startswith("error: ") and text.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("queues", "list", "-b", "sqss://"), "did you mean sqs?"),
        (("queues", "list", "-b", "amqp://x"), 'no broker for "amqp://"'),
        (("queues", "list", "-b", "nowhere"), "is not a URL such as"),
        (("queues", "list", "-b", "sqs://nowhere"), "is not an AWS region such as eu-west-1"),
        (("queues", "list", "-b", "sqlite:///missing/x.db"), "create it first"),
        (("queues", "list", "-b", "sqlite:///."), "is a directory: name a file, such as"),
        (("result", "x", "-b", "memory://", "--backend", "none"), "set CloudQ(backend=...)"),
        (("deploy", "iam", "--role", "workr"), "Invalid value for '--role': 'workr' is not one of"),
        (
            ("schedules", "add", "-A", "shop", "r", "shop.add", "--every", "5", "--args", "1, 2"),
            "not JSON such as [1, 2]:",
        ),
        (("call", "shop.add"), "no app given: use -A MODULE:NAME"),
        (("call", "-A", "shop.py", "shop.add"), "give its module, such as -A shop"),
        (("call", "-A", "absent", "shop.add"), "is the current directory the project's?"),
        (("call", "-A", "shpo", "shop.add"), ": did you mean shop?"),
        (("call", "-A", "shop:nope", "shop.add"), "no app 'nope' in shop: it has app"),
        (("worker", "-A", "shop", "-Q", "a:much"), "the weight 'much' is not a number"),
        (("worker", "-A", "shop", "-Q", "a:0"), "it must be 1 or more"),
        ((*CALL, "shop.ad", "1"), "did you mean shop.add"),
        ((*CALL, "add", "1", "2"), "did you mean shop.add"),
        ((*CALL, "shop.add", "1"), "missing a required argument: 'b'"),
        ((*CALL, "shop.add", "--args", "[1"), "--args is not JSON"),
        ((*CALL, "shop.add", "--args", "1"), "must be a JSON list"),
        ((*CALL, "shop.add", "--kwargs", "[]"), "must be a JSON object"),
        ((*CALL, "shop.add", "1", "2", "--eta", "soon"), "give a time such as"),
        ((*CALL, "shop.add", "1", "2", "--countdown", "-3"), "a number of seconds from 0 on"),
        (
            (*CALL, "shop.add", "1", "2", "--countdown", "nan"),
            "--countdown is nan: give a number of seconds",
        ),
        ((*CALL, "shop.add", "1", "2", "--expires", "inf"), "a century at most"),
        ((*CALL, "shop.add", "1", "2", "--wait", "nan"), "--wait is nan"),
        (("result", "x", "-A", "shop", "--wait", "nan"), "--wait is nan"),
        ((*CALL, "shop.add", "1", "2", "--wait", "5x"), "'5x' is not a time: give seconds, or a"),
        (("result", "x", "-A", "shop", "--wait", "5x"), "such as 90s, 10m or 2h"),
        ((*CALL, "shop.add", "1", "2", "--countdown", "5 min"), "'5 min' is not a time"),
        (("worker", "-A", "shop", "--threads", "four"), "'four' is not a whole number (see"),
        (("worker", "-A", "shop", "-c", "0"), "'0' is out of range: give 1 or more"),
        (("worker", "-A", "shop", "--metrics-port", "x" * 99), "x...' is not a whole number"),
        (("worker", "-A", "shop", "--metrics-port", "70000"), "give from 0 to 65535"),
        (("cost", "--reads", "some"), "'some' is not a number"),
        ((*CALL, "shop.add", "two", "3"), "shop.add: a is 'two', and its type is int"),
        ((*CALL, "shop.add", "a=2", "b=x"), "shop.add: b is 'x', and its type is int"),
        ((*CALL, "shop.zzz"), "has no task 'shop.zzz': it has shop.add, shop.fail, shop.send (--"),
        (("worker", "-A", "shop", "--lease", "nan"), "'--lease'"),
        (
            ("worker", "-A", "shop", "--grace", "inf"),
            "--grace is inf: give seconds, a century at most",
        ),
        (("worker", "-A", "shop", "-c", "100000000"), "processes is 100000000"),
        (("beat", "-A", "shop", "--lease", "nan"), "'--lease'"),
        (("inspect", "-A", "shop", "ping", "--timeout", "nan"), "'--timeout'"),
        (("control", "-A", "shop", "pool_grow", "-t", "inf"), "--timeout is inf"),
        (("control", "-A", "shop", "pool_grow", "two"), "'two' is not a whole number of 1 or"),
        (("control", "-A", "shop", "pool_grow", "9" * 5000), "is not a whole number of 1 or"),
        (("control", "-A", "shop", "time_limit", "shop.add", "inf"), "is not a number of seconds"),
        (("queues", "create", "q", "--lease", "nan"), "'--lease'"),
        (("queues", "peek", "q", "-n", "99999999999999999999"), "--count is 99999999999999999999"),
        (("multi", "stop", "w1", "--timeout", "nan"), "multi: --timeout is nan"),
        (("quues",), "Did you mean 'queues'?"),
        (("queues", "list", "--nope"), "No such option: --nope"),
        (("tasks", "-A", "shop"), "No such option: -A; options follow the command: tasks list -A"),
        (("dead", "-b", "memory://"), "options follow the command: dead list -b"),
        (("queues", "--backend", "x"), "options follow the command: queues list --backend"),
        (("queues", "--nope", "list"), "No such option: --nope (see cloudq queues --help)"),
        (("queues", "peek"), "Missing argument 'QUEUE'"),
        (("queues", "create"), "name the queues to create"),
        (("queues", "purge", "default"), "There is no terminal to confirm at: add --yes"),
        (("dead", "redrive", "default"), "give their ids, an option such as --task GLOB, or --all"),
        (("dead", "show", "default", "x"), "no dead letter x"),
        (("demo", "missing"), "missing does not exist"),
        (("demo", ".", "-b", "sqlite:///a.db", "--backend", "none"), "add --backend URL"),
        (("demo", ".", "-b", "memory://"), "memory:// exists only within one process"),
        (
            ("call", "-A", "shop", "shop.add", "1", "2", "-b", "memory://"),
            "use a file, such as -b sqlite",
        ),
        (("worker", "-A", "shop", "--backend", "memory://"), "exists only within one process"),
    ],
)
def test_a_bad_input_is_one_line_that_says_what_to_do(command, project, args, says):
    (project / "cloudq.db").touch()  # else it is told that there is none
    ran = command(*args)
    assert (ran.code, ran.out) == (2, "")
    assert is_one_line(ran.err)
    assert says in ran.err


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ((*CALL, "shop.add", "1", "2", "--wait", "0.1"), "is a worker running on its queue?"),
        (("result", "x", "-A", "shop", "--backend", "sqlite:///own.db", "--wait", "0.1"), "ended"),
        (("queues", "list", "-b", "sqs://us-east-1"), "sqs"),
    ],
)
def test_what_fails_without_wrong_words_ends_with_1(command, project, args, says):
    (project / "own.db").touch()
    unreachable = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
    }
    ran = command(*args, env=unreachable)
    assert (ran.code, is_one_line(ran.err)) == (1, True)
    assert says in ran.err


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("x = 1\ny = nope\n", "NameError: name 'nope' is not defined (broken.py, line 2)"),
        ("import nothere\n", "No module named 'nothere' (broken.py, line 1)"),
        ("def x(:\n", "SyntaxError: invalid syntax (broken.py, line 1)"),
        ("from shop import app\nfrom cloudq import CloudQ\nb = CloudQ()", "broken:app, broken:b"),
        ("x = 1\n", "broken has no CloudQ app in it: name the module"),
        ("from cloudq import CloudQ\napp = CloudQ(brokr='x')", "no setting 'brokr'"),
        ("from cloudq import CloudQ\napp = CloudQ(include=['gone'])", "No module named 'gone'\n"),
        ("from cloudq import CloudQ\napp = CloudQ(include=['bad'])", "(bad.py, line 1)"),
        ("from cloudq import crontab\ncrontab(minute=61)", "0 to 59 (broken.py, line 2)"),
        ("import sys\nsys.exit()", "it ends the program (SystemExit: None)"),
        ("import sys\nsys.exit('x\\ny')", "(broken.py, line 2)"),
        ("class Odd(BaseException): ...\nraise Odd(1)", "Odd: 1 (broken.py, line 2)"),
        ("from cloudq import CloudQ\napp = CloudQ(include=['ends'])", "(ends.py, line 1)"),
        ("from cloudq import CloudQ\napp = CloudQ()", "app 'cloudq' has no tasks"),
    ],
)
def test_an_app_that_cannot_be_loaded_says_where_and_why(command, project, source, says):
    (project / "broken.py").write_text(source)
    (project / "bad.py").write_text("1 / 0\n")
    (project / "ends.py").write_text("raise SystemExit(0)\n")
    ran = command("call", "-A", "broken", "task")
    assert (ran.code, is_one_line(ran.err)) == (2, True)
    assert says in ran.err


def test_a_file_that_cannot_be_written_is_named(command, project):
    (project / "w1.log").mkdir()
    ran = command("multi", "start", "w1", "-A", "shop")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.endswith("w1.log: Is a directory\n")
    (project / "astray.db").symlink_to(project / "missing" / "x.db")
    ran = command("queues", "list", "-b", "sqlite:///astray.db")
    assert (ran.code, is_one_line(ran.err)) == (2, True)
    assert "may this user write to it" in ran.err


def test_debug_shows_the_traceback_of_the_cause(command, project):
    (project / "broken.py").write_text("y = nope\n")
    ran = command("call", "-A", "broken", "task", "--debug")
    assert ran.code == 2
    assert 'broken.py", line 1' in ran.err
    assert ran.err.splitlines()[-1].startswith("error: importing broken failed")


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"CLOUDQ_LEASE": "abc"}, "setting 'lease' from CLOUDQ_LEASE: it must be a number"),
        ({"CLOUDQ_INCLUDE": "[1]"}, "CLOUDQ_INCLUDE"),
        ({"CLOUDQ_WORKER_POOL": "thread"}, "it must be one of processes|threads|asyncio|solo|gev"),
        ({"CLOUDQ_LEASE": "1", "CLOUDQ_CONFIG": "none.toml"}, "none.toml"),
    ],
)
def test_a_setting_from_outside_is_not_told_as_an_error_of_the_program(command, project, env, says):
    (project / "right.py").write_text("from cloudq import CloudQ\n\napp = CloudQ('x')\n")
    ran = command("call", "-A", "right", "task", env=env)
    assert (ran.code, is_one_line(ran.err)) == (2, True)
    assert says in ran.err
    assert "right" not in ran.err


def test_a_setting_of_the_program_is_told_with_its_place(command, project):
    (project / "wrong.py").write_text("from cloudq import CloudQ\n\napp = CloudQ('x', brokr='y')\n")
    ran = command("call", "-A", "wrong", "task", env={"CLOUDQ_LEASE": "5"})
    assert "importing wrong failed: ConfigurationError: there is no setting 'brokr'" in ran.err
    assert ran.err.endswith("did you mean broker? (wrong.py, line 3)\n")


def test_a_key_of_no_service_is_told_with_the_place_of_the_program(command, project):
    (project / "wrong.py").write_text("from cloudq import CloudQ\n\napp = CloudQ('x')\n")
    keys = {"CLOUDQ_ENCRYPTION_KEYS": '{"k": "awkms://x"}'}
    ran = command("call", "-A", "wrong", "task", env=keys)
    assert ran.err.endswith("gcpkms (wrong.py, line 3)\n")


@pytest.mark.parametrize(
    ("env", "says"),
    [
        (
            {"CLOUDQ_LEASE": "long"},
            "setting 'lease' from CLOUDQ_LEASE: it must be a number",
        ),
        ({"CLOUDQ_CONFIG": "gone.toml"}, "CLOUDQ_CONFIG names gone.toml"),
        ({"CLOUDQ_APP": "gone:app"}, "there is no module 'gone' here"),
        ({"CLOUDQ_BROKER": "sqss://"}, "did you mean sqs?"),
    ],
)
def test_a_bad_environment_is_one_line_too(command, env, says):
    ran = command("queues", "list", env=env)
    assert (ran.code, is_one_line(ran.err)) == (2, True)
    assert says in ran.err


def test_a_missing_extra_names_what_to_install(command, tmp_path: Path):
    gone = "raise ModuleNotFoundError('No module named botocore', name='botocore')"
    (tmp_path / "botocore.py").write_text(gone)
    ran = command("queues", "list", "-b", "sqs://eu-west-1", env={"PYTHONPATH": str(tmp_path)})
    assert (ran.code, is_one_line(ran.err)) == (2, True)
    assert 'needs the package botocore: pip install "cloudq-tasks[aws]"' in ran.err


def test_no_credentials_says_where_they_are_looked_for(command):
    none = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}
    ran = command("queues", "list", "-b", "sqs://eu-west-1", env=none)
    assert (ran.code, is_one_line(ran.err)) == (2, True)
    assert "no AWS credentials for sqs://: set AWS_PROFILE" in ran.err


def test_no_region_says_how_one_is_given(command):
    none = {"AWS_REGION": None, "AWS_DEFAULT_REGION": None}
    ran = command("queues", "list", "-b", "sqs://", env=none)
    assert (ran.code, is_one_line(ran.err)) == (2, True)
    assert "no AWS region" in ran.err


def test_arguments_over_the_limit_are_refused_before_sending(command, project):
    (project / "big.py").write_text(
        "from shop import app\n"
        "import os\n"
        "from cloudq.cli import main\n"
        "os._exit(main(['call', '-A', 'shop', 'shop.send', 'x' * (17 << 20)]))\n"
    )
    ran = command("call", "-A", "big", "x", env={"CLOUDQ_PAYLOAD_STORE": "none"})
    assert (ran.code, is_one_line(ran.err)) == (2, True)
    assert "set payload_store, say to s3://bucket/prefix" in ran.err


def test_what_cannot_be_read_is_not_told_as_nothing(command, project):
    words = ("-b", "sqs://us-east-1", "--backend", "dynamodb://t?region=us-east-1")
    unreachable: dict[str, str | None] = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
    }
    seen = command("top", "--once", *words, env=unreachable)
    assert seen.out.count("not known") == 3
    for wrong in ("no worker in this store", "nothing runs", "none"):
        assert wrong not in seen.out.splitlines()
    assert "warning: store: " in seen.err
    assert "check the URL, the region and the network" in seen.err
    assert command("dead", "list", *words, env=unreachable).code == 1
