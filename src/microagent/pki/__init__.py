"""The certificates that a workspace's guest is shown in the place of the real ones.

In: a workspace's name, a host name, the time. Out: PEM, for the store (`create_ca`) and for OpenSSL
(`Issuer.leaf`). Never: a file, a cache, a wildcard, a certificate that outlives its CA. Whether a leaf may
be made is decided elsewhere, and only after the upstream's own certificate was verified.

Start reading at `ca`.
"""
