"""Names as people write them: UTS-46, of which only case and composition are used."""

import subprocess
import sys

import pytest

from microagent.errors import Malformed
from microagent.policy.names import ascii_name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("API.ok.test.", "api.ok.test"),
        ("bücher.test", "xn--bcher-kva.test"),
        ("BÜCHER.Test", "xn--bcher-kva.test"),
        ("bu\u0308cher.test", "xn--bcher-kva.test"),
        ("xn--bcher-kva.test", "xn--bcher-kva.test"),
        ("\u212aa.test", "ka.test"),  # the Kelvin sign is a K, by composition
        ("XN--BCHER-KVA.test", "xn--bcher-kva.test"),
        ("straße.test", "xn--strae-oqa.test"),
        ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
        ("ΟΔΟΣ.test", "xn--pxavbq.test"),
    ],
)
def test_canonical(text: str, name: str) -> None:
    assert ascii_name(text) == name


@pytest.mark.parametrize(
    "text",
    [
        "ｅxample.test",  # full width
        "exa\u00admple.test",  # soft hyphen
        "example\u3002test",  # ideographic full stop
        "example\uff0etest",
        "a\u200db.test",  # zero width joiner
        "a\u200b.test",
        "ﬁle.test",  # ligature
        "xn--a.test",  # not an A-label
        "xn--\u00fc.test",
        "xn--zzzzzz99999.test",
        "\ud800.test",
        "ü..test",
        "ü_b!.test",
        "ü" * 300 + ".test",
        "ü" * 60 + ".test",
        "\u0300a.test",  # begins with a combining mark
        "１２７.0.0.1",
        "ü.1",
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(Malformed):
        ascii_name(text)


def test_what_it_would_be_read_as_is_said() -> None:
    with pytest.raises(Malformed, match=r"UTS-46 reads 'example\.test'"):
        ascii_name("ｅxample.test")


def test_matching_pays_for_no_tables() -> None:
    """The mediator imports these; idna, YAML and the public suffix list must stay out."""
    code = (
        "import sys, microagent.policy.stored, microagent.decision.engine, microagent.decision.leases;"
        "sys.exit(bool({'idna', 'yaml', 'publicsuffixlist'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
