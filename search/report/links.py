"""Where MLflow is, without secrets, and the command that opens its UI."""

from __future__ import annotations

import re
import shlex
from urllib.parse import urlsplit, urlunsplit


def safe_uri(uri: str | None) -> str:
    """A tracking URI without the user name and password it may hold."""
    text = uri or ""
    try:
        parts = urlsplit(text)
    except ValueError:
        return re.sub(r"//[^/@]*@", "//", text)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else text


def mlflow_command(uri: str | None) -> str | None:
    """The shell command that opens the MLflow UI; None for a server, which has its own address."""
    text = safe_uri(uri)
    if not text or text.startswith(("http://", "https://", "databricks")):
        return None
    return f"mlflow ui --backend-store-uri {shlex.quote(text)}"
