"""What an engine answers a tenant that it does not know (any more)."""

from __future__ import annotations


class TenantLost(Exception):
    """It has not joined this engine, or was dropped after a long silence: it may join again."""
