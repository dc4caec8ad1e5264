"""Which addresses a tracking store may have.

>>> check_store_address("sqlite:////var/lib/metadrift/mlflow.db")
'sqlite:////var/lib/metadrift/mlflow.db'
>>> check_store_address("http://169.254.169.254/latest")
Traceback (most recent call last):
deploy.store_address.StoreAddressError: tracking store 'http://169.254.169.254/latest' is a \
link-local address; give the tracking server's own
"""

import ipaddress
from urllib.parse import SplitResult, urlsplit


class StoreAddressError(ValueError):
    """A tracking store's address that is refused, with the fix."""


def check_store_address(address: str) -> str:
    """Return ``address`` where a store may live there.

    Raises:
        StoreAddressError: Neither an absolute ``sqlite:///`` path nor ``http(s)://host``; or it
            holds ``#``, ``?``, ``..``, credentials, or a link-local host.
    """
    shown = repr(address)
    for token in ("#", "?", "..", "%", "\\"):
        if token in address:
            raise StoreAddressError(f"tracking store {shown} holds {token!r}; leave it out")
    parts = urlsplit(address)
    if parts.scheme == "sqlite":
        if parts.netloc or not parts.path.startswith("//") or len(parts.path) < len("//x"):
            raise StoreAddressError(
                f"tracking store {shown} is no absolute path; write sqlite:////folder/mlflow.db"
            )
        return address
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise StoreAddressError(
            f"tracking store {shown}: expected sqlite:////folder/mlflow.db, http://host or "
            "https://host"
        )
    if parts.username or parts.password:
        raise StoreAddressError(
            "the tracking store's address holds credentials; set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in the environment instead"
        )
    if _is_link_local(parts):
        raise StoreAddressError(
            f"tracking store {shown} is a link-local address; give the tracking server's own"
        )
    return address


def _is_link_local(parts: SplitResult) -> bool:
    try:
        return ipaddress.ip_address(parts.hostname or "").is_link_local
    except ValueError:  # a name
        return False
