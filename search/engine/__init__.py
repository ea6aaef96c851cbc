"""One engine per device, as seen through Ray: the actor, its tenants, their clients, the pool that hands engines out."""

__all__ = [
    "actor",
    "checkpoint",
    "client",
    "description",
    "devices",
    "hits",
    "left_out",
    "pool",
    "preparation",
    "previews",
    "split_items",
    "state_files",
    "tenant",
    "tenant_lost",
    "tenants",
]
