"""Guests: what runs in a workspace.

In: an image (a name, a rootfs directory, an OCI layout), a command, a tap's descriptor. Out: a running microVM
(`qemu.Guest`), its output as it comes, and the exit code of its command. Never: decides about traffic, makes
network objects, mounts or executes anything of a guest's on the host.

Start reading at `qemu.start_guest`; `bootdisk` is what the guest's init is told, `image` where its root comes
from, `control` how it reports back. The other side of all that is vm_fixtures/init.
"""
