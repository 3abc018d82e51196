import subprocess

from microagent.guests.trust import subject_hash


def test_the_hash_is_openssls_own(ca_pem: bytes) -> None:
    command = ["openssl", "x509", "-noout", "-subject_hash"]
    told = subprocess.run(command, input=ca_pem, check=True, capture_output=True).stdout
    assert subject_hash(ca_pem) == told.decode().strip()
