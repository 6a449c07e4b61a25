"""The processes of a test run share a server: it is started once, and it ends with the run."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from cloudq.testing import eventually
from cloudq.testing.waiting import PATIENCE
from localstack.servers import ROOT, Spec, UpError, taken
from tests.localstack.test_localstack import members
from tests.support.sharing import Host, asked

# They start processes in threads too, which a quick run cannot skip.
pytestmark = pytest.mark.slow

# It answers nothing, but it listens, and it writes down that it was started.
LISTEN = (
    "import pathlib, socket, sys, time;"
    "print('up', file=pathlib.Path(sys.argv[2]).open('a'));"
    "server = socket.create_server(('127.0.0.1', int(sys.argv[1])));"
    "time.sleep(600)"
)
LEAD = """
import sys
from localstack.servers import Spec
from tests.localstack.test_sharing import listening
from tests.support.sharing import Host
from pathlib import Path
host = Host(listening(Path(sys.argv[1])))
print(host.address(), flush=True)
sys.stdin.read()
host.close()
"""


def listening(starts: Path) -> Spec:
    return spec(
        "listening", lambda ports: [sys.executable, "-c", LISTEN, str(ports[0]), str(starts)]
    )


def spec(name: str, command: Callable[[Sequence[int]], Sequence[str]]) -> Spec:
    return Spec(
        name=name,
        cloud="none",
        services="nothing",
        lacks="everything",
        ports=(1,),
        command=command,
        exports=lambda ports: {"LISTENING": f"127.0.0.1:{ports[0]}"},
    )


@pytest.fixture
def starts(tmp_path: Path) -> Path:
    return tmp_path / "starts"


@pytest.fixture
def made() -> Iterator[Callable[..., Host]]:
    hosts: list[Host] = []

    def make(*specs: Spec) -> Host:
        hosts.append(Host(*specs))
        return hosts[-1]

    yield make
    for host in hosts:
        host.close()


def test_all_who_ask_at_once_get_the_same_server(made: Callable[..., Host], starts: Path) -> None:
    host = made(listening(starts))
    address = host.address()
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: asked(address, "listening"), range(6)))
    assert found == [host.endpoint("listening")] * 6
    assert starts.read_text() == "up\n"
    assert found[0].environment == {"LISTENING": f"127.0.0.1:{found[0].port}"}
    host.close()
    eventually(lambda: not members(found[0].pid))  # a killed one may be leaving yet
    assert not found[0].log.exists()
    assert not taken(int(address.partition(":")[2]))
    with pytest.raises(UpError, match="the test run is over"):
        host.endpoint("listening")


def test_nothing_is_started_that_nobody_asks_for(made: Callable[..., Host], starts: Path) -> None:
    host = made(listening(starts))
    host.address()
    host.close()
    assert not starts.exists()


def test_what_cannot_run_is_told_alike_to_all_and_not_tried_again(
    made: Callable[..., Host],
) -> None:
    tries: list[int] = []

    def command(_: object) -> list[str]:
        tries.append(1)
        raise UpError("no Java: Google's emulators need one\non the PATH")

    host = made(spec("lacking", command))
    for ask in (host.endpoint, lambda name: asked(host.address(), name)) * 2:
        with pytest.raises(UpError, match="no Java: Google's emulators need one\non the PATH"):
            ask("lacking")
    assert len(tries) == 1


def test_a_slow_start_of_one_holds_up_no_other(made: Callable[..., Host], starts: Path) -> None:
    go, quick = Event(), listening(starts)

    def command(ports: Sequence[int]) -> Sequence[str]:
        assert go.wait(PATIENCE)
        return quick.command(ports)

    host = made(spec("slow", command), quick)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(asked, host.address(), "slow")
        try:
            assert taken(asked(host.address(), "listening").port)
            assert not slow.done()
        finally:
            go.set()
        assert taken(slow.result(PATIENCE).port)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, None])
def test_servers_end_with_the_process_that_leads(starts: Path, end: signal.Signals | None) -> None:
    leader = subprocess.Popen(
        [sys.executable, "-c", LEAD, str(starts)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert leader.stdout
        server = asked(leader.stdout.readline().strip(), "listening")
        assert len(members(server.pid)) == 2  # the server, and its watch
        if end:
            leader.send_signal(end)
    finally:
        if end is None:
            leader.communicate(timeout=PATIENCE)
        else:
            leader.kill()
            leader.communicate()
    eventually(lambda: not members(server.pid))
