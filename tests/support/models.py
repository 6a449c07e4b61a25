"""Lets botocore read each of its files once in a process, not once in each session."""

from __future__ import annotations

import pickle
import sys
from pathlib import PurePath
from typing import Any

# All sessions may share these. A service's model each gets for itself: moto changes what it gets.
_SHARED = frozenset({"endpoints", "partitions", "sdk-default-configuration"})


def read_once() -> None:
    """Keep what botocore reads of its own files, if a test has imported it.

    Each test makes sessions of its own, and the JSON took longer than all else that they do.
    """
    loaders: Any = sys.modules.get("botocore.loaders")
    if loaders is None:
        return
    load, services = loaders.JSONFileLoader.load_file, loaders.Loader.list_available_services
    shared: dict[str, Any] = {}
    packed: dict[str, bytes] = {}
    listed: dict[tuple[str, ...], list[str]] = {}

    def load_file(self: Any, file_path: str) -> Any:
        if file_path in packed:
            return pickle.loads(packed[file_path])
        if file_path in shared:
            return shared[file_path]
        found = load(self, file_path)
        if found is not None and PurePath(file_path).name in _SHARED:
            shared[file_path] = found
        elif found is not None:
            packed[file_path] = pickle.dumps(found, pickle.HIGHEST_PROTOCOL)
        return found

    def list_available_services(self: Any, type_name: str) -> list[str]:
        key = (type_name, *self.search_paths)
        if key not in listed:
            listed[key] = services(self, type_name=type_name)
        return [*listed[key]]

    loaders.JSONFileLoader.load_file = load_file
    loaders.Loader.list_available_services = list_available_services
