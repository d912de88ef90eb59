"""What the README shows is what there is."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_the_child_of_the_readme_is_the_example_that_is_run():
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    assert code in (ROOT / "examples" / "child.py").read_text()


def test_every_file_the_readme_points_to_exists():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    assert [link for link in links if not link.startswith("http") and not (ROOT / link).exists()] == []


def test_a_line_of_the_docs_can_be_copied_whole():
    """What explains a command is a comment, and no prompt stands before it."""
    command = re.compile(r"(\$ .*)|((\.venv/bin/|manage\.py |evodb ).*)")
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for block in re.findall(r"^```[^\n]*\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            for line in filter(command.fullmatch, block.splitlines()):
                assert not line.startswith("$ "), f"{page.name}: {line}"
                assert not re.search(r"\S {3,}(?!#)\S", line), f"{page.name}: {line}"


def test_every_make_target_the_readme_names_exists():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make (\w+)", README, re.MULTILINE)) <= targets
