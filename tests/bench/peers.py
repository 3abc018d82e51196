"""The peers of the TLS figures, each set up as its manual says, with one worker, in the rig's host namespace."""

import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from tests.bench.rig import CLIENT, NAME, UPSTREAM, Rig

from microagent.host import nft

_PORT: Final = 8443
_SQUID_PORT: Final = 3128
# mitmproxy pins versions that nothing else here should be held to.
_MITMPROXY: Final = Path("/var/cache/microagent/bench/mitmproxy")


@contextmanager
def peer(rig: Rig, name: str) -> Iterator[None]:
    """The peer `name` between client and upstream; "routed" is nobody."""
    with ExitStack() as undo:
        if name != "routed":
            _PEERS[name](rig, undo)
            # squid 5 stops accepting when the first connection was not redirected: its other port says it is there.
            rig.wait(rig.host, "127.0.0.1", _SQUID_PORT if name == "squid" else _PORT)
            rules = (
                "table ip bench { chain in { type nat hook prerouting priority dstnat; "
                f"ip saddr {CLIENT} tcp dport 443 redirect to :{_PORT}; }}; }}"
            )
            rig.host.run(lambda: nft.apply(rules))
            undo.callback(rig.host.run, lambda: nft.apply("delete table ip bench"))
        yield


def _haproxy(rig: Rig, undo: ExitStack) -> None:
    config = rig.directory / "haproxy.cfg"
    config.write_text(f"""
global
    nbthread 1
    maxconn 4096
defaults
    mode tcp
    option splice-auto
    timeout connect 10s
    timeout client 60s
    timeout server 60s
frontend tls
    bind :{_PORT}
    tcp-request inspect-delay 5s
    tcp-request content accept if {{ req_ssl_sni -i {NAME} }}
    tcp-request content reject if {{ req_ssl_hello_type 1 }}
    default_backend upstream
backend upstream
    server upstream {UPSTREAM}:443
""")
    rig.start(undo, rig.host, "haproxy", "-f", str(config))


def _nginx(rig: Rig, undo: ExitStack) -> None:
    config = rig.directory / "stream.conf"
    config.write_text(f"""
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
worker_processes 1;
daemon off;
pid {rig.directory}/stream.pid;
error_log {rig.directory}/stream-error.log;
events {{ worker_connections 4096; }}
stream {{
    map $ssl_preread_server_name $to {{ {NAME} {UPSTREAM}:443; }}
    server {{ listen {_PORT} backlog=4096; ssl_preread on; proxy_pass $to; }}
}}
""")
    rig.start(undo, rig.host, "nginx", "-c", str(config))


def _authority(rig: Rig) -> Path:
    """A CA for interception, key and certificate in one file."""
    both = rig.directory / "intercept.pem"
    if not both.exists():
        subject = ("-subj", "/CN=bench", "-days", "2", "-addext", "basicConstraints=critical,CA:TRUE")
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        files = ("-keyout", str(rig.directory / "i.key"), "-out", str(rig.directory / "i.crt"))
        subprocess.run(["openssl", "req", "-x509", *key, *files, *subject], capture_output=True, check=True)
        both.write_text((rig.directory / "i.key").read_text() + (rig.directory / "i.crt").read_text())
        both.chmod(0o644)
    return both


def _sslsplit(rig: Rig, undo: ExitStack) -> None:
    both = _authority(rig)
    log = rig.directory / "sslsplit-connections.log"
    listen = ("https", "0.0.0.0", str(_PORT))
    rig.start(undo, rig.host, "sslsplit", "-k", str(both), "-c", str(both), "-l", str(log), "-u", "root", *listen)


def _squid(rig: Rig, undo: ExitStack) -> None:
    both = _authority(rig)
    # It gives root up, to Debian's user `proxy`.
    home = rig.directory / "squid"
    home.mkdir()
    generator = "/usr/lib/squid/security_file_certgen"
    database = home / "certificates"
    subprocess.run([generator, "-c", "-s", str(database), "-M", "16MB"], capture_output=True, check=True)
    subprocess.run(["chown", "-R", "proxy:", str(home)], check=True)
    config = rig.directory / "squid.conf"
    config.write_text(f"""
http_port 127.0.0.1:{_SQUID_PORT}
https_port {_PORT} intercept ssl-bump tls-cert={both} generate-host-certificates=on
sslcrtd_program {generator} -s {database} -M 16MB
tls_outgoing_options cafile={rig.ca}
acl step1 at_step SslBump1
ssl_bump peek step1
ssl_bump bump all
http_access allow all
cache deny all
dns_nameservers {UPSTREAM}
pid_filename {home}/squid.pid
access_log stdio:{home}/access.log
cache_log {home}/cache.log
coredump_dir {home}
shutdown_lifetime 1 seconds
""")
    rig.start(undo, rig.host, "squid", "-N", "-f", str(config))


def _mitmproxy(rig: Rig, undo: ExitStack) -> None:
    program = _MITMPROXY / "bin" / "mitmdump"
    if not program.exists():
        venv.create(_MITMPROXY, with_pip=True)
        pip = [str(_MITMPROXY / "bin" / "python"), "-m", "pip", "install", "--quiet", "mitmproxy>=11"]
        subprocess.run(pip, check=True, stdout=sys.stderr)
    options = (f"ssl_verify_upstream_trusted_ca={rig.ca}", "stream_large_bodies=1", f"confdir={rig.directory}/mitm")
    flags = [word for option in options for word in ("--set", option)]
    rig.start(undo, rig.host, str(program), "-q", "--mode", "transparent", "--listen-port", str(_PORT), *flags)


_PEERS: Final[dict[str, Callable[[Rig, ExitStack], None]]] = {
    "haproxy": _haproxy,
    "nginx stream": _nginx,
    "sslsplit": _sslsplit,
    "squid": _squid,
    "mitmproxy": _mitmproxy,
}
