"""Files of texts for the tasks that read them."""

import json

import pytest


@pytest.fixture
def written(tmp_path):
    """written(lines, name): the path of a file with these lines, as JSON unless they are text."""

    def written(lines, name="train.jsonl"):
        path = tmp_path / name
        path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
        return str(path)

    return written
