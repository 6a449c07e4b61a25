"""The dashboard: pages and a JSON API over what operators see and do, for browsers."""

from cloudq.dashboard.access import Access, Role, User, access
from cloudq.dashboard.site import asgi

__all__ = ["Access", "Role", "User", "access", "asgi"]
