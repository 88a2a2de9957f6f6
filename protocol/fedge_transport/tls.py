"""The TLS side of a connection: 1.3 or nothing, the broker's name checked, our certificate shown."""

import ssl

from fedge_transport.settings import ConnectionSettings


def client_context(settings: ConnectionSettings) -> ssl.SSLContext | None:
    """The context for one connection, read from the files anew so that a renewed certificate is taken up; None: no TLS.

    Raises:
        OSError: a file is missing or unreadable; `ssl.SSLError`, a kind of it, when one is no certificate or key.
    """
    if settings.ca_file is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cafile=settings.ca_file)
    if settings.cert_file is not None:
        context.load_cert_chain(settings.cert_file, settings.key_file)
    return context
