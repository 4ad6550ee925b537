"""Trusted authorities and the client certificate for TLS: the same for broker, database, SMTP and HTTPS."""

import ssl
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

UNCHECKED = ("disable", "allow", "prefer")
CHECKED = ("require", "verify-ca", "verify-full")


@dataclass(frozen=True)
class Tls:
    """PEM files: authorities to trust besides the machine's own, and a certificate for servers that ask for one."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    @property
    def context(self) -> ssl.SSLContext:
        """A context that always checks chain, dates and host name. Raises ValueError with the name of an unusable
        file."""
        return _shared(self)

    def for_database(self, sslmode: str) -> ssl.SSLContext | str:
        """The `ssl` argument of asyncpg for libpq's `sslmode`. As in libpq, `require` checks no certificate unless an
        authority is named. Raises ValueError."""
        if sslmode in UNCHECKED:
            return sslmode
        if sslmode not in CHECKED:
            raise ValueError(f"sslmode is one of {', '.join(UNCHECKED + CHECKED)}")
        context = _made(self)
        context.check_hostname = sslmode == "verify-full"
        if sslmode == "require" and not self.ca_file:
            context.verify_mode = ssl.CERT_NONE
        return context


def _made(tls: Tls) -> ssl.SSLContext:
    for path in filter(None, (tls.ca_file, tls.cert_file, tls.key_file)):
        if path.exists() and not (
            path.is_file() or path.is_dir()
        ):  # opening a pipe would block until somebody writes to it
            raise ValueError(f"{path} is no file")
    context = ssl.create_default_context()
    try:
        if tls.ca_file:
            context.load_verify_locations(tls.ca_file)
    except OSError as error:  # SSLError is an OSError
        raise ValueError(f"no certificates can be read from {tls.ca_file}: {error.strerror}") from error
    try:
        if tls.cert_file:
            context.load_cert_chain(tls.cert_file, tls.key_file, password=_none)
    except OSError as error:
        both = f"{tls.cert_file} and {tls.key_file}"
        raise ValueError(f"no certificate with its key can be read from {both}: {error.strerror}") from error
    return context


@lru_cache
def _shared(tls: Tls) -> ssl.SSLContext:
    """Cached, because reading the machine's authorities takes 30 ms."""
    return _made(tls)


def _none() -> str:
    """Refuse an encrypted key, for whose passphrase OpenSSL would ask at a terminal."""
    raise ValueError("the key is encrypted; write it to the file without a passphrase")
