"""What is kept on disk: the content-addressed store, tensor files, the cache's folder."""

__all__ = [
    "cache_folder",
    "store",
    "tensor_files",
]
