# SPDX-License-Identifier: Apache-2.0
"""
Mutual TLS: what gRPC and HTTP need of a process's certificate, each time as the files have it.

TLS 1.2 at least, 1.3 wherever the other side speaks it. A server looks at its files at every
handshake, so a new certificate, and a new set of trusted authorities, serves the next connection;
those that stand go on until the server's maximum connection age ends them.
"""

from __future__ import annotations

import contextlib
import ssl
from typing import TYPE_CHECKING

import grpc

if TYPE_CHECKING:
    from services.shared.certificates import Certificates, Material, TlsFiles


def server_credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """
    Return what a gRPC server listens with: callers must show a certificate it trusts.

    See https://grpc.github.io/grpc/python/grpc.html#grpc.dynamic_ssl_server_credentials
    """

    def configuration() -> grpc.ServerCertificateConfiguration:
        material = certificates.current()
        return grpc.ssl_server_certificate_configuration(
            [(material.key, material.certificate)], root_certificates=material.ca
        )

    return grpc.dynamic_ssl_server_credentials(
        configuration(), configuration, require_client_authentication=True
    )


def channel_credentials(material: Material) -> grpc.ChannelCredentials:
    """Return what a gRPC channel connects with; it is made anew when the files change."""
    return grpc.ssl_channel_credentials(
        root_certificates=material.ca,
        private_key=material.key,
        certificate_chain=material.certificate,
    )


def http_server_context(certificates: Certificates) -> ssl.SSLContext:
    """
    Return what an HTTP server listens with: a caller's certificate is checked if one is shown.

    Callers without one must show a token, because official SDKs send only that.
    """
    made: dict[Material, ssl.SSLContext] = {}

    def newest() -> ssl.SSLContext:
        material = certificates.current()
        if material not in made:
            context = _context(material, certificates.files)
            made.clear()
            made[material] = context
        return made[material]

    def renew(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        # Called at every handshake, whether or not the caller names a host. Files that changed
        # again meanwhile are read at the next one.
        with contextlib.suppress(ssl.SSLError, OSError):
            connection.context = newest()

    listening = _context(certificates.current(), certificates.files)
    listening.sni_callback = renew
    return listening


def _context(material: Material, files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(cadata=material.ca.decode())
    context.load_cert_chain(files.certificate, files.key)
    return context
