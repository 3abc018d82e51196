"""Programs run as somebody who is not root, wherever the checkout is."""


def as_user(uid: int, gid: int, groups: tuple[int, ...] = ()) -> tuple[str, ...]:
    """What goes before a command: setpriv(1).

    The checkout may be where only root can look, as in /root. So the right to read files goes along, and none to write
    or to connect.
    """
    read = "+dac_read_search"
    rights = (f"--inh-caps={read}", f"--ambient-caps={read}", f"--bounding-set=-all,{read}")
    more = f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups"
    return ("setpriv", f"--reuid={uid}", f"--regid={gid}", more, *rights)
