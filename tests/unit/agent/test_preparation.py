"""What a set-up that failed said last."""

from pathlib import Path

from microagent.agent.preparation import last_lines


def test_the_words_of_an_earlier_set_up_are_not_those_of_this_one(tmp_path: Path) -> None:
    log = tmp_path / "output.log"
    failed = "microagent: setup command 1 of 2 failed with 9"
    log.write_text(f"one\n{failed}\n")
    assert last_lines(log) == ["one", failed]
    log.write_text(f"one\n{failed}\ntwo\nthree\n{failed}\n")
    assert last_lines(log) == ["two", "three", failed]
    log.write_text("".join(f"{n}\n" for n in range(5000)) + f"{failed}\n")
    assert last_lines(log) == [*map(str, range(4991, 5000)), failed]


def test_what_comes_late_from_the_other_stream_hides_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log"
    failed = "microagent: setup command 1 of 2 failed with 9"
    log.write_text(f"before\n{failed}\n{failed}\ncoloured\n")
    assert last_lines(log) == [failed, "coloured"]
