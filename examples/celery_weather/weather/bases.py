"""Classes of tasks: their instances live as long as a process, and so does what they keep."""

from celery import Task
from celery.utils.log import get_task_logger

from weather import ledger

logger = get_task_logger(__name__)


class Recorded(Task):
    """Tasks whose ends are written down."""

    abstract = True
    kind = "tasks"

    def before_start(self, task_id, args, kwargs):
        logger.debug("%s starts", self.name)

    def on_success(self, retval, task_id, args, kwargs):
        ledger.write(self.kind, f"{self.name} success {retval}")

    def on_retry(self, exc, task_id, args, kwargs, einfo):
        ledger.write(self.kind, f"{self.name} retry {type(exc).__name__} {exc}")

    def on_failure(self, exc, task_id, args, kwargs, einfo):
        last = str(einfo).strip().splitlines()[-1]
        same = einfo.type is type(exc) and einfo.traceback in str(einfo)
        ledger.write(self.kind, f"{self.name} failure {list(args)} {kwargs} {last} {same}")

    def after_return(self, status, retval, task_id, args, kwargs, einfo):
        ledger.write("after", f"{self.name} {status}")


class StationTask(Recorded):
    """Tasks that speak to stations, over connections that they keep."""

    abstract = True
    autoretry_for = (ConnectionError,)
    retry_kwargs = {"max_retries": 2}
    retry_backoff = True
    retry_backoff_max = 1
    retry_jitter = False
    _connections = None

    @property
    def connections(self):
        if self._connections is None:
            self._connections = {}
        return self._connections

    def connect(self, station):
        if station not in self.connections:
            self.connections[station] = f"connection to {station}"
        return self.connections[station]


class Counting(Task):
    """Tasks that count their runs in a process."""

    def __init__(self):
        self.runs = 0

    def __call__(self, *args, **kwargs):
        self.runs += 1
        return super().__call__(*args, **kwargs)
