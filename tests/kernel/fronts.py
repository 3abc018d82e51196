"""Proxies of other people's, each in front of one of `tests/servers/parsers.py`: a second reader of every byte."""

from contextlib import AbstractContextManager
from pathlib import Path

from tests.kernel.programs import ready

from microagent.demo import world
from microagent.demo.internet import Internet

_NGINX = """
    daemon off; worker_processes 1; pid {room}/nginx.pid; error_log {room}/nginx.log; user root;
    events {{ }}
    http {{
        access_log off; proxy_http_version 1.1; proxy_request_buffering off;
        client_body_temp_path {room}/body; proxy_temp_path {room}/proxy; fastcgi_temp_path {room}/fastcgi;
        uwsgi_temp_path {room}/uwsgi; scgi_temp_path {room}/scgi;
        server {{
            listen {address}:{port};
            location / {{ proxy_pass http://{address}:{behind}; proxy_set_header Host $http_host; }}
        }}
    }}
"""
_HAPROXY = """
global
    maxconn 100
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
frontend front
    bind {address}:{port}
    default_backend back
backend back
    server one {address}:{behind}
"""
_APACHE = """
ServerRoot {room}
PidFile {room}/apache.pid
ErrorLog {room}/apache.log
ServerName front
Listen {address}:{port}
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so
LoadModule proxy_http_module /usr/lib/apache2/modules/mod_proxy_http.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
HttpProtocolOptions Unsafe
ProxyPreserveHost On
ProxyPass / http://{address}:{behind}/
User nobody
Group nogroup
"""
FRONTS = {
    "nginx": (_NGINX, ["nginx", "-e", "{room}/nginx.log", "-c"]),
    "haproxy": (_HAPROXY, ["haproxy", "-db", "-f"]),
    "apache": (_APACHE, ["apache2", "-D", "FOREGROUND", "-f"]),
}


def front(internet: Internet, name: str, room: Path, port: int, behind: int) -> AbstractContextManager[None]:
    """`name` of FRONTS at `world.PROGRAMS`:`port`, which asks `behind`."""
    template, command = FRONTS[name]
    room.chmod(0o755)
    config = room / f"{name}.conf"
    config.write_text(template.format(room=room, address=world.PROGRAMS, port=port, behind=behind))
    return ready(internet, port, *(word.format(room=room) for word in command), str(config))
