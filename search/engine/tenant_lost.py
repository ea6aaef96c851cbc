"""The error for a tenant that an engine does not know, or no longer knows."""

from __future__ import annotations


class TenantLost(Exception):
    """The tenant has not joined this engine, or was dropped after a long silence; it may join again."""
