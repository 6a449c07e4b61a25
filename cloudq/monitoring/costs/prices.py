"""The table of prices: those that the adapters declare, and the user's own over them."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cloudq.driver.adapters import adapter, declared
from cloudq.driver.billing import FREE, Price, Spent, Spot, Tariff
from cloudq.errors import ConfigurationError, did_you_mean
from cloudq.messages.json_text import is_object
from cloudq.monitoring.costs.sheet import Sheet
from cloudq.text import describe

_MOST_DOLLARS = 1_000_000.0
_LONGEST = 1 << 20


class PriceTable:
    """Prices by name. `own` are the user's, in dollars for as many units as the list's are for.

    Raises `ConfigurationError` for one that no tariff has, and for what is no price.
    """

    def __init__(self, tariffs: Iterable[Tariff], own: Mapping[str, float] | None = None) -> None:
        self.tariffs = list({tariff.service: tariff for tariff in tariffs}.values())
        self._prices: dict[str, Price] = {}
        self._tariff_of: dict[str, Tariff] = {}
        for tariff in self.tariffs:
            self._prices.update(tariff.prices)
            self._tariff_of.update(dict.fromkeys(tariff.prices, tariff))
        self.own = {name: value for name, value in (own or {}).items() if name in self._prices}

    def dollars(self, price: str, units: float) -> float:
        """Return the cost of units; 0 for a price that is not in the table, as of a free call."""
        listed = self._prices.get(price)
        if listed is None:
            return 0.0
        return units * self.own.get(price, listed.dollars) / listed.per

    def service(self, price: str) -> str:
        """Return the name of the service that a price belongs to."""
        tariff = self._tariff_of.get(price)
        return tariff.service if tariff is not None else "free"

    def listed(self) -> list[tuple[str, Price, Tariff, float]]:
        """Return each price, its tariff, and the dollars that count."""
        return [
            (name, price, tariff, self.own.get(name, price.dollars))
            for tariff in self.tariffs
            for name, price in tariff.prices.items()
        ]


def known_tariffs(*urls: str | None) -> list[Tariff]:
    """Return the tariffs of these URLs' services; those of all installed adapters without a URL."""
    if urls:
        adapters = [adapter(url) for url in urls if url is not None]
    else:
        adapters = [each for _, each in declared()]
    return [tariff for each in adapters if (tariff := each.load_tariff()) is not None]


def checked_prices(own: Mapping[str, Any], origin: str) -> dict[str, float]:
    """Check the user's prices against those that there are. Raises `ConfigurationError`."""
    known = [name for tariff in known_tariffs() for name in tariff.prices]
    found: dict[str, float] = {}
    for name, value in own.items():
        if name not in known:
            hint = did_you_mean(name, known, otherwise=f"there are {', '.join(known)}")
            raise ConfigurationError(f"{origin}: there is no price {name[:60]!r}: {hint}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigurationError(
                f"{origin}: the price {name} is {str(value)[:60]!r}: give dollars, such as 0.40"
            )
        if not 0 <= value <= _MOST_DOLLARS:
            raise ConfigurationError(
                f"{origin}: the price {name} is {value:g}: give dollars, from 0 to 1,000,000"
            )
        found[name] = float(value)
    return found


def prices_in_file(path: Path) -> dict[str, float]:
    """Read prices from a TOML file of lines such as `sqs_request = 0.40`.

    They may stand under `[prices]`. Raises `ConfigurationError`.
    """
    try:
        text = path.read_bytes()[:_LONGEST].decode()
        read = tomllib.loads(text)
    except OSError as error:
        raise ConfigurationError(f"cannot read the prices in {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"the prices in {path} are no TOML, such as NAME = 0.40: {describe(error)}"
        ) from error
    inner = read.get("prices")
    return checked_prices(inner if is_object(inner) else read, str(path))


def check_region(region: str, tariffs: Sequence[Tariff], own: Mapping[str, float]) -> None:
    """Raise `ConfigurationError` if the list prices are of other regions, and not all replaced."""
    for tariff in tariffs:
        if (
            region in tariff.regions
            or "any" in tariff.regions
            or tariff.prices.keys() <= own.keys()
        ):
            continue
        names = " ".join(f"--price {name}=DOLLARS" for name in tariff.prices)
        raise ConfigurationError(
            f"there are no prices of {tariff.service} in {region[:40]!r}: the table has "
            f"{', '.join(tariff.regions)}; for another region give {names} (see {tariff.source})"
        )


def by_service(sheet: Sheet, prices: PriceTable) -> dict[tuple[str, str, str], tuple[Spent, float]]:
    """Add up counts by service, call and place, with their dollars."""
    found: dict[tuple[str, str, str], tuple[Spent, float]] = {}
    for spot, row in sheet.spent.items():
        key = (_service(spot, prices), spot.call, spot.place)
        spent, dollars = found.get(key, (Spent(), 0.0))
        spent.add(row)
        found[key] = spent, dollars + prices.dollars(spot.price, row.units)
    return found


def _service(spot: Spot, prices: PriceTable) -> str:
    return "free" if spot.price == FREE else prices.service(spot.price)
