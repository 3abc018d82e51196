"""The parent of all mediators: a small process with everything loaded, which only forks.

How this works: loading Python, OpenSSL's roots and our own modules takes a third of a second and some twenty
megabytes. This process pays that once; each mediator is a fork that shares those pages and costs milliseconds. It
has one thread and no event loop, so forking it is safe. It serves one agent over the socket on its standard input,
and ends when the agent does. What a mediator is told it hands on unread: a fork is a copy of all that was ever read.
"""

import contextlib
import gc
import os
import signal
import socket
import ssl
import sys
from datetime import UTC, datetime

import dns.rdata
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from microagent.api.control import MediatorSettings, open_letter, receive, send
from microagent.errors import HostError
from microagent.mediator import main as mediator
from microagent.mediator.tls import LeafContexts
from microagent.mediator.upstream import upstream_context
from microagent.pki.ca import Issuer, create_ca
from microagent.pki.server import unfit_untrusted
from microagent.policy.suffixes import registered_domain


def main() -> int:
    """Serve the agent on standard input until it closes it; returns an exit code."""
    line = socket.socket(fileno=os.dup(0))
    first = receive(line)
    if first is None:
        return 0
    context = upstream_context("\n".join(first[0]["upstream_ca"]))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are reaped by the kernel; the agent sees their lines end
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C at the agent's terminal is the agent's to obey
    _load_what_loads_late()
    # What is loaded now is never looked at by the collector again, so that its pages stay shared.
    gc.collect()
    gc.freeze()
    send(line, {"nursery": os.getpid()})
    while (order := receive(line)) is not None:
        _, descriptors = order
        try:
            send(line, {"pid": _fork(line, descriptors, context)})
        except BlockingIOError as error:  # fork(2): the process table is full, or our share of it
            send(line, {"error": error.strerror})
        for fd in descriptors:
            os.close(fd)
    return 0


def _load_what_loads_late() -> None:
    """Some modules are imported when they are first needed, and a mediator can open no file: need them now.

    dnspython does so for each record type, cryptography and the codecs for what a certificate takes; the public
    suffixes are a list in a file.
    """
    dns.rdata.load_all_types()  # type: ignore[no-untyped-call]
    certificate, key = create_ca("nursery", datetime.now(UTC))
    LeafContexts(Issuer(certificate, key), 1, 1).for_name("nursery.test", now=1.0)
    registered_domain("www.nursery.test")
    unfit_untrusted(x509.load_pem_x509_certificate(certificate).public_bytes(Encoding.DER))


def _fork(line: socket.socket, descriptors: list[int], context: ssl.SSLContext) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        line.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        _only_these_descriptors(descriptors)
        told, *descriptors = descriptors
        mediator.run(MediatorSettings.from_message(open_letter(told)), descriptors, context)
        code = 0
    except (HostError, OSError, ValueError, TypeError) as error:
        mediator.report(error)
    finally:
        # Nothing of the nursery's may run in this process: no atexit, no flushing of what it had buffered.
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(code)


def _only_these_descriptors(descriptors: list[int]) -> None:
    """Close everything but standard output and error and what was handed over."""
    keep = sorted({1, 2, *descriptors})
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    low = 1
    for fd in keep:
        os.closerange(max(low, 1), fd)
        low = fd + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX"))


if __name__ == "__main__":
    sys.exit(main())
