"""`self.retry` as in Celery, where the next try is sent even if what it raises is caught."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from cloudq.errors import Retry
from cloudq.tasks.bound import BoundTask


class Retries(BoundTask):
    """The method `retry` of a task, with Celery's options."""

    def _options_of_retry(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Translate Celery's options to cloudq's. Raises `ConfigurationError`."""
        raise NotImplementedError

    def retry(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: datetime | None = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Retry:
        """End this try and have the task run again later: `raise self.retry()`.

        The task runs again even where the function catches what this raises, and goes on. Raises
        as `retry` of cloudq's own tasks, and `ConfigurationError` for an option that is refused.
        """
        made = self._options_of_retry(options)
        try:
            return super().retry(
                args, kwargs, exc, throw, eta, countdown, max_retries=max_retries, **made
            )
        except Retry as asked:
            if not self.request.called_directly:
                self.request.asked[:] = [asked]
            raise
