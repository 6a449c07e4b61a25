"""Foreign message formats: Celery's by name, anybody's by an entry point, loaded at first use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cloudq import CloudQ, ConfigurationError

LOUD = """
from cloudq.messages.formats import MessageFormat
from cloudq.messages.message import TaskMessage

def read(body, queue, limit, accept):
    if not recognizes(body):
        return None
    return TaskMessage(id="1", task=body[:-1].decode().lower(), queue=queue, protocol="loud")

def write(message):
    return message.task.upper().encode() + b"!"

def recognizes(body):
    return body.endswith(b"!")

FORMAT = MessageFormat(name="loud", title="Loud", read=read, write=write, recognizes=recognizes)
"""

PROGRAM = """
import sys
from cloudq import CloudQ
from cloudq.messages.envelope import form_of

app = CloudQ("shop", broker="memory://", queue_accept={"q": ["loud", "cloudq"]})
assert "loud_format" not in sys.modules
message = app.runtime.codec.decode(b"PAY!", queue="https://host/q", limit=1000)
print(message.task, message.queue, app.runtime.codec.encode(message).decode())
print(form_of(b"PAY!"), form_of(b"pay"))
"""


def run(program: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(folder)},
    )
    return done.stdout


@pytest.fixture
def loud(tmp_path: Path) -> Path:
    """A distribution with a message format of its own."""
    info = tmp_path / "loud_format-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: loud-format\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[cloudq.formats]\nloud = loud_format:FORMAT\n")
    (tmp_path / "loud_format.py").write_text(LOUD)
    return tmp_path


def test_a_format_of_anyone_is_read_and_written_by_its_entry_point(loud: Path) -> None:
    said = run(PROGRAM, loud).splitlines()
    assert said == ["pay https://host/q PAY!", "a message in Loud's form None"]


def test_a_format_that_cannot_be_loaded_is_named(loud: Path) -> None:
    (loud / "loud_format.py").write_text("import a_package_that_is_not_installed")
    said = run(
        "from cloudq import CloudQ\n"
        "app = CloudQ('shop', broker='memory://', queue_accept={'q': ['loud']})\n"
        "try: app.runtime.codec.decode(b'x', queue='q', limit=1000)\n"
        "except Exception as error: print(type(error).__name__, error)",
        loud,
    )
    assert said.startswith("ConfigurationError the message format 'loud' cannot be loaded")


def test_celery_is_not_loaded_before_a_queue_asks_for_it(tmp_path: Path) -> None:
    said = run(
        "import sys\n"
        "from cloudq import CloudQ\n"
        "from cloudq.messages.message import TaskMessage\n"
        "app = CloudQ('shop', broker='memory://', queue_accept={'q': ['celery']})\n"
        "body = app.runtime.codec.encode(TaskMessage(id='1', task='t'))\n"
        "app.runtime.codec.decode(body, queue='other', limit=1000)\n"
        "print('cloudq.contrib' in sys.modules)\n"
        "app.runtime.codec.decode(body, queue='q', limit=1000)\n"
        "print('cloudq.contrib.celery.protocol' in sys.modules)",
        tmp_path,
    )
    assert said.split() == ["False", "True"]


def test_a_format_that_is_not_installed_is_refused_by_the_settings() -> None:
    with pytest.raises(ConfigurationError, match="it must be 'cloudq' or 'celery'") as caught:
        CloudQ("shop", queue_accept={"q": ["amqp"]})
    assert "setting 'queue_accept.q.0'" in str(caught.value)
    with pytest.raises(ConfigurationError, match="it must be 'cloudq' or 'celery'"):
        CloudQ("shop", queue_produce={"q": ["celery"]})
