"""What a failed request to MLflow means: nobody is there, or it will never be accepted; and how that is told."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Literal

REQUEST_SECONDS = 10  # connect and read timeout of one request, unless MLFLOW_HTTP_REQUEST_TIMEOUT says otherwise
FULL_DISK = ("database or disk is full", "No space left on device")
BUSY = re.compile(r"too many (429|502|503|504) error responses")  # the status in the text of MLflow's client
AWAY_CODES = {
    "TEMPORARILY_UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "REQUEST_LIMIT_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "ENDPOINT_NOT_FOUND",  # a proxy whose server is restarting
    "UNAUTHENTICATED",  # an expired token concerns every item, so dropping items would not help
    "CUSTOMER_UNAUTHORIZED",
    "PERMISSION_DENIED",
}
REFUSED_CODES = {
    "INVALID_PARAMETER_VALUE",
    "RESOURCE_DOES_NOT_EXIST",
    "NOT_FOUND",
    "RESOURCE_ALREADY_EXISTS",
    "ALREADY_EXISTS",
    "NOT_IMPLEMENTED",
}


def verdict(error: BaseException) -> Literal["away", "refused", "unclear"]:
    """Whether MLflow is unreachable (or overloaded), refuses the item, or one of the two (another 5xx, an error of the artifact
    store)."""
    import requests

    for cause in causes(error):
        if any(text in str(cause) for text in FULL_DISK):  # it answers, but cannot store anything
            return "away"
        if isinstance(cause, requests.exceptions.RetryError) and BUSY.search(str(cause)):
            return "away"
        if isinstance(
            cause, requests.exceptions.RetryError | requests.HTTPError
        ):  # a status 5xx, or an error of the artifact store
            return "unclear"
        if isinstance(cause, requests.ConnectionError | requests.Timeout | ConnectionError | TimeoutError):
            return "away"
    code = getattr(error, "error_code", None)
    if code in AWAY_CODES:
        return "away"
    return "refused" if code in REFUSED_CODES or isinstance(error, TypeError | ValueError) else "unclear"


def masked(text: str) -> str:
    """`text` with the credentials of any URI in it replaced by ***."""
    text = re.sub(r"://[^\s?#'\"]*@", "://***@", text)  # up to the last @: a password may hold a slash
    return re.sub(r"(?i)([?&](?:\w*password|\w*token|api_?key)=)[^&\s'\"]*", r"\1***", text)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and its causes, outermost first."""
    while error is not None:
        yield error
        inner = next(
            (argument for argument in error.args if isinstance(argument, BaseException)), None
        )  # urllib3 keeps the cause there
        error = error.__cause__ or error.__context__ or inner


def reason(error: BaseException) -> str:
    """Why a request failed, in one line without credentials."""
    import requests

    chain = list(causes(error))
    if any(isinstance(cause, requests.Timeout | TimeoutError) for cause in chain):
        return f"no answer in {os.environ.get('MLFLOW_HTTP_REQUEST_TIMEOUT', REQUEST_SECONDS)} s"
    for cause in reversed(chain):
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return masked(lines[0])[:300]
