"""Writes and reads queues as the administration API does: as Atom entries and feeds."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast
from xml.etree import ElementTree

from localstack.servicebus.namespace import Namespace, Queue
from localstack.servicebus.settings import FOREVER, Settings

_ATOM = "http://www.w3.org/2005/Atom"
_CONNECT = "http://schemas.microsoft.com/netservices/2010/10/servicebus/connect"
_COUNTS = "http://schemas.microsoft.com/netservices/2011/06/servicebus"
_SCHEMA = "http://www.w3.org/2001/XMLSchema-instance"
_DURATION = re.compile(
    r"P(?:(?P<days>\d+)D)?(?:T(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>[\d.]+)S)?)?"
)

# Element, attribute of `Settings`, kind: in the order in which Azure writes them.
_PROPERTIES = (
    ("LockDuration", "lock", "duration"),
    ("MaxSizeInMegabytes", "max_size_mb", "int"),
    ("RequiresDuplicateDetection", "dedup", "bool"),
    ("RequiresSession", "sessions", "bool"),
    ("DefaultMessageTimeToLive", "ttl", "duration"),
    ("DeadLetteringOnMessageExpiration", "dead_letter_expired", "bool"),
    ("DuplicateDetectionHistoryTimeWindow", "dedup_window", "duration"),
    ("MaxDeliveryCount", "max_deliveries", "int"),
    ("EnableBatchedOperations", "batched", "bool"),
    ("Status", "status", "text"),
    ("UserMetadata", "metadata", "text"),
    ("AutoDeleteOnIdle", "auto_delete", "duration"),
    ("EnablePartitioning", "partitioned", "bool"),
    ("EnableExpress", "express", "bool"),
    ("MaxMessageSizeInKilobytes", "max_message_kb", "int"),
)
_NOT_HERE = ("ForwardTo", "ForwardDeadLetteredMessagesTo")

for _prefix, _space in (("", _ATOM), ("i", _SCHEMA), ("d2p1", _COUNTS)):
    ElementTree.register_namespace(_prefix, _space)


class BadEntry(ValueError):
    """Raised for a request whose body is not a supported queue description."""


def read_settings(body: bytes, base: Settings) -> Settings:
    """The settings of a queue's description, on top of `base`. Raises `BadEntry`."""
    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError as error:
        raise BadEntry(f"The body is no XML: {error}") from error
    described = root.find(f".//{{{_CONNECT}}}QueueDescription")
    if described is None:
        raise BadEntry("the body has no QueueDescription: this server supports only queues")
    for name in _NOT_HERE:
        if described.findtext(f"{{{_CONNECT}}}{name}"):
            raise BadEntry(f"{name} is not supported here.")
    changes: dict[str, Any] = {}
    try:
        for name, attribute, kind in _PROPERTIES:
            text = described.findtext(f"{{{_CONNECT}}}{name}")
            if text:
                changes[attribute] = _parse(text, kind)
        return replace(base, **changes)
    except ValueError as error:
        raise BadEntry(str(error)) from error


def _parse(text: str, kind: str) -> object:
    if kind == "duration":
        return parse_duration(text)
    if kind == "bool":
        return text.lower() == "true"
    return int(text) if kind == "int" else text


def parse_duration(text: str) -> float:
    """Seconds of an ISO 8601 duration. Raises `ValueError`."""
    found = _DURATION.fullmatch(text)
    if found is None or not any(found.groups()):
        raise ValueError(f"{text!r} is no duration such as PT30S")
    days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return days * 86_400 + hours * 3600 + minutes * 60 + seconds


def write_duration(seconds: float) -> str:
    """An ISO 8601 duration."""
    if seconds >= FOREVER:
        return "P10675199DT2H48M5.4775807S"
    days, rest = divmod(seconds, 86_400)
    return f"P{int(days)}DT{round(rest, 7):g}S" if days else f"PT{round(rest, 7):g}S"


def _write(value: object, kind: str) -> str:
    if kind == "duration":
        return write_duration(cast(float, value))
    return str(value).lower() if kind == "bool" else str(value)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _add(parent: ElementTree.Element, space: str, name: str, text: str) -> ElementTree.Element:
    element = ElementTree.SubElement(parent, f"{{{space}}}{name}")
    element.text = text
    return element


def _entry(queue: Queue, base: str) -> ElementTree.Element:
    entry = ElementTree.Element(f"{{{_ATOM}}}entry")
    _add(entry, _ATOM, "id", f"{base}/{queue.name}")
    _add(entry, _ATOM, "title", queue.name).set("type", "text")
    _add(entry, _ATOM, "published", _moment(queue.created))
    _add(entry, _ATOM, "updated", _moment(queue.updated))
    content = ElementTree.SubElement(entry, f"{{{_ATOM}}}content", {"type": "application/xml"})
    described = ElementTree.SubElement(content, f"{{{_CONNECT}}}QueueDescription")
    for name, attribute, kind in _PROPERTIES:
        value = getattr(queue.settings, attribute)
        if attribute == "max_message_kb":
            value = queue.most_bytes // 1024
        if value is not None:
            _add(described, _CONNECT, name, _write(value, kind))
    _add_runtime(described, queue)
    return entry


def _add_runtime(described: ElementTree.Element, queue: Queue) -> None:
    counts = queue.counts()
    _add(described, _CONNECT, "SizeInBytes", str(queue.size))
    _add(described, _CONNECT, "MessageCount", str(sum(counts.values())))
    _add(described, _CONNECT, "CreatedAt", _moment(queue.created))
    _add(described, _CONNECT, "UpdatedAt", _moment(queue.updated))
    _add(described, _CONNECT, "AccessedAt", _moment(queue.accessed))
    _add(described, _CONNECT, "SupportOrdering", "true")
    _add(described, _CONNECT, "EntityAvailabilityStatus", "Available")
    details = ElementTree.SubElement(described, f"{{{_CONNECT}}}CountDetails")
    _add(details, _COUNTS, "ActiveMessageCount", str(counts["active"]))
    _add(details, _COUNTS, "DeadLetterMessageCount", str(counts["dead"]))
    _add(details, _COUNTS, "ScheduledMessageCount", str(counts["scheduled"]))
    _add(details, _COUNTS, "TransferMessageCount", "0")
    _add(details, _COUNTS, "TransferDeadLetterMessageCount", "0")


def entry(queue: Queue, base: str) -> bytes:
    """One queue."""
    return _bytes(_entry(queue, base))


def feed(queues: list[Queue], base: str, title: str, following: str | None = None) -> bytes:
    """A page of queues, with the link to the next page."""
    root = ElementTree.Element(f"{{{_ATOM}}}feed")
    _add(root, _ATOM, "title", title).set("type", "text")
    _add(root, _ATOM, "id", base)
    _add(root, _ATOM, "updated", _moment(datetime.now(UTC).timestamp()))
    ElementTree.SubElement(root, f"{{{_ATOM}}}link", {"rel": "self", "href": base})
    if following:
        ElementTree.SubElement(root, f"{{{_ATOM}}}link", {"rel": "next", "href": following})
    root.extend(_entry(queue, base) for queue in queues)
    return _bytes(root)


def namespace_entry(namespace: Namespace, name: str) -> bytes:
    """The entry that describes the namespace."""
    root = ElementTree.Element(f"{{{_ATOM}}}entry")
    _add(root, _ATOM, "title", name).set("type", "text")
    _add(root, _ATOM, "updated", _moment(namespace.started))
    content = ElementTree.SubElement(root, f"{{{_ATOM}}}content", {"type": "application/xml"})
    info = ElementTree.SubElement(content, f"{{{_CONNECT}}}NamespaceInfo")
    premium = namespace.tier == "premium"
    _add(info, _CONNECT, "CreatedTime", _moment(namespace.started))
    _add(info, _CONNECT, "MessagingSKU", namespace.tier.capitalize())
    if premium:
        _add(info, _CONNECT, "MessagingUnits", "1")
    _add(info, _CONNECT, "ModifiedTime", _moment(namespace.started))
    _add(info, _CONNECT, "Name", name)
    _add(info, _CONNECT, "NamespaceType", "Messaging")
    return _bytes(root)


def problem(status: int, detail: str) -> bytes:
    """An error."""
    root = ElementTree.Element("Error")
    ElementTree.SubElement(root, "Code").text = str(status)
    ElementTree.SubElement(root, "Detail").text = detail
    return _bytes(root)


def _bytes(root: ElementTree.Element) -> bytes:
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
