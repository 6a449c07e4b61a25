"""The settings of the project: a module that the environment names, read when it is first used."""

import importlib
import os


class LazySettings:
    """Attributes of the settings module; those of no module cannot be read before it is named."""

    _module = None

    def _load(self):
        if self._module is None:
            name = os.environ["WEATHER_SETTINGS"]
            self._module = importlib.import_module(name)
        return self._module

    def __getattr__(self, name):
        return getattr(self._load(), name)

    def __dir__(self):
        return dir(self._load())


settings = LazySettings()
