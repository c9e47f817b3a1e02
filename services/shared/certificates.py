# SPDX-License-Identifier: Apache-2.0
"""
Certificate files: read, held against each other, and read again when they change.

A certificate, its private key and the certificates of the authorities it trusts are three PEM
files, as cert-manager and `ownkey certs init` write them. They are replaced while a process serves:
a set that does not fit together, such as one caught half-way through a change, is left alone and
the last good one goes on.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

from services.shared.config import ConfigError, open_to_others
from services.shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.shared.clock import Clock

PEM_BYTES_MAX = 1024 * 1024
LOOK_SECONDS = 1.0
"""Files are looked at no more often than this."""
ENDING_SECONDS = 48 * 3600.0
"""A certificate that ends sooner than this is warned of."""
WARNING_SECONDS = 3600.0
"""Between two such warnings."""

log = get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """
    Where a process's certificate is.

    Args:
        certificate: PEM, the process's own certificate first, then those it was issued through.
        key: PEM, its private key, unencrypted, mode 0600.
        ca: PEM, the authorities whose certificates are trusted, of callers and of services.
    """

    certificate: Path
    key: Path
    ca: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """
    A set of files that fit together.

    Args:
        certificate: The chain as PEM.
        key: The private key as PEM.
        ca: The trusted certificates as PEM.
        not_after: When the certificate ends.
        names: The SPIFFE URIs and DNS names it was issued for.
    """

    certificate: bytes
    key: bytes = field(repr=False)
    ca: bytes
    not_after: dt.datetime
    names: tuple[str, ...]


class Certificates:
    """
    A process's certificate, always as the files have it.

    Args:
        files: Where it is.
        clock: Time.

    Raises:
        ConfigError: If the files cannot be used at start, with every problem found.
    """

    def __init__(self, files: TlsFiles, *, clock: Clock) -> None:
        self.files = files
        self.clock = clock
        self._seen = _signature(files)
        self._material = read_material(files, now=clock.now())
        self._next_look = clock.monotonic() + LOOK_SECONDS
        self._next_warning = 0.0
        self._warn_of_end()

    def current(self) -> Material:
        """
        Return the newest set of files that fits together; changed files are read anew.

        gRPC's own threads call it too; each assignment here is whole, and reading twice is no harm.
        """
        now = self.clock.monotonic()
        if now < self._next_look:
            return self._material
        self._next_look = now + LOOK_SECONDS
        if now >= self._next_warning:
            self._warn_of_end()
        found = _signature(self.files)
        if found == self._seen:
            return self._material
        self._seen = found
        try:
            self._material = read_material(self.files, now=self.clock.now())
        except ConfigError as fault:
            # Written half-way, it changes once more and is read then.
            log.warning("certificate_not_taken", problems=fault.problems)
            return self._material
        log.info(
            "certificate_taken", names=self._material.names, ends=str(self._material.not_after)
        )
        self._warn_of_end()
        return self._material

    def _warn_of_end(self) -> None:
        self._next_warning = self.clock.monotonic() + WARNING_SECONDS
        left = (self._material.not_after - self.clock.now()).total_seconds()
        if left < ENDING_SECONDS:
            log.warning(
                "certificate_ends_soon",
                file=str(self.files.certificate),
                ends=str(self._material.not_after),
                advice="issue a new one into the same files; no restart is needed",
            )


def read_material(files: TlsFiles, *, now: dt.datetime) -> Material:
    """
    Read a set of files and hold them against each other.

    Raises:
        ConfigError: With every problem found, each with its remedy.
    """
    problems: list[str] = []
    chain = _read(files.certificate, "certificate", problems)
    key = _read(files.key, "private key", problems, private=True)
    ca = _read(files.ca, "certificates of trusted authorities", problems)
    certificates = _parse(chain, files.certificate, problems)
    authorities = _parse(ca, files.ca, problems)
    public = _public_key(key, files.key, problems)
    if certificates and public is not None and public != _public_bytes(certificates[0]):
        problems.append(
            f"the private key {files.key} does not belong to the certificate {files.certificate}; "
            "put the two that were issued together in place"
        )
    if certificates:
        problems += _validity_problems(certificates[0], files.certificate, now)
    if certificates and authorities and not _issued_by(certificates, authorities):
        problems.append(
            f"the certificate {files.certificate} was not issued by an authority in {files.ca}; "
            "use a certificate of the same authority as the other parts', or add its authority "
            "to that file"
        )
    if problems:
        raise ConfigError(problems)
    return Material(
        certificate=chain,
        key=key,
        ca=ca,
        not_after=certificates[0].not_valid_after_utc,
        names=names_of(certificates[0]),
    )


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the URIs and DNS names a certificate was issued for, in its own order."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    kinds = (x509.UniformResourceIdentifier, x509.DNSName)
    return tuple(name.value for name in extension.value if isinstance(name, kinds))


def _validity_problems(
    certificate: x509.Certificate, path: Path, now: dt.datetime
) -> Sequence[str]:
    if now < certificate.not_valid_before_utc:
        problem = (
            f"the certificate {path} is not valid before {certificate.not_valid_before_utc}; set "
            "this machine's clock right, or wait until then"
        )
        return [problem]
    if now > certificate.not_valid_after_utc:
        problem = (
            f"the certificate {path} ended at {certificate.not_valid_after_utc}; issue a new one "
            "into the same file"
        )
        return [problem]
    return []


def _issued_by(chain: Sequence[x509.Certificate], authorities: Sequence[x509.Certificate]) -> bool:
    """Tell whether the last certificate of the chain is, or was issued by, one of them."""
    last = chain[-1]
    for authority in authorities:
        if last == authority:
            return True
        try:
            last.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return True
    return False


def _read(path: Path, what: str, problems: list[str], *, private: bool = False) -> bytes:
    try:
        status = path.stat()
        with path.open("rb") as file:
            content = file.read(PEM_BYTES_MAX)
    except OSError as fault:
        problems.append(
            f"the {what} {path} cannot be read ({fault.strerror}); put the file there, readable "
            "by this process"
        )
        return b""
    if private and open_to_others(status):
        problems.append(f"the {what} {path} can be read by others; run chmod 600 on it")
    return content


def _parse(content: bytes, path: Path, problems: list[str]) -> list[x509.Certificate]:
    if not content:
        return []
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError:
        problems.append(f"{path} holds no certificate in PEM form; put one there")
        return []


def _public_key(content: bytes, path: Path, problems: list[str]) -> bytes | None:
    if not content:
        return None
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError):
        # The library's own text is not passed on: it was made while reading a secret.
        problems.append(f"{path} holds no unencrypted private key in PEM form; put one there")
        return None
    return _encoded(key.public_key())


def _public_bytes(certificate: x509.Certificate) -> bytes:
    return _encoded(certificate.public_key())


def _encoded(key: object) -> bytes:
    encoded: bytes = key.public_bytes(  # type: ignore[attr-defined]  # every public key has it
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded


def _signature(files: TlsFiles) -> tuple[tuple[int, int, int], ...]:
    """Return what changes whenever one of the files does; a missing one counts as changed."""
    found = []
    for path in (files.certificate, files.key, files.ca):
        try:
            status = path.stat()
        except OSError:
            found.append((0, 0, 0))
        else:
            found.append((status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(found)
