"""What a server's verified certificate must not be, though OpenSSL lets it. Pure."""

from cryptography import x509
from cryptography.exceptions import InvalidSignature


def unfit_untrusted(der: bytes) -> str:
    """Why a certificate that OpenSSL has verified is not taken for a server's; empty when it is.

    RFC 5280 section 4.2.1.9 keeps CAs and servers apart: the key of a CA signs certificates, and one that also
    answers connections is within reach of whoever takes the server. Only a self-signed one passes, since it is
    itself among the trusted.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return ""
    except ValueError:
        return "the server's certificate cannot be read"
    if not constraints.ca or _self_signed(certificate):
        return ""
    return "the server's certificate is a CA's"


def _self_signed(certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(certificate)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True
