# SPDX-License-Identifier: Apache-2.0
"""
A certificate authority in a folder, for trials and for this machine; none for production.

    ca.crt, ca.key                 the authority; whoever has its key can act as anybody
    <identity>/tls.crt, tls.key    what shows that identity, valid as client and as server
    <identity>/ca.crt              the authority once more, beside it

The three files of an identity have the names that Kubernetes and cert-manager give them. Private
keys are readable by their owner alone.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

TRUST_DOMAIN = "ownkey.internal"
IDENTITIES = ("keyvault", "router", "ledger", "backend", "operator", "web")
"""Who the packaged policies know."""
AUTHORITY_DAYS = 90
LOOPBACK_NAMES = ("localhost",)
LOOPBACK_ADDRESSES = ("127.0.0.1", "::1")
_CLOCK_SKEW = dt.timedelta(minutes=5)


class AuthorityError(Exception):
    """The folder cannot be used; its sentence says what to do."""


class Authority:
    """
    Issues certificates.

    Args:
        certificate: The authority's own.
        key: Its private key.
    """

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key

    @classmethod
    def new(cls, name: str, *, now: dt.datetime, lifetime: dt.timedelta) -> Authority:
        """Make an authority that can issue certificates, but no further authorities."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(name)
        certificate = (
            _builder(subject, subject, key.public_key(), now=now, lifetime=lifetime)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @classmethod
    def read(cls, folder: Path) -> Authority:
        """
        Read the authority of a folder.

        Raises:
            AuthorityError: If there is none.
        """
        try:
            certificate = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
            key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
        except (OSError, ValueError, TypeError):
            raise _no_authority(folder) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise _no_authority(folder)
        return cls(certificate, key)

    @property
    def pem(self) -> bytes:
        """The authority's certificate."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def write(self, folder: Path) -> None:
        """Keep the authority, its private key included."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(folder / "ca.key", _key_pem(self._key), private=True)
        _write(folder / "ca.crt", self.pem)

    def issue(
        self,
        folder: Path,
        names: Sequence[x509.GeneralName],
        *,
        common_name: str,
        now: dt.datetime,
        lifetime: dt.timedelta,
    ) -> None:
        """
        Issue a certificate, over an earlier one if there is one; it ends with the authority's.

        Args:
            folder: Gets `tls.crt`, `tls.key` and `ca.crt`.
            names: What it is for.
            common_name: Its name for people.
            now: The time.
            lifetime: How long it is valid.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        left = self._certificate.not_valid_after_utc - now
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            _builder(
                _name(common_name),
                self._certificate.subject,
                key.public_key(),
                now=now,
                lifetime=min(lifetime, left),
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(folder / "tls.key", _key_pem(key), private=True)
        _write(folder / "tls.crt", certificate.public_bytes(serialization.Encoding.PEM))
        _write(folder / "ca.crt", self.pem)


def make_trial(
    folder: Path,
    *,
    now: dt.datetime,
    lifetime: dt.timedelta,
    identities: Sequence[str] = IDENTITIES,
    names: Sequence[str] = (),
) -> None:
    """
    Make an authority, and a certificate for each identity.

    Args:
        folder: Gets all of them; it must be missing or empty.
        now: The time.
        lifetime: How long the identities' certificates are valid.
        identities: Who they are for.
        names: Further DNS names under which the services are reached.

    Raises:
        AuthorityError: If there is something in the folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AuthorityError(
            f"{folder} is not empty and was not touched: certificates in use would be lost. Name "
            "another folder, or renew those in it by ownkey certs renew."
        )
    authority = Authority.new(
        "Ownkey trial authority", now=now, lifetime=dt.timedelta(days=AUTHORITY_DAYS)
    )
    authority.write(folder)
    for identity in identities:
        _issue_identity(authority, folder, identity, now=now, lifetime=lifetime, names=names)


def renew_trial(folder: Path, *, now: dt.datetime, lifetime: dt.timedelta) -> Sequence[str]:
    """
    Issue every identity's certificate anew, for the names it has; the authority stays.

    Returns:
        The identities.

    Raises:
        AuthorityError: If there is no authority, or it has ended.
    """
    authority = Authority.read(folder)
    found = sorted(path.parent.name for path in folder.glob("*/tls.crt"))
    if not found:
        raise _no_authority(folder)
    for identity in found:
        old = x509.load_pem_x509_certificate((folder / identity / "tls.crt").read_bytes())
        names = old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        authority.issue(
            folder / identity, list(names), common_name=identity, now=now, lifetime=lifetime
        )
    return found


def loopback_names() -> list[x509.GeneralName]:
    """Give the names of this machine to itself."""
    return [
        *(x509.DNSName(name) for name in LOOPBACK_NAMES),
        *(x509.IPAddress(ipaddress.ip_address(address)) for address in LOOPBACK_ADDRESSES),
    ]


def _issue_identity(
    authority: Authority,
    folder: Path,
    identity: str,
    *,
    now: dt.datetime,
    lifetime: dt.timedelta,
    names: Sequence[str],
) -> None:
    authority.issue(
        folder / identity,
        [
            x509.UniformResourceIdentifier(f"spiffe://{TRUST_DOMAIN}/{identity}"),
            *(x509.DNSName(name) for name in (identity, *names)),
            *loopback_names(),
        ],
        common_name=identity,
        now=now,
        lifetime=lifetime,
    )


def _no_authority(folder: Path) -> AuthorityError:
    return AuthorityError(
        f"{folder} holds no authority made by ownkey certs init; name the folder that does."
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    *,
    now: dt.datetime,
    lifetime: dt.timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write(path: Path, content: bytes, *, private: bool = False) -> None:
    """Put a file in place whole: readers see the old one or the new one."""
    unfinished = path.with_name(f".{path.name}.new")
    unfinished.unlink(missing_ok=True)
    mode = 0o600 if private else 0o644
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
    unfinished.replace(path)
